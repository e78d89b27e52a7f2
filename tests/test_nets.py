"""Laws of nets: the layers of each model counted by hand, the oracle's layers computed by hand, every refusal."""

import numpy as np
import oracle
import pytest
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets
from quorem.protos.errors import NetError

INPUTS = {"embeddings": 12, "first_order": 3, "dense": 2}


def plan_of(*dims: int, first_order: bool = True) -> pb.Plan:
    """One field of that dim each; nets read no more of a plan than dims."""
    fields = [pb.Field(feature=f"f{j}", dim=dim) for j, dim in enumerate(dims)]
    return pb.Plan(fields=fields, first_order=[pb.Field(feature=each.feature, dim=1) for each in fields if first_order])


def layers(net: pb.Net) -> list[tuple[str, str, list[str]]]:
    return [(layer.name, str(layer.WhichOneof("kind")), list(layer.inputs)) for layer in net.layers]


# ---------------------------------------------------------------- models


def test_deepfm_counted_by_hand() -> None:
    """3 fields of dim 4, 2 dense features, an MLP of 8 and 5."""
    net = nets.deepfm(plan_of(4, 4, 4), 2, mlp=[8, 5], batchnorm=True, dropout=0.5)
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
    net = nets.dlrm(plan_of(4, 4, 4, first_order=False), 2, bottom=[7], top=[9], batchnorm=False, dropout=0)
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
    deep = nets.deepfm(plan, 0, mlp=[], batchnorm=False, dropout=0)
    assert layers(deep) == [
        ("first", "row_sum", ["first_order"]),
        ("fm", "fm", ["embeddings"]),
        ("mlp.out", "linear", ["embeddings"]),
        ("logit", "sum", ["first", "fm", "mlp.out"]),
    ]
    dlrm = nets.dlrm(plan, 0, bottom=[7], top=[9], batchnorm=False, dropout=0)
    known = nets.widths(dlrm, nets.input_widths(plan, 0))
    assert (known["dots"], known["top.input"]) == (3, 15)
    assert not any(name.startswith("bottom") for name in known)


@pytest.mark.parametrize("model", ["deepfm", "dlrm"])
def test_models_need_one_dimension(model: str) -> None:
    build = {
        "deepfm": lambda plan: nets.deepfm(plan, 0, mlp=[], batchnorm=False, dropout=0),
        "dlrm": lambda plan: nets.dlrm(plan, 0, bottom=[], top=[], batchnorm=False, dropout=0),
    }[model]
    with pytest.raises(NetError, match=r"dims \[4, 8\]"):
        build(plan_of(4, 8))


# ---------------------------------------------------------------- refusals


def layer(name: str, *inputs: str, **kind: object) -> pb.Layer:
    return pb.Layer(name=name, inputs=inputs, **kind)


