"""Laws of nets: the oracle's layers computed by hand, their weights, and every refusal."""

import numpy as np
import oracle
import pytest
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets
from quorem.protos.errors import NetError

INPUTS = {"embeddings": 12, "first_order": 3, "dense": 2}


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
        (layer("a", "dense", "dense", cross=pb.Cross(width=3)), "each of its `width`"),
        (layer("a", "dense", "embeddings", cross=pb.Cross(width=2)), "each of its `width`"),
        (layer("a", "dense", cross=pb.Cross(width=2)), "each of its `width`"),
        (layer("a", "dense", "dense", "dense", cross_matrix=pb.CrossMatrix(width=2)), "each of its `width`"),
        (layer("a", "embeddings", "dense", cross_matrix=pb.CrossMatrix(width=12)), "each of its `width`"),
        (layer("a", "dense", "dense", cross_matrix=pb.CrossMatrix(width=2, rank=3)), "rank is at most"),
        (layer("a", "dense", "dense", bias=pb.Bias(width=2)), "one input"),
        (layer("a", "dense", bias=pb.Bias(width=1)), "input's width"),
        (layer("a", "embeddings", bi_interaction=pb.BiInteraction(vectors=2, dim=4)), "vectors` x `dim"),
        (layer("a", "embeddings", attention=pb.Attention(vectors=4, dim=4, heads=1, width=1)), "vectors` x `dim"),
        (layer("a", "embeddings", attention=pb.Attention(vectors=3, dim=4, width=1)), "heads of some width"),
        (layer("a", "embeddings", attention=pb.Attention(vectors=3, dim=4, heads=1)), "heads of some width"),
        (layer("a", "dense", "embeddings", unify=pb.Unify(dims=[2, 12], dim=12)), "one input"),
        (layer("a", "embeddings", unify=pb.Unify(dims=[4, 4], dim=4)), "vectors of `dims`"),
        (layer("a", "embeddings", unify=pb.Unify(dims=[4, 8], dim=4)), "widest"),
        (layer("a", "embeddings", unify=pb.Unify(dims=[4, 8], dim=9, pad=True)), "widest"),
        (layer("a", "embeddings", unify=pb.Unify(dims=[12, 0], dim=12)), "none is empty"),
        (layer("a", "embeddings", unify=pb.Unify(dim=12)), "vectors of `dims`"),
        (layer("a", "dense"), "kind"),
        (layer("a", "dense", "dense"), "kind"),
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


@pytest.mark.parametrize(
    "last",
    [
        [layer("out", "dense", linear=pb.Linear(inputs=2, outputs=1)), layer("p", "out", activation=pb.Activation())],
        [FIRST],
        [layer("wide", "dense", linear=pb.Linear(inputs=2, outputs=2)), layer("all", "wide", sum=pb.Sum())],
        [layer("wide", "dense", bias=pb.Bias(width=2)), layer("all", "wide", sum=pb.Sum())],
    ],
    ids=["activation after it", "no linear layer", "two outputs", "two biases"],
)
def test_a_net_without_a_last_bias_is_refused(last: list[pb.Layer]) -> None:
    with pytest.raises(NetError, match="linear layer of one output"):
        nets.last_bias(pb.Net(layers=last))


def test_the_last_bias_is_that_of_a_linear_layer_or_a_bias() -> None:
    out, bias = layer("out", "dense", linear=pb.Linear(inputs=2, outputs=1)), layer("b", "out", bias=pb.Bias(width=1))
    both = layer("both", "out", "b", sum=pb.Sum())
    assert nets.last_bias(pb.Net(layers=[out])) == nets.last_bias(pb.Net(layers=[out, both])) == "out.bias"
    assert nets.last_bias(pb.Net(layers=[out, bias])) == nets.last_bias(pb.Net(layers=[out, bias, both])) == "b.bias"


