"""Laws of models: the layers of each, their widths and weights counted by hand."""

import pytest
from quorem.protos import manifest_pb2 as pb
from quorem.protos import models, nets
from quorem.protos.errors import NetError

INPUTS = {"embeddings": 12, "first_order": 3, "dense": 2}


def plan_of(*dims: int, first_order: bool = True) -> pb.Plan:
    """One field of that dim each; nets read no more of a plan than dims."""
    fields = [pb.Field(feature=f"f{j}", dim=dim) for j, dim in enumerate(dims)]
    return pb.Plan(fields=fields, first_order=[pb.Field(feature=each.feature, dim=1) for each in fields if first_order])


def paired(*dims: int) -> pb.Plan:
    """Fields of FEATURE, of two tables of that dim each."""
    fields = [
        pb.Field(feature=f"f{j}", combine=pb.FEATURE, dim=2 * dim, tables=[pb.Table(dim=dim), pb.Table(dim=dim)])
        for j, dim in enumerate(dims)
    ]
    return pb.Plan(fields=fields)


def layers(net: pb.Net) -> list[tuple[str, str, list[str]]]:
    return [(layer.name, str(layer.WhichOneof("kind")), list(layer.inputs)) for layer in net.layers]


def test_deepfm_counted_by_hand() -> None:
    """3 fields of dim 4, 2 dense features, an MLP of 8 and 5."""
    net = models.deepfm(plan_of(4, 4, 4), 2, mlp=[8, 5], batchnorm=True, dropout=0.5)
    assert layers(net) == [
        ("first", "row_sum", ["first_order"]),
        ("fm", "fm", ["embeddings"]),
        ("dense_first", "linear", ["dense"]),
        ("mlp.input", "concat", ["embeddings", "dense"]),
        ("mlp.0", "linear", ["mlp.input"]),
        ("mlp.0.norm", "batchnorm", ["mlp.0"]),
        ("mlp.0.relu", "activation", ["mlp.0.norm"]),
        ("mlp.0.dropout", "dropout", ["mlp.0.relu"]),
        ("mlp.1", "linear", ["mlp.0.dropout"]),
        ("mlp.1.norm", "batchnorm", ["mlp.1"]),
        ("mlp.1.relu", "activation", ["mlp.1.norm"]),
        ("mlp.1.dropout", "dropout", ["mlp.1.relu"]),
        ("mlp.out", "linear", ["mlp.1.dropout"]),
        ("logit", "sum", ["first", "fm", "dense_first", "mlp.out"]),
    ]
    assert nets.widths(net, nets.input_widths(plan_of(4, 4, 4), 2)) == INPUTS | {
        "first": 1,
        "fm": 1,
        "dense_first": 1,
        "mlp.input": 14,
        **dict.fromkeys(["mlp.0", "mlp.0.norm", "mlp.0.relu", "mlp.0.dropout"], 8),
        **dict.fromkeys(["mlp.1", "mlp.1.norm", "mlp.1.relu", "mlp.1.dropout"], 5),
        "mlp.out": 1,
        "logit": 1,
    }
    norms = {
        f"mlp.{depth}.norm.{role}": (width,)
        for depth, width in enumerate([8, 5])
        for role in ("weight", "bias", "mean", "variance")
    }
    assert nets.weight_shapes(net) == norms | {
        "dense_first.weight": (1, 2),
        "dense_first.bias": (1,),
        "mlp.0.weight": (8, 14),
        "mlp.0.bias": (8,),
        "mlp.1.weight": (5, 8),
        "mlp.1.bias": (5,),
        "mlp.out.weight": (1, 5),
        "mlp.out.bias": (1,),
    }
    assert nets.last_bias(net) == "mlp.out.bias"


