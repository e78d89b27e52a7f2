"""Models: the layers of each, built for a plan's vectors and a number of dense features.

Where a model needs vectors of one dimension and the fields' differ, a layer `vectors` makes them so: by linear maps, or
with `pad` by zeros.
Legend: B rows; V vectors of width D that the fields give (a field of FEATURE gives one a table).
"""

from collections.abc import Sequence

from . import manifest_pb2 as pb
from .nets import DENSE, EMBEDDINGS, FIRST_ORDER, input_widths, width_of
from .plan import vector_dims

BATCHNORM_EPSILON = 1e-5


class _Builder:
    """Appends layers and knows their widths; each method returns the new layer's name."""

    def __init__(self, model: str, inputs: dict[str, int]) -> None:
        self.net, self.known = pb.Net(model=model), dict(inputs)

    def add(self, name: str, *inputs: str, **kind: object) -> str:
        layer = pb.Layer(name=name, inputs=inputs, **kind)  # pyright: ignore[reportArgumentType]  # the kind is a key
        self.net.layers.append(layer)
        self.known[name] = width_of(layer, [self.known[each] for each in inputs])
        return name

    def linear(self, name: str, source: str, outputs: int) -> str:
        return self.add(name, source, linear=pb.Linear(inputs=self.known[source], outputs=outputs))

    def mlp(self, name: str, source: str, hidden: Sequence[int], *, batchnorm: bool, dropout: float) -> str:
        for depth, outputs in enumerate(hidden):
            source = self.linear(f"{name}.{depth}", source, outputs)
            if batchnorm:
                norm = pb.BatchNorm(width=outputs, epsilon=BATCHNORM_EPSILON)
                source = self.add(f"{name}.{depth}.norm", source, batchnorm=norm)
            source = self.add(f"{name}.{depth}.relu", source, activation=pb.Activation(function=pb.RELU))
            if dropout:
                source = self.add(f"{name}.{depth}.dropout", source, dropout=pb.Dropout(probability=dropout))
        return source

    def beside(self, crossed: str, source: str, hidden: Sequence[int], *, batchnorm: bool, dropout: float) -> str:
        """Cross layers and an MLP over `source`, side by side; cross layers alone where the MLP has no layers."""
        if not hidden:
            return crossed
        return self.add(
            "both", crossed, self.mlp("mlp", source, hidden, batchnorm=batchnorm, dropout=dropout), concat=pb.Concat()
        )

    def everything(self, *more: str, name: str = "everything") -> str:
        """Embeddings, `more`, and dense features side by side, [B, width]."""
        sources = [EMBEDDINGS, *more, *([DENSE] if DENSE in self.known else [])]
        return sources[0] if len(sources) == 1 else self.add(name, *sources, concat=pb.Concat())

    def vectors(self, plan: pb.Plan, pad: bool) -> tuple[str, int, int]:
        """The fields' vectors made as wide as the widest of them: their name, V and D; embeddings if all are."""
        dims = [dim for field in plan.fields for dim in vector_dims(field)]
        widest = max(dims, default=0)
        if set(dims) <= {widest}:
            return EMBEDDINGS, len(dims), widest
        return self.add("vectors", EMBEDDINGS, unify=pb.Unify(dims=dims, dim=widest, pad=pad)), len(dims), widest

    def wide(self) -> list[str]:
        """The terms of first order: of the fields, and of dense features."""
        terms = list[str]()
        if FIRST_ORDER in self.known:
            terms.append(self.add("first", FIRST_ORDER, row_sum=pb.RowSum()))
        if DENSE in self.known:
            terms.append(self.linear("dense_first", DENSE, 1))
        return terms

    def logit(self, terms: Sequence[str]) -> pb.Net:
        """The net whose logit is the sum of its terms; the last of them ends in a linear layer or a bias."""
        self.add("logit", *terms, sum=pb.Sum())
        return self.net