def test_weights_of_one_name_are_refused() -> None:
    """A unify's weights have a dim between the layer's name and their own."""
    unify = layer("a", "embeddings", unify=pb.Unify(dims=[4, 8], dim=8))
    with pytest.raises(NetError, match=r"names of their own.*'a\.4\.weight'"):
        nets.weight_shapes(pb.Net(layers=[unify, layer("a.4", "dense", linear=pb.Linear(inputs=2, outputs=1))]))
    assert len(nets.weight_shapes(pb.Net(layers=[unify, layer("a.5", "dense", bias=pb.Bias(width=2))]))) == 5


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
    cross = layer("a", cross=pb.Cross(width=2))  # x . w = 39: 1 x 39 + 0.5 + 3, 2 x 39 - 1 + 4
    assert evaluate(cross, [[1.0, 2.0]], [[3.0, 4.0]], weight=[5.0, 6.0], bias=[0.5, -1.0]) == [[42.5, 81]]
    matrix = layer("a", cross_matrix=pb.CrossMatrix(width=2))  # W x + b = (11.5, 24), times x0, and x
    found = evaluate(matrix, [[1.0, 2.0]], [[3.0, 4.0]], weight=[[1.0, 2.0], [3.0, 4.0]], bias=[0.5, -1.0])
    assert found == [[14.5, 52]]
    low = layer("a", cross_matrix=pb.CrossMatrix(width=2, rank=1))  # W = (3, 4; 6, 8): W x = (25, 50)
    assert evaluate(low, [[1.0, 2.0]], [[3.0, 4.0]], u=[[1.0], [2.0]], v=[[3.0], [4.0]], bias=[0.0, 1.0]) == [[28, 106]]
    norm = layer("a", batchnorm=pb.BatchNorm(width=1, epsilon=1.0))
    assert evaluate(norm, [[7.0]], weight=[10.0], bias=[1.0], mean=[1.0], variance=[3.0]) == [[31]]  # 6 / 2 * 10 + 1


def test_vectors_are_unified_attended_to_and_paired_by_hand() -> None:
    three = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    padded = layer("a", unify=pb.Unify(dims=[1, 3, 1, 1], dim=3, pad=True))
    assert evaluate(padded, three) == [[1, 0, 0, 2, 3, 4, 5, 0, 0, 6, 0, 0]]
    mapped = layer("a", unify=pb.Unify(dims=[1, 2, 1], dim=2))
    maps = {"1.weight": [[2.0], [3.0]], "1.bias": [0.0, 1.0], "2.weight": [[0.0, 1.0], [1.0, 0.0]], "2.bias": [0.5, 0]}
    assert evaluate(mapped, [[1.0, 2.0, 3.0, 4.0]], **maps) == [[2, 4, 3.5, 2, 8, 13]]
    assert evaluate(layer("a", bias=pb.Bias(width=2)), [[1.0, 2.0]], bias=[0.5, -1.0]) == [[1.5, 1]]
    # (1, 2), (3, 4), (5, 6): 1 x 3 + 1 x 5 + 3 x 5 and 2 x 4 + 2 x 6 + 4 x 6
    assert evaluate(layer("a", bi_interaction=pb.BiInteraction(vectors=3, dim=2)), three) == [[23, 44]]

    # Vectors 1 and 2. Head one has scores 0: it takes the mean of the values 10 and 20. Head two has scores of
    # ln 2 x i x j, so vector 1 takes (2 x 3 + 4 x 6) / 6 of the values 3 and 6, vector 2 (4 x 3 + 16 x 6) / 20.
    attention = layer("a", attention=pb.Attention(vectors=2, dim=1, heads=2, width=1))
    weights = {"query": [[0.0], [1.0]], "key": [[1.0], [np.log(2)]], "value": [[10.0], [3.0]]}
    found = evaluate(attention, [[1.0, 2.0]], residual=[[0.0], [0.0]], **weights)
    np.testing.assert_allclose(found, [[15, 5, 15, 5.4]], rtol=1e-12)
    found = evaluate(attention, [[1.0, 2.0]], residual=[[1.0], [-5.0]], **weights)
    np.testing.assert_allclose(found, [[16, 0, 17, 0]], rtol=1e-12)