def test_dlrm_counted_by_hand() -> None:
    """3 fields of dim 4 and the bottom's vector: 4 vectors, 6 dots; the top reads 4 + 6."""
    net = models.dlrm(plan_of(4, 4, 4, first_order=False), 2, bottom=[7], top=[9], batchnorm=False, dropout=0)
    assert layers(net) == [
        ("bottom.0", "linear", ["dense"]),
        ("bottom.0.relu", "activation", ["bottom.0"]),
        ("bottom.1", "linear", ["bottom.0.relu"]),
        ("bottom.1.relu", "activation", ["bottom.1"]),
        ("dots", "dot", ["bottom.1.relu", "embeddings"]),
        ("top.input", "concat", ["bottom.1.relu", "dots"]),
        ("top.0", "linear", ["top.input"]),
        ("top.0.relu", "activation", ["top.0"]),
        ("logit", "linear", ["top.0.relu"]),
    ]
    known = nets.widths(net, nets.input_widths(plan_of(4, 4, 4, first_order=False), 2))
    assert (known["dots"], known["top.input"], known["logit"]) == (6, 10, 1)
    assert "first_order" not in known
    assert nets.weight_shapes(net) == {
        "bottom.0.weight": (7, 2),
        "bottom.0.bias": (7,),
        "bottom.1.weight": (4, 7),
        "bottom.1.bias": (4,),
        "top.0.weight": (9, 10),
        "top.0.bias": (9,),
        "logit.weight": (1, 9),
        "logit.bias": (1,),
    }
    assert nets.last_bias(net) == "logit.bias"


def test_models_without_dense_features() -> None:
    plan = plan_of(4, 4, 4)
    deep = models.deepfm(plan, 0, mlp=[], batchnorm=False, dropout=0)
    assert layers(deep) == [
        ("first", "row_sum", ["first_order"]),
        ("fm", "fm", ["embeddings"]),
        ("mlp.out", "linear", ["embeddings"]),
        ("logit", "sum", ["first", "fm", "mlp.out"]),
    ]
    dlrm = models.dlrm(plan, 0, bottom=[7], top=[9], batchnorm=False, dropout=0)
    known = nets.widths(dlrm, nets.input_widths(plan, 0))
    assert (known["dots"], known["top.input"]) == (3, 15)
    assert not any(name.startswith("bottom") for name in known)


def test_a_net_that_reads_an_input_the_model_lacks_is_refused() -> None:
    net = models.deepfm(plan_of(4, 4), 2, mlp=[3], batchnorm=False, dropout=0)
    with pytest.raises(NetError, match="dense"):
        nets.widths(net, nets.input_widths(plan_of(4, 4), 0))


PLAIN = {"batchnorm": False, "dropout": 0}


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("dense_count", [0, 2])
def test_models_take_any_dims_and_unify_them_where_vectors_meet(dense_count: int, pad: bool) -> None:
    """Vectors of dims 2, 4 and 4: MLPs and cross layers read the ten numbers as they are, the others 3 x 4."""
    plan, alone = plan_of(2, 4, 4), plan_of(2, 4, 4, first_order=False)
    maps = {"vectors.2.weight": (4, 2), "vectors.2.bias": (4,), "vectors.4.weight": (4, 4), "vectors.4.bias": (4,)}
    many = {"layers": 1, "heads": 1, "width": 2}
    unifying = {
        "fm": models.fm(plan, dense_count, pad=pad),
        "pairs": models.nfm(plan, dense_count, mlp=[3], pad=pad, **PLAIN),
        "products": models.ipnn(alone, dense_count, mlp=[3], pad=pad, **PLAIN),
        "attention.0": models.autoint(plan, dense_count, mlp=[3], pad=pad, **many, **PLAIN),
        "dots": models.dlrm(alone, dense_count, bottom=[], top=[3], pad=pad, **PLAIN),
    }
    deep = models.deepfm(plan, dense_count, mlp=[3], pad=pad, **PLAIN)
    for reader, net in [*unifying.items(), ("fm", deep)]:
        known = {layer.name: layer for layer in net.layers}
        assert known["vectors"].unify == pb.Unify(dims=[2, 4, 4], dim=4, pad=pad)
        assert [layer.name for layer in net.layers if "vectors" in layer.inputs] == [reader]
        assert nets.widths(net, nets.input_widths(plan, dense_count))["vectors"] == 12
        weights = {name: shape for name, shape in nets.weight_shapes(net).items() if name.startswith("vectors.")}
        assert weights == ({} if pad else maps)
    for net in (
        models.wide_deep(plan, dense_count, mlp=[3], **PLAIN),
        models.dnn(alone, dense_count, mlp=[3], **PLAIN),
        models.dcn(alone, dense_count, cross=1, mlp=[3], **PLAIN),
    ):
        assert not any(layer.HasField("unify") for layer in net.layers)
        assert nets.weight_shapes(net)["mlp.0.weight"] == (3, 10 + dense_count)


def test_fields_of_feature_are_unified_table_by_table() -> None:
    net = models.fm(paired(4, 8), 0, pad=False)
    assert net.layers[0].unify == pb.Unify(dims=[4, 4, 8, 8], dim=8)
    assert net.layers[1].fm == pb.FactorizationMachine(vectors=4, dim=8)