def fm(plan: pb.Plan, dense_count: int, *, pad: bool) -> pb.Net:
    """FM (Rendle, ICDM'10): logit = bias + first order + sum over pairs of vectors of their dot product."""
    build = _Builder("fm", input_widths(plan, dense_count))
    vectors, count, dim = build.vectors(plan, pad)
    terms = build.wide()
    pairs = build.add("fm", vectors, fm=pb.FactorizationMachine(vectors=count, dim=dim))
    return build.logit([*terms, build.add("fm.bias", pairs, bias=pb.Bias(width=1))])


def wide_deep(plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float) -> pb.Net:
    """Wide & Deep (Cheng et al., DLRS'16): logit = first order + MLP over all vectors as they are."""
    build = _Builder("wide_deep", input_widths(plan, dense_count))
    terms = build.wide()
    hidden = build.mlp("mlp", build.everything(), mlp, batchnorm=batchnorm, dropout=dropout)
    return build.logit([*terms, build.linear("mlp.out", hidden, 1)])


def deepfm(
    plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float, pad: bool = False
) -> pb.Net:
    """DeepFM (Guo et al., IJCAI'17): logit = first order + factorization machine + MLP over the same vectors.

    Only the factorization machine needs vectors of one dimension; the MLP reads them as they are.
    """
    build = _Builder("deepfm", input_widths(plan, dense_count))
    vectors, count, dim = build.vectors(plan, pad)
    terms = list[str]()
    if plan.first_order:
        terms.append(build.add("first", FIRST_ORDER, row_sum=pb.RowSum()))
    terms.append(build.add("fm", vectors, fm=pb.FactorizationMachine(vectors=count, dim=dim)))
    if dense_count:
        terms.append(build.linear("dense_first", DENSE, 1))
    hidden = build.mlp("mlp", build.everything(name="mlp.input"), mlp, batchnorm=batchnorm, dropout=dropout)
    return build.logit([*terms, build.linear("mlp.out", hidden, 1)])


def nfm(
    plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float, pad: bool = False
) -> pb.Net:
    """NFM (He and Chua, SIGIR'17): logit = first order + MLP over the sum of the products of all pairs of vectors."""
    build = _Builder("nfm", input_widths(plan, dense_count))
    vectors, count, dim = build.vectors(plan, pad)
    terms = build.wide()
    source = build.add("pairs", vectors, bi_interaction=pb.BiInteraction(vectors=count, dim=dim))
    if batchnorm:
        source = build.add("pairs.norm", source, batchnorm=pb.BatchNorm(width=dim, epsilon=BATCHNORM_EPSILON))
    if dropout:
        source = build.add("pairs.dropout", source, dropout=pb.Dropout(probability=dropout))
    if dense_count:
        source = build.add("mlp.input", source, DENSE, concat=pb.Concat())
    hidden = build.mlp("mlp", source, mlp, batchnorm=batchnorm, dropout=dropout)
    return build.logit([*terms, build.linear("mlp.out", hidden, 1)])


def ipnn(
    plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float, pad: bool = False
) -> pb.Net:
    """IPNN (Qu et al., ICDM'16): an MLP over all vectors as they are, the dot products of all pairs, dense features."""
    build = _Builder("ipnn", input_widths(plan, dense_count))
    vectors, count, dim = build.vectors(plan, pad)
    products = build.add("products", vectors, dot=pb.Dot(vectors=count, dim=dim))
    source = build.everything(products, name="mlp.input")
    build.linear("logit", build.mlp("mlp", source, mlp, batchnorm=batchnorm, dropout=dropout), 1)
    return build.net


