"""Gradients: the tape gives the oracle's logits, and its slopes are those of finite differences, for every kind."""

import numpy as np
import oracle
import pytest
import runs
from quorem.export.codes import Codes
from quorem.export.composed import inputs, items_of
from quorem.export.gradients import trace
from quorem.export.tape import Float64s, Tape
from quorem.protos import manifest_pb2 as pb

ROWS = 6
STEP = 1e-6
NUMBERS = [runs.number("n"), runs.number("log", pb.LOG1P), runs.number("std", pb.STANDARD, 1.5, 0.5)]
UNEVEN = {  # with feature's two vectors of 2, dims 2, 2, 3, 4 and 5
    "a": ("qr", pb.FEATURE, 2, 0),
    "b": ("mixed_radix", pb.CONCAT, 5, 0),
    "c": ("semantic", pb.MULT, 3, 0),
    "d": ("qr", pb.PATH, 4, 3),
    "e": ("qr", pb.PATH, 4, 0),
    "f": ("full", pb.ALONE, 5, 0),
}
CASES = [
    *((model, {}, uneven) for model in [*runs.MODELS, "wide"] for uneven in (False, True)),
    *((model, {"pad": True}, True) for model in runs.UNIFYING),
]


def make(model: str, settings: dict[str, bool], *, uneven: bool) -> pb.Manifest:
    features = [
        runs.categorical(name, "vocabulary", 30 + k, bag=4 * (k == 1), mean=True) for k, name in enumerate(UNEVEN)
    ]
    fields = [
        runs.field(
            each, *(UNEVEN[each.name][:3] if uneven else ("qr", pb.MULT, 4)), hidden=UNEVEN[each.name][3] * uneven
        )
        for each in features
    ]
    return runs.model([*features, *NUMBERS], fields, model, **settings)


def evaluated(manifest: pb.Manifest, weights: oracle.Weights, values: dict[str, Float64s]) -> Float64s:
    """The oracle's logits from the net's inputs, [R]."""
    values = dict(values)
    for layer in manifest.net.layers:
        sources = [values[name] for name in layer.inputs]
        values[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
    return values[manifest.net.layers[-1].name][:, 0]


@pytest.mark.parametrize(("model", "settings", "uneven"), CASES)
def test_gradients_are_finite_differences(model: str, settings: dict[str, bool], uneven: bool) -> None:
    rng, manifest = np.random.default_rng(3), make(model, settings, uneven=uneven)
    weights = runs.weights(manifest, rng)
    ids, dense = runs.rows(manifest, weights, rng, ROWS)
    tape, items = Tape(), items_of(manifest.schema, ids, dense, weights.__getitem__)
    nodes = inputs(tape, manifest, items, dense, lambda name, rows: weights[name][rows], Codes())
    expected = oracle.inputs(manifest, weights, ids, dense)
    assert all(np.allclose(node.value, expected[name], rtol=1e-13, atol=1e-13) for name, node in nodes.items())

    found = trace(tape, manifest.net, nodes, lambda name: weights[name].astype(np.float64))
    logit = found.values[manifest.net.layers[-1].name]
    assert np.allclose(logit.value[:, 0], oracle.logits(manifest, weights, ids, dense), rtol=1e-12, atol=1e-12)
    gradients = tape.gradients(logit)
    values = {name: node.value for name, node in nodes.items()}
    for name, node in nodes.items():
        for column in rng.permutation(node.value.shape[1])[:8]:
            moved = [dict(values), dict(values)]
            for each, sign in zip(moved, (1, -1), strict=True):
                each[name] = values[name].copy()
                each[name][:, column] += sign * STEP
            up, down = (evaluated(manifest, weights, each) for each in moved)
            assert np.allclose(gradients[node][:, column], (up - down) / (2 * STEP), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("combine", [pb.MULT, pb.ADD, pb.CONCAT, pb.PATH])
def test_rows_of_tables_that_items_share_have_the_slope_of_all(combine: pb.Combine) -> None:
    rng = np.random.default_rng(4)
    features = [runs.categorical("bag", "id", 20, bag=6, mean=True), runs.categorical("one", "id", 9)]
    fields = [
        runs.field(features[0], "qr", combine, 4, 4, hidden=2 * (combine == pb.PATH)),
        runs.field(features[1], "full", pb.ALONE, 4),
    ]
    manifest = runs.model(features, fields, "deepfm")
    weights = runs.weights(manifest, rng)
    ids = np.array([[1, 5, 9, 2, 1, oracle.MISSING, 2], [oracle.MISSING] * 6 + [3], [4, 4, 4, 4, 4, 4, 1]])
    tape, dense = Tape(), np.zeros((3, 0), np.float32)
    items = items_of(manifest.schema, ids, dense, weights.__getitem__)
    asked = list[str]()

    def rows_of(name: str, rows: np.ndarray) -> np.ndarray:
        asked.append(name)
        assert len(np.unique(rows)) == len(rows), "a row is asked for once"
        return weights[name][rows]

    nodes = inputs(tape, manifest, items, dense, rows_of, Codes())
    found = trace(tape, manifest.net, nodes, lambda name: weights[name].astype(np.float64))
    gradients = tape.gradients(found.values["logit"])
    place = [name for name in asked if not name.endswith(".1") or combine != pb.PATH].index("embedding.bag.0")
    leaf = [node for node in tape.nodes if not node.pulls][place]
    assert leaf.owners is not None
    assert leaf.owners.tolist() == [0, 0, 2], "rows 1 and 2 of the table in the first row, row 0 in the last"
    for number, (row, owner) in enumerate([(1, 0), (2, 0), (0, 2)]):
        for column in range(leaf.value.shape[1]):
            logits = list[float]()
            for sign in (1, -1):
                moved = {
                    name: array.astype(np.float64) if array.dtype == np.float32 else array
                    for name, array in weights.items()
                }
                moved["embedding.bag.0"][row, column] += sign * STEP
                logits.append(float(oracle.logits(manifest, moved, ids, dense)[owner]))
            expected = (logits[0] - logits[1]) / (2 * STEP)
            assert np.isclose(gradients[leaf][number, column], expected, rtol=1e-5, atol=1e-8)