def test_fm_counted_by_hand() -> None:
    net = models.fm(plan_of(4, 4, 4), 2, pad=False)
    assert layers(net) == [
        ("first", "row_sum", ["first_order"]),
        ("dense_first", "linear", ["dense"]),
        ("fm", "fm", ["embeddings"]),
        ("fm.bias", "bias", ["fm"]),
        ("logit", "sum", ["first", "dense_first", "fm.bias"]),
    ]
    nets.widths(net, INPUTS)
    shapes = {"dense_first.weight": (1, 2), "dense_first.bias": (1,), "fm.bias.bias": (1,)}
    assert nets.weight_shapes(net) == shapes
    assert nets.last_bias(net) == "fm.bias.bias"
    alone = models.fm(plan_of(4, 4, 4, first_order=False), 0, pad=False)
    assert layers(alone)[-1] == ("logit", "sum", ["fm.bias"])


def test_wide_and_deep_counted_by_hand() -> None:
    net = models.wide_deep(plan_of(4, 4, 4), 2, mlp=[5], batchnorm=True, dropout=0.2)
    assert layers(net) == [
        ("first", "row_sum", ["first_order"]),
        ("dense_first", "linear", ["dense"]),
        ("everything", "concat", ["embeddings", "dense"]),
        ("mlp.0", "linear", ["everything"]),
        ("mlp.0.norm", "batchnorm", ["mlp.0"]),
        ("mlp.0.relu", "activation", ["mlp.0.norm"]),
        ("mlp.0.dropout", "dropout", ["mlp.0.relu"]),
        ("mlp.out", "linear", ["mlp.0.dropout"]),
        ("logit", "sum", ["first", "dense_first", "mlp.out"]),
    ]
    nets.widths(net, INPUTS)
    assert nets.last_bias(net) == "mlp.out.bias"


def test_nfm_counted_by_hand() -> None:
    """Pairs of 3 vectors of dim 4 make 4 numbers; the MLP reads them and 2 dense features."""
    net = models.nfm(plan_of(4, 4, 4), 2, mlp=[5], batchnorm=True, dropout=0.2)
    assert layers(net) == [
        ("first", "row_sum", ["first_order"]),
        ("dense_first", "linear", ["dense"]),
        ("pairs", "bi_interaction", ["embeddings"]),
        ("pairs.norm", "batchnorm", ["pairs"]),
        ("pairs.dropout", "dropout", ["pairs.norm"]),
        ("mlp.input", "concat", ["pairs.dropout", "dense"]),
        ("mlp.0", "linear", ["mlp.input"]),
        ("mlp.0.norm", "batchnorm", ["mlp.0"]),
        ("mlp.0.relu", "activation", ["mlp.0.norm"]),
        ("mlp.0.dropout", "dropout", ["mlp.0.relu"]),
        ("mlp.out", "linear", ["mlp.0.dropout"]),
        ("logit", "sum", ["first", "dense_first", "mlp.out"]),
    ]
    known = nets.widths(net, INPUTS)
    assert (known["pairs"], known["mlp.input"]) == (4, 6)
    bare = models.nfm(plan_of(4, 4, 4), 0, mlp=[5], **PLAIN)
    assert layers(bare)[1:3] == [("pairs", "bi_interaction", ["embeddings"]), ("mlp.0", "linear", ["pairs"])]