def autoint(
    plan: pb.Plan,
    dense_count: int,
    *,
    layers: int,
    heads: int,
    width: int,
    mlp: Sequence[int],
    batchnorm: bool,
    dropout: float,
    pad: bool = False,
) -> pb.Net:
    """AutoInt (Song et al., CIKM'19): logit = first order + layers of self-attention between vectors (+ an MLP)."""
    build = _Builder("autoint", input_widths(plan, dense_count))
    source, count, dim = build.vectors(plan, pad)
    terms = build.wide()
    for depth in range(layers):
        kind = pb.Attention(vectors=count, dim=dim, heads=heads, width=width)
        source, dim = build.add(f"attention.{depth}", source, attention=kind), heads * width
    terms.append(build.linear("attention.out", source, 1))
    if mlp:
        hidden = build.mlp("mlp", build.everything(), mlp, batchnorm=batchnorm, dropout=dropout)
        terms.append(build.linear("mlp.out", hidden, 1))
    return build.logit(terms)


def dlrm(
    plan: pb.Plan,
    dense_count: int,
    *,
    bottom: Sequence[int],
    top: Sequence[int],
    batchnorm: bool,
    dropout: float,
    pad: bool = False,
) -> pb.Net:
    """DLRM (Naumov et al., 2019): a bottom MLP over dense features, pairwise dots, a top MLP over both.

    The bottom MLP ends in the vectors' dimension (a layer is added to `bottom` for it). Without dense features the top
    MLP reads the vectors themselves beside their dots.
    """
    build = _Builder("dlrm", input_widths(plan, dense_count))
    source, count, dim = build.vectors(plan, pad)
    vectors, beside = [source], EMBEDDINGS
    if dense_count:
        beside = build.mlp("bottom", DENSE, [*bottom, dim], batchnorm=batchnorm, dropout=dropout)
        vectors = [beside, source]
    dots = build.add("dots", *vectors, dot=pb.Dot(vectors=count + (1 if dense_count else 0), dim=dim))
    source = build.add("top.input", beside, dots, concat=pb.Concat())
    hidden = build.mlp("top", source, top, batchnorm=batchnorm, dropout=dropout)
    build.linear("logit", hidden, 1)
    return build.net


def dnn(plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float) -> pb.Net:
    """A plain MLP over all vectors and dense features, of any dimensions."""
    build = _Builder("dnn", input_widths(plan, dense_count))
    hidden = build.mlp("mlp", build.everything(), mlp, batchnorm=batchnorm, dropout=dropout)
    build.linear("logit", hidden, 1)
    return build.net


def dcn(plan: pb.Plan, dense_count: int, *, cross: int, mlp: Sequence[int], batchnorm: bool, dropout: float) -> pb.Net:
    """DCN (Wang et al., ADKDD'17): `cross` layers and an MLP beside them over all inputs, then one linear layer."""
    build = _Builder("dcn", input_widths(plan, dense_count))
    first = crossed = build.everything()
    for depth in range(cross):
        crossed = build.add(f"cross.{depth}", first, crossed, cross=pb.Cross(width=build.known[first]))
    build.linear("logit", build.beside(crossed, first, mlp, batchnorm=batchnorm, dropout=dropout), 1)
    return build.net


def dcnv2(
    plan: pb.Plan,
    dense_count: int,
    *,
    cross: int,
    rank: int,
    stacked: bool,
    mlp: Sequence[int],
    batchnorm: bool,
    dropout: float,
) -> pb.Net:
    """DCN-v2 (Wang et al., WWW'21): cross layers of a matrix, whole or of a low rank, and an MLP beside or above them.

    Matrices are whole for rank 0, and for a rank of their width or more.
    """
    build = _Builder("dcnv2", input_widths(plan, dense_count))
    first = crossed = build.everything()
    width = build.known[first]
    for depth in range(cross):
        matrix = pb.CrossMatrix(width=width, rank=rank if rank < width else 0)
        crossed = build.add(f"cross.{depth}", first, crossed, cross_matrix=matrix)
    if stacked:
        hidden = build.mlp("mlp", crossed, mlp, batchnorm=batchnorm, dropout=dropout)
    else:
        hidden = build.beside(crossed, first, mlp, batchnorm=batchnorm, dropout=dropout)
    build.linear("logit", hidden, 1)
    return build.net
