"""Models: the layers of each, built for a plan's vectors and a number of dense features.

Legend: B rows; V vectors of width D that the fields give (a field of FEATURE gives one a table).
"""

from collections.abc import Sequence

from . import manifest_pb2 as pb
from .errors import NetError
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

    def everything(self) -> str:
        """Embeddings and dense features side by side, [B, width]."""
        if DENSE not in self.known:
            return EMBEDDINGS
        return self.add("everything", EMBEDDINGS, DENSE, concat=pb.Concat())


def _vectors(plan: pb.Plan, model: str, what: str) -> tuple[int, int]:
    """V and D.

    Raises:
        NetError: vectors of several widths.
    """
    dims = [dim for field in plan.fields for dim in vector_dims(field)]
    if len(set(dims)) != 1:
        raise NetError(
            f"{what} needs vectors of one dimension",
            found=f"dims {sorted(set(dims))}",
            where=f"model {model!r}",
            remedy="Give every field the same `dim`",
        )
    return len(dims), dims[0]


def deepfm(plan: pb.Plan, dense_count: int, *, mlp: Sequence[int], batchnorm: bool, dropout: float) -> pb.Net:
    """DeepFM (Guo et al., IJCAI'17): logit = first order + factorization machine + MLP over the same vectors."""
    count, dim = _vectors(plan, "deepfm", "the factorization machine")
    build = _Builder("deepfm", input_widths(plan, dense_count))
    terms = list[str]()
    if plan.first_order:
        terms.append(build.add("first", FIRST_ORDER, row_sum=pb.RowSum()))
    terms.append(build.add("fm", EMBEDDINGS, fm=pb.FactorizationMachine(vectors=count, dim=dim)))
    source = EMBEDDINGS
    if dense_count:
        terms.append(build.linear("dense_first", DENSE, 1))
        source = build.add("mlp.input", EMBEDDINGS, DENSE, concat=pb.Concat())
    hidden = build.mlp("mlp", source, mlp, batchnorm=batchnorm, dropout=dropout)
    terms.append(build.linear("mlp.out", hidden, 1))
    build.add("logit", *terms, sum=pb.Sum())
    return build.net


def dlrm(
    plan: pb.Plan, dense_count: int, *, bottom: Sequence[int], top: Sequence[int], batchnorm: bool, dropout: float
) -> pb.Net:
    """DLRM (Naumov et al., 2019): a bottom MLP over dense features, pairwise dots, a top MLP over both.

    The bottom MLP ends in the vectors' dimension (a layer is added to `bottom` for it). Without dense features the top
    MLP reads the vectors themselves beside their dots.
    """
    count, dim = _vectors(plan, "dlrm", "the dot interaction")
    build = _Builder("dlrm", input_widths(plan, dense_count))
    vectors, beside = [EMBEDDINGS], EMBEDDINGS
    if dense_count:
        beside = build.mlp("bottom", DENSE, [*bottom, dim], batchnorm=batchnorm, dropout=dropout)
        vectors = [beside, EMBEDDINGS]
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