def test_ipnn_counted_by_hand() -> None:
    """3 vectors of dim 4: 12 numbers, 3 products, and 2 dense features."""
    net = models.ipnn(plan_of(4, 4, 4, first_order=False), 2, mlp=[5], **PLAIN)
    assert layers(net) == [
        ("products", "dot", ["embeddings"]),
        ("mlp.input", "concat", ["embeddings", "products", "dense"]),
        ("mlp.0", "linear", ["mlp.input"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("logit", "linear", ["mlp.0.relu"]),
    ]
    assert nets.widths(net, INPUTS)["mlp.input"] == 12 + 3 + 2
    assert nets.last_bias(net) == "logit.bias"


def test_autoint_counted_by_hand() -> None:
    """3 vectors of dim 4; 2 heads of width 5 make them as wide as 10, and stay so."""
    net = models.autoint(plan_of(4, 4, 4), 2, layers=2, heads=2, width=5, mlp=[], **PLAIN)
    attention = [
        ("first", "row_sum", ["first_order"]),
        ("dense_first", "linear", ["dense"]),
        ("attention.0", "attention", ["embeddings"]),
        ("attention.1", "attention", ["attention.0"]),
        ("attention.out", "linear", ["attention.1"]),
    ]
    assert layers(net) == [*attention, ("logit", "sum", ["first", "dense_first", "attention.out"])]
    known, shapes = nets.widths(net, INPUTS), nets.weight_shapes(net)
    assert (known["attention.0"], known["attention.1"], known["logit"]) == (30, 30, 1)
    for role in ("query", "key", "value", "residual"):
        assert (shapes[f"attention.0.{role}"], shapes[f"attention.1.{role}"]) == ((10, 4), (10, 10))
    assert nets.last_bias(net) == "attention.out.bias"
    deep = models.autoint(plan_of(4, 4, 4), 2, layers=2, heads=2, width=5, mlp=[7], **PLAIN)
    assert layers(deep) == [
        *attention,
        ("everything", "concat", ["embeddings", "dense"]),
        ("mlp.0", "linear", ["everything"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("mlp.out", "linear", ["mlp.0.relu"]),
        ("logit", "sum", ["first", "dense_first", "attention.out", "mlp.out"]),
    ]
    assert nets.widths(deep, INPUTS)["everything"] == 14
    assert nets.last_bias(deep) == "mlp.out.bias"


def test_dnn_counted_by_hand() -> None:
    """Fields of dims 4 and 8 and 2 dense features: 14 inputs."""
    plan = plan_of(4, 8, first_order=False)
    net = models.dnn(plan, 2, mlp=[5, 3], batchnorm=True, dropout=0)
    assert layers(net) == [
        ("everything", "concat", ["embeddings", "dense"]),
        ("mlp.0", "linear", ["everything"]),
        ("mlp.0.norm", "batchnorm", ["mlp.0"]),
        ("mlp.0.relu", "activation", ["mlp.0.norm"]),
        ("mlp.1", "linear", ["mlp.0.relu"]),
        ("mlp.1.norm", "batchnorm", ["mlp.1"]),
        ("mlp.1.relu", "activation", ["mlp.1.norm"]),
        ("logit", "linear", ["mlp.1.relu"]),
    ]
    assert nets.widths(net, nets.input_widths(plan, 2))["everything"] == 14
    shapes = nets.weight_shapes(net)
    assert (shapes["mlp.0.weight"], shapes["mlp.1.weight"], shapes["logit.weight"]) == ((5, 14), (3, 5), (1, 3))
    assert nets.last_bias(net) == "logit.bias"
    alone = models.dnn(plan, 0, mlp=[5], batchnorm=False, dropout=0.5)
    assert layers(alone) == [
        ("mlp.0", "linear", ["embeddings"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("mlp.0.dropout", "dropout", ["mlp.0.relu"]),
        ("logit", "linear", ["mlp.0.dropout"]),
    ]


def test_dcn_counted_by_hand() -> None:
    """2 cross layers on 14 inputs beside an MLP of 5: the last layer reads 14 + 5."""
    plan = plan_of(4, 8, first_order=False)
    net = models.dcn(plan, 2, cross=2, mlp=[5], batchnorm=False, dropout=0)
    assert layers(net) == [
        ("everything", "concat", ["embeddings", "dense"]),
        ("cross.0", "cross", ["everything", "everything"]),
        ("cross.1", "cross", ["everything", "cross.0"]),
        ("mlp.0", "linear", ["everything"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("both", "concat", ["cross.1", "mlp.0.relu"]),
        ("logit", "linear", ["both"]),
    ]
    known = nets.widths(net, nets.input_widths(plan, 2))
    assert [known[name] for name in ("everything", "cross.0", "cross.1", "both", "logit")] == [14, 14, 14, 19, 1]
    assert nets.weight_shapes(net) == {
        "cross.0.weight": (14,),
        "cross.0.bias": (14,),
        "cross.1.weight": (14,),
        "cross.1.bias": (14,),
        "mlp.0.weight": (5, 14),
        "mlp.0.bias": (5,),
        "logit.weight": (1, 19),
        "logit.bias": (1,),
    }
    assert nets.last_bias(net) == "logit.bias"


def dcnv2(plan: pb.Plan, dense_count: int, *mlp: int, rank: int = 0, stacked: bool = False) -> pb.Net:
    net = models.dcnv2(plan, dense_count, cross=2, rank=rank, stacked=stacked, mlp=mlp, batchnorm=False, dropout=0)
    nets.widths(net, nets.input_widths(plan, dense_count))
    return net


def test_dcnv2_beside_an_mlp_counted_by_hand() -> None:
    plan = plan_of(4, 8, first_order=False)
    net = dcnv2(plan, 0, 5, rank=3)
    assert layers(net) == [
        ("cross.0", "cross_matrix", ["embeddings", "embeddings"]),
        ("cross.1", "cross_matrix", ["embeddings", "cross.0"]),
        ("mlp.0", "linear", ["embeddings"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("both", "concat", ["cross.1", "mlp.0.relu"]),
        ("logit", "linear", ["both"]),
    ]
    crosses = {f"cross.{depth}.{role}": (12, 3) for depth in (0, 1) for role in ("u", "v")}
    assert nets.weight_shapes(net) == crosses | {
        "cross.0.bias": (12,),
        "cross.1.bias": (12,),
        "mlp.0.weight": (5, 12),
        "mlp.0.bias": (5,),
        "logit.weight": (1, 17),
        "logit.bias": (1,),
    }


def test_dcnv2_below_an_mlp_counted_by_hand() -> None:
    plan = plan_of(4, 8, first_order=False)
    net = dcnv2(plan, 2, 5, stacked=True)
    assert layers(net) == [
        ("everything", "concat", ["embeddings", "dense"]),
        ("cross.0", "cross_matrix", ["everything", "everything"]),
        ("cross.1", "cross_matrix", ["everything", "cross.0"]),
        ("mlp.0", "linear", ["cross.1"]),
        ("mlp.0.relu", "activation", ["mlp.0"]),
        ("logit", "linear", ["mlp.0.relu"]),
    ]
    shapes = nets.weight_shapes(net)
    assert (shapes["cross.0.weight"], shapes["cross.1.weight"]) == ((14, 14), (14, 14))
    assert (shapes["mlp.0.weight"], shapes["logit.weight"]) == ((5, 14), (1, 5))
    assert nets.last_bias(net) == "logit.bias"


def test_cross_layers_without_an_mlp_are_read_alone() -> None:
    plan = plan_of(4, 4, first_order=False)
    deep = models.dcn(plan, 0, cross=2, mlp=[], batchnorm=False, dropout=0)
    for net in (deep, dcnv2(plan, 0), dcnv2(plan, 0, stacked=True)):
        assert layers(net)[-1] == ("logit", "linear", ["cross.1"])
        assert len(net.layers) == 3


def test_a_rank_of_the_width_or_more_is_a_whole_matrix() -> None:
    plan = plan_of(4, 4, first_order=False)
    for rank, shape in ((7, {"cross.0.u": (8, 7)}), (8, {"cross.0.weight": (8, 8)}), (9, {"cross.0.weight": (8, 8)})):
        assert shape.items() <= nets.weight_shapes(dcnv2(plan, 0, rank=rank)).items()


def test_a_field_of_feature_gives_a_vector_for_each_of_its_tables() -> None:
    """2 fields of 2 tables and, for dlrm, the dense features: 4 and 5 vectors of dim 4."""
    plan = paired(4, 4)
    deep = models.deepfm(plan, 0, mlp=[], batchnorm=False, dropout=0)
    assert deep.layers[0].fm == pb.FactorizationMachine(vectors=4, dim=4)
    dlrm = models.dlrm(plan, 2, bottom=[], top=[], batchnorm=False, dropout=0)
    known = nets.widths(dlrm, nets.input_widths(plan, 2))
    assert (known["embeddings"], known["bottom.0"], known["dots"]) == (16, 4, 10)
    mixed = pb.Plan(fields=[*plan.fields, *plan_of(4).fields])
    assert models.dlrm(mixed, 0, bottom=[], top=[], batchnorm=False, dropout=0).layers[0].dot.vectors == 5


def test_one_vector_is_not_paired() -> None:
    with pytest.raises(NetError, match=r"two vectors.*second feature"):
        models.ipnn(plan_of(4), 2, mlp=[3], batchnorm=False, dropout=0)
    with pytest.raises(NetError, match=r"two vectors.*second feature"):
        models.dlrm(plan_of(4), 0, bottom=[], top=[], batchnorm=False, dropout=0)
    assert models.dlrm(paired(4), 0, bottom=[], top=[], batchnorm=False, dropout=0)