FIRST = layer("logit", "embeddings", row_sum=pb.RowSum())


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (layer("", "dense", row_sum=pb.RowSum()), "names of their own"),
        (layer("dense", "embeddings", row_sum=pb.RowSum()), "names of their own"),
        (layer("logit", "dense", row_sum=pb.RowSum()), "names of their own"),
        (layer("a\x1b[2J", "dense", row_sum=pb.RowSum()), "printable"),
        (layer("a", "later", row_sum=pb.RowSum()), "earlier layers"),
        (layer("a", "a", row_sum=pb.RowSum()), "earlier layers"),
        (layer("a", row_sum=pb.RowSum()), "earlier layers"),
        (layer("a", "dense", "first_order", sum=pb.Sum()), "one width"),
        (layer("a", "dense", "dense", row_sum=pb.RowSum()), "one input"),
        (layer("a", "dense", linear=pb.Linear(inputs=3, outputs=1)), "input's width"),
        (layer("a", "dense", linear=pb.Linear(inputs=2)), "outputs"),
        (layer("a", "dense", batchnorm=pb.BatchNorm(width=3, epsilon=1e-5)), "input's width"),
        (layer("a", "dense", batchnorm=pb.BatchNorm(width=2)), "epsilon"),
        (layer("a", "dense", batchnorm=pb.BatchNorm(width=2, epsilon=float("nan"))), "epsilon"),
        (layer("a", "dense", activation=pb.Activation()), "function"),
        (layer("a", "dense", dropout=pb.Dropout(probability=1)), r"\[0, 1\)"),
        (layer("a", "dense", dropout=pb.Dropout(probability=float("nan"))), r"\[0, 1\)"),
        (layer("a", "embeddings", fm=pb.FactorizationMachine(vectors=2, dim=4)), "vectors` x `dim"),
        (layer("a", "embeddings", "dense", dot=pb.Dot(vectors=3, dim=4)), "vectors` x `dim"),
        (layer("a", "embeddings", dot=pb.Dot(vectors=1, dim=12)), "two vectors"),
        (layer("a", "dense"), "kind"),
        (layer("a", "dense", activation=pb.Activation(function=pb.RELU)), "last layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_net_that_does_not_fit_together_is_refused(broken: pb.Layer, rule: str) -> None:
    with pytest.raises(NetError, match=rule) as caught:
        nets.widths(pb.Net(model="odd", layers=[FIRST, broken]), INPUTS)
    assert caught.value.where == ("net 'odd'" if rule == "last layer" else f"layer {broken.name!r}")


def test_a_layer_that_nothing_reads_is_refused() -> None:
    with pytest.raises(NetError, match="is read"):
        nets.widths(pb.Net(layers=[FIRST, layer("out", "dense", row_sum=pb.RowSum())]), INPUTS)


def test_an_empty_net_is_refused() -> None:
    with pytest.raises(NetError, match="last layer"):
        nets.widths(pb.Net(), INPUTS)


def test_a_net_that_reads_an_input_the_model_lacks_is_refused() -> None:
    net = nets.deepfm(plan_of(4, 4), 2, mlp=[3], batchnorm=False, dropout=0)
    with pytest.raises(NetError, match="dense"):
        nets.widths(net, nets.input_widths(plan_of(4, 4), 0))


@pytest.mark.parametrize(
    "last",
    [
        [layer("out", "dense", linear=pb.Linear(inputs=2, outputs=1)), layer("p", "out", activation=pb.Activation())],
        [FIRST],
        [layer("wide", "dense", linear=pb.Linear(inputs=2, outputs=2)), layer("all", "wide", sum=pb.Sum())],
    ],
    ids=["activation after it", "no linear layer", "two outputs"],
)
def test_a_net_without_a_last_bias_is_refused(last: list[pb.Layer]) -> None:
    with pytest.raises(NetError, match="linear layer of one output"):
        nets.last_bias(pb.Net(layers=last))


# ---------------------------------------------------------------- the oracle, by hand


def evaluate(
    one: pb.Layer, *sources: list[list[float]], **weights: list[float] | list[list[float]]
) -> list[list[float]]:
    arrays = {f"{one.name}.{role}": np.array(value) for role, value in weights.items()}
    return oracle.LAYERS[str(one.WhichOneof("kind"))](one, arrays, [np.array(source) for source in sources]).tolist()


def test_every_kind_of_layer_computed_by_hand() -> None:
    three = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]  # vectors (1, 2), (3, 4), (5, 6): dots 11, 17, 39
    assert evaluate(layer("a", dot=pb.Dot(vectors=3, dim=2)), three) == [[11, 17, 39]]
    assert evaluate(layer("a", dot=pb.Dot(vectors=3, dim=2)), [[1.0, 2.0]], [[3.0, 4.0, 5.0, 6.0]]) == [[11, 17, 39]]
    assert evaluate(layer("a", fm=pb.FactorizationMachine(vectors=3, dim=2)), three) == [[11 + 17 + 39]]
    assert evaluate(layer("a", row_sum=pb.RowSum()), three) == [[21]]
    assert evaluate(layer("a", sum=pb.Sum()), [[1.0, 2.0]], [[3.0, 4.0]]) == [[4, 6]]
    assert evaluate(layer("a", concat=pb.Concat()), [[1.0, 2.0]], [[3.0]]) == [[1, 2, 3]]
    assert evaluate(layer("a", dropout=pb.Dropout(probability=0.9)), [[1.0, 2.0]]) == [[1, 2]]
    assert evaluate(layer("a", activation=pb.Activation(function=pb.RELU)), [[-1.0, 2.0]]) == [[0, 2]]
    assert evaluate(layer("a", activation=pb.Activation(function=pb.SIGMOID)), [[0.0, -1e9, 1e9]]) == [[0.5, 0, 1]]
    linear = layer("a", linear=pb.Linear(inputs=2, outputs=2))
    assert evaluate(linear, [[1.0, 2.0]], weight=[[3.0, 4.0], [5.0, 6.0]], bias=[0.5, -1.0]) == [[11.5, 16]]
    norm = layer("a", batchnorm=pb.BatchNorm(width=1, epsilon=1.0))
    assert evaluate(norm, [[7.0]], weight=[10.0], bias=[1.0], mean=[1.0], variance=[3.0]) == [[31]]  # 6 / 2 * 10 + 1