def test_pairs_are_nfms_formula_and_their_sum_is_the_factorization_machine() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6, 4))
    pairs = layer("a", bi_interaction=pb.BiInteraction(vectors=6, dim=4))
    found = oracle.LAYERS["bi_interaction"](pairs, {}, [vectors.reshape(50, 24)])
    np.testing.assert_allclose(found, (vectors.sum(axis=1) ** 2 - (vectors**2).sum(axis=1)) / 2, rtol=1e-12)
    fm = oracle.LAYERS["fm"](layer("a", fm=pb.FactorizationMachine(vectors=6, dim=4)), {}, [vectors.reshape(50, 24)])
    np.testing.assert_allclose(found.sum(axis=1, keepdims=True), fm, rtol=1e-12)


def test_attention_is_the_papers_formula() -> None:
    """Song et al., equations 5 to 8, as matrices of a whole batch."""
    rng, (count, dim, heads, width) = np.random.default_rng(0), (5, 3, 2, 4)
    kind = pb.Attention(vectors=count, dim=dim, heads=heads, width=width)
    weights = {f"a.{role}": rng.normal(size=(heads * width, dim)) for role in ("query", "key", "value", "residual")}
    x = rng.normal(size=(7, count, dim))
    found = oracle.LAYERS["attention"](layer("a", attention=kind), weights, [x.reshape(7, -1)])
    assert found.shape == (7, count * heads * width)
    joined = list[np.ndarray]()
    for head in range(heads):
        query, key, value = (
            x @ weights[f"a.{role}"][head * width : (head + 1) * width].T for role in ("query", "key", "value")
        )
        raised = np.exp(query @ key.transpose(0, 2, 1))
        joined.append(raised / raised.sum(axis=2, keepdims=True) @ value)
    expected = np.maximum(np.concatenate(joined, axis=2) + x @ weights["a.residual"].T, 0)
    np.testing.assert_allclose(found, expected.reshape(7, -1), rtol=1e-10)


def test_cross_layers_treat_each_row_alone() -> None:
    cross = layer("a", cross=pb.Cross(width=2))
    found = evaluate(cross, [[1.0, 2.0], [2.0, 0.0]], [[3.0, 4.0], [1.0, 1.0]], weight=[5.0, 6.0], bias=[0.5, -1.0])
    assert found == [[42.5, 81], [2 * 11 + 0.5 + 1, 0 - 1 + 1]]


def test_two_cross_layers_of_width_one_are_a_polynomial() -> None:
    """x1 = x0^2 w + b + x0, x2 = x0 x1 w' + b' + x1, with x0 = 3, w = 2, b = 1, w' = -1, b' = 4."""
    net = pb.Net(
        layers=[
            layer("one", "dense", "dense", cross=pb.Cross(width=1)),
            layer("two", "dense", "one", cross=pb.Cross(width=1)),
        ]
    )
    assert nets.widths(net, {"dense": 1}) == {"dense": 1, "one": 1, "two": 1}
    first = evaluate(net.layers[0], [[3.0]], [[3.0]], weight=[2.0], bias=[1.0])
    assert first == [[18 + 1 + 3]]
    assert evaluate(net.layers[1], [[3.0]], first, weight=[-1.0], bias=[4.0]) == [[-66 + 4 + 22]]


def test_a_low_rank_is_a_whole_matrix_of_it() -> None:
    rng = np.random.default_rng(0)
    u, v, bias = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), rng.normal(size=5)
    sources = [rng.normal(size=(7, 5)), rng.normal(size=(7, 5))]
    low = oracle.LAYERS["cross_matrix"](
        layer("a", cross_matrix=pb.CrossMatrix(width=5, rank=2)), {"a.u": u, "a.v": v, "a.bias": bias}, sources
    )
    whole = oracle.LAYERS["cross_matrix"](
        layer("a", cross_matrix=pb.CrossMatrix(width=5)), {"a.weight": u @ v.T, "a.bias": bias}, sources
    )
    np.testing.assert_allclose(low, whole, rtol=1e-12)
    np.testing.assert_allclose(whole, sources[0] * (sources[1] @ (u @ v.T).T + bias) + sources[1], rtol=1e-12)


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