def test_the_factorization_machine_is_rendles_formula() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6, 4))
    found = oracle.LAYERS["fm"](layer("a", fm=pb.FactorizationMachine(vectors=6, dim=4)), {}, [vectors.reshape(50, 24)])
    expected = (vectors.sum(axis=1) ** 2 - (vectors**2).sum(axis=1)).sum(axis=1) / 2
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)


def test_bags_compose_first_and_pool_then() -> None:
    """Ids 1 and 5 of 6 on tables (1, 3) and (3, 2): rows (1, 0) and (2, 1); the products, then their sum or mean."""
    tables = {"embedding.tags.0": np.array([[1.0], [2.0], [3.0]]), "embedding.tags.1": np.array([[10.0], [100.0]])}
    raw = np.array([[1, 5, oracle.MISSING], [5, oracle.MISSING, oracle.MISSING], [oracle.MISSING] * 3])
    expected = {
        (pb.MULT, pb.SUM): [20 + 300, 300, 0],
        (pb.MULT, pb.MEAN): [160, 300, 0],
        (pb.ADD, pb.SUM): [12 + 103, 103, 0],
        (pb.CONCAT, pb.SUM): [[5, 110], [3, 100], [0, 0]],
    }
    for (combine, pooling), vectors in expected.items():
        feature = pb.Feature(name="tags", id=pb.IdRange(size=5), bag=pb.Bag(max_length=3, pooling=pooling))
        field = pb.Field(feature="tags", combine=combine, dim=2 if combine == pb.CONCAT else 1)
        field.tables.extend([pb.Table(divide=1, rows=3, dim=1), pb.Table(divide=3, rows=2, dim=1)])
        manifest = pb.Manifest(schema=pb.Schema(features=[feature]), plan=pb.Plan(fields=[field]))
        found = oracle.inputs(manifest, tables, raw, np.zeros((3, 0), np.float32))["embeddings"]
        assert found.tolist() == np.reshape(vectors, (3, -1)).tolist()


def test_dense_features_are_transformed_as_the_manifest_says() -> None:
    rules = {
        "plain": pb.Dense(transform=pb.NONE, missing=-1, scale=1),
        "log": pb.Dense(transform=pb.LOG1P, missing=0, scale=1),
        "normal": pb.Dense(transform=pb.STANDARD, missing=7, mean=5, scale=4),
    }
    features = [pb.Feature(name=name, dense=rule) for name, rule in rules.items()]
    features.insert(1, pb.Feature(name="not dense", bucket=pb.Bucket(boundaries=[1])))
    manifest = pb.Manifest(schema=pb.Schema(features=features))
    dense = np.array([[3, 0, np.expm1(2), 13], [np.nan, 0, np.nan, np.nan], [-3, 0, -3, 1]], np.float32)
    found = oracle.inputs(manifest, {}, np.zeros((3, 0), np.int64), dense)["dense"]
    np.testing.assert_allclose(found, [[3, 2, 2], [-1, 0, 0.5], [-3, 0, -1]], rtol=1e-7)
