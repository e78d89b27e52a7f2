"""The tolerance: rounding of every kind stays within it, it is no more than some times what is seen, and bugs break it.

What is rounded is rounded here once more, in plain numpy, and put through the oracle.
"""

import math
from collections.abc import Mapping

import numpy as np
import oracle
import pytest
import runs
import torch
from quorem.export import tolerance as module
from quorem.export.codes import FLOATS, LEVELS, STEP, Codes, Kept
from quorem.export.composed import ranges
from quorem.export.grids import Grid
from quorem.export.int8 import FLOAT_LAYERS, Calibrated
from quorem.export.tolerance import tolerance
from quorem.export.values import Crossed, Piece, Range, Value, piece
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets, packing
from quorem.protos.encode import Encoded
from quorem.protos.schema import layout
from quorem.train.features import model_rows
from quorem.train.model import Model

ROWS = 128
MOST = 30  # times the greatest difference seen may the bound be
# In float32 it is further out: what a sum's partial sums are depends on its order, of which the bound knows nothing;
# two evaluations are rounded, of which one is seen.
MOST_OF_FLOAT32 = 200
CODES = (pb.HALF, pb.FIELD_SCALE, pb.ROW_SCALE)
COMBINES = {
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 3),
    "feature": (pb.FEATURE, 0),
}
DENSE = [runs.number("n"), runs.number("log", pb.LOG1P), runs.number("std", pb.STANDARD, 1.5, 0.5)]
WIDE = {"mlp": [96, 64]}
INT8_MODELS = [
    ("deepfm", WIDE),
    ("wide_deep", WIDE),
    ("ipnn", WIDE),
    ("dlrm", {"bottom": [64], "top": [96, 64]}),
    ("dcn", {"mlp": [96, 64]}),
    ("dcnv2", {"mlp": [96, 64]}),
    ("dcnv2", {"mlp": []}),
]
Weights = dict[str, runs.Array]


def make(name: str, combine: str = "mult", **settings: object) -> tuple[pb.Manifest, Weights, dict[str, runs.Array]]:
    """A model of eight fields, some full, a bag among them, and dense features; its weights, and rows."""
    join, hidden = COMBINES[combine]
    features = [runs.categorical(f"c{k}", "id", 60 + k, bag=5 * (k == 1), mean=True) for k in range(8)]
    for k, each in enumerate(features):
        each.side = pb.CONTEXT if k < 4 else pb.CANDIDATE
    fields = [
        runs.field(each, "qr", join, 8, hidden=hidden) if k % 3 else runs.field(each, "full", pb.ALONE, 8)
        for k, each in enumerate(features)
    ]
    manifest = runs.model([*features, *DENSE], fields, name, **settings)
    rng = np.random.default_rng(len(name))
    weights = runs.weights(manifest, rng)
    ids, dense = runs.rows(manifest, weights, rng, ROWS)
    return manifest, weights, {"ids": ids, "dense": dense}


def bound_of(
    manifest: pb.Manifest,
    weights: Weights,
    rows: Mapping[str, runs.Array],
    codes: Codes = FLOATS,
    calibrated: Calibrated = FLOAT_LAYERS,
    *graphs: Mapping[str, Value],
) -> float:
    def rows_of(name: str, indices: runs.Array) -> runs.Array:
        return weights[name][indices]

    return tolerance(manifest, rows, weights.__getitem__, rows_of, codes, calibrated, graphs)


def difference(found: runs.Array, expected: runs.Array) -> float:
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def tables_of(manifest: pb.Manifest) -> dict[str, tuple[tuple[str, int], str, bool]]:
    """Table -> (key in codes, feature, whether it is coded)."""
    found = dict[str, tuple[tuple[str, int], str, bool]]()
    for prefix, fields in (("embedding", manifest.plan.fields), ("first_order", manifest.plan.first_order)):
        for g, group in enumerate(packing.groups(fields)):
            for field in (fields[k] for k in group.fields):
                for j in range(len(field.tables)):
                    coded = group.combine != pb.PATH
                    found[f"{prefix}.{field.feature}.{j}"] = (f"{prefix}.{g}", j), field.feature, coded
    return found


def coded(manifest: pb.Manifest, weights: Weights, code: pb.Code) -> tuple[Codes, Weights]:
    """All tables in a code, and what they are after it."""
    kept, rounded, rng = dict[tuple[str, int], Kept](), dict(weights), np.random.default_rng(1)
    scales = dict[tuple[str, int], dict[str, float]]()
    for name, (key, feature, is_coded) in tables_of(manifest).items():
        if is_coded:
            table = weights[name].astype(np.float64)
            scale = np.abs(table).max() / LEVELS
            scales.setdefault(key, {})[feature] = scale
            if code == pb.HALF:
                rounded[name] = table.astype(np.float16)
                continue
            if code == pb.ROW_SCALE:  # anywhere within a step above the least that clips nothing
                least = np.abs(table).max(axis=1, keepdims=True) / LEVELS
                scale = least * STEP ** rng.random(least.shape)
            rounded[name] = np.rint(table / scale) * scale
    for key, each in scales.items():
        kept[key] = Kept(code, each if code == pb.FIELD_SCALE else {}, max(each.values()) * (code == pb.ROW_SCALE))
    return Codes(kept), rounded


def test_ranges_hold_what_the_codes_of_an_export_round() -> None:
    rng = np.random.default_rng(3)
    for size in 10.0 ** np.arange(-9, 5):  # the smallest rows lie below the ladder of scales
        rows = (rng.normal(size=(200, 6)) * 10.0 ** rng.integers(-7, 1, (200, 1)) * size).astype(np.float32)
        rows[:, 0] = 0
        greatest = float(np.abs(rows).max() / np.float32(LEVELS))
        for kept in (Kept(pb.HALF), Kept(pb.FIELD_SCALE, {"a": greatest}), Kept(pb.ROW_SCALE, greatest=greatest)):
            wrong = np.abs(kept.decode("a", kept.encode("a", rows)) - rows.astype(np.float64))
            found = ranges(kept, "a", rows.astype(np.float64))
            assert (wrong <= 0.50001 * found).all()
            if size > 1e-3:  # below, float16 has nothing but 0
                assert (wrong > 0.45 * found).any(), "and are no wider"
        assert not ranges(Grid(4, 0, ("a",), None, dict[str, runs.Array]().__getitem__), "a", rows).any(), "exact"


@pytest.mark.parametrize(
    ("name", "combine"),
    [*((name, "mult") for name in [*runs.MODELS, "wide"]), *(("deepfm", each) for each in COMBINES), ("dcn", "concat")],
)
def test_codes_of_tables(name: str, combine: str) -> None:
    manifest, weights, rows = make(name, combine)
    expected, found = oracle.logits(manifest, weights, **rows), list[float]()
    for code in CODES:
        codes, rounded = coded(manifest, weights, code)
        seen, bound = (
            difference(oracle.logits(manifest, rounded, **rows), expected),
            bound_of(manifest, weights, rows, codes),
        )
        found.append(bound)
        assert seen <= bound <= MOST * seen, pb.Code.Name(code)
    assert found[0] < found[1] / 4, "float16 is finer than int8"
    assert found[2] <= found[1], "a scale a row is no coarser than one a table"


@pytest.mark.parametrize("name", ["deepfm", "dnn", "ipnn", "dlrm", "dcnv2"])
@pytest.mark.parametrize("code", CODES)
def test_wrong_tables_are_found(name: str, code: pb.Code) -> None:
    manifest, weights, rows = make(name)
    codes, rounded = coded(manifest, weights, code)
    expected, bound = oracle.logits(manifest, weights, **rows), bound_of(manifest, weights, rows, codes)
    for table in tables_of(manifest):
        if table.startswith("embedding."):
            for factor, what in ((2, "a scale of twice the size"), (0, "a field that is left out")):
                wrong = rounded | {table: rounded[table] * factor}
                assert difference(oracle.logits(manifest, wrong, **rows), expected) > bound, f"{table}: {what}"


def test_a_sum_of_weights_has_the_bound_that_one_writes_down() -> None:
    """First order alone, in int8: Hoeffding's bound for one error of a scale's range a field."""
    features = [runs.categorical(f"c{k}", "id", 50, bag=4 * (k == 2)) for k in range(3)]
    manifest = runs.model(features, [runs.field(each, "full", pb.ALONE, 1) for each in features], "wide_deep", mlp=[2])
    weights = runs.weights(manifest, np.random.default_rng(1))
    weights["mlp.out.weight"][:] = 0
    codes, _ = coded(manifest, weights, pb.FIELD_SCALE)
    scales = [float(codes.of("first_order.0", 0).scales[f"c{k}"]) for k in range(3)]
    ids = np.array(
        [[1, 2, 3, 4, 5, oracle.MISSING], [1, 2, 7, 7, 7, 7]]
    )  # the same id four times: an error, four times
    logits = np.maximum(1, np.abs(oracle.logits(manifest, weights, ids, np.zeros((2, 0), np.float32))))
    spread = [scales[0] ** 2 + scales[1] ** 2 + times * scales[2] ** 2 for times in (3, 16)]
    expected = max(np.sqrt(math.log(2 * 2 / 1e-9) / 2 * np.array(spread)) / logits)
    assert bound_of(manifest, weights, {"ids": ids}, codes) == pytest.approx(expected, rel=0.06), (
        "rounded up to 2 digits"
    )


# ---------------------------------------------------------------- int8 layers


def in_int8(
    manifest: pb.Manifest,
    weights: Weights,
    values: dict[str, runs.Array],
    calibrated: Calibrated,
    graph: Mapping[str, Value],
) -> runs.Array:
    """The logits of a net whose wide layers are int8, from its inputs."""
    values = dict(values)
    for layer in manifest.net.layers:
        sources = [values[name] for name in layer.inputs]
        if layer.name not in calibrated.layers:
            values[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
            continue
        weight, bias = (weights[f"{layer.name}.{role}"].astype(np.float64) for role in ("weight", "bias"))
        turned = isinstance(graph[layer.name].pieces[0].deferred, Crossed)
        place = 0 if turned or layer.HasField("linear") else 1
        x, known = sources[place], calibrated.ranges[layer.inputs[place]]
        own = np.concatenate([each.columns for each in graph[layer.inputs[place]].side(once=False)])
        low, high = min(0, known.low[own].min()), max(0, known.high[own].max())
        step = (high - low) / 255
        zero = round(-low / step)
        rounded = (np.clip(np.rint(x[:, own] / step) + zero, 0, 255) - zero) * step
        others = np.setdiff1d(np.arange(x.shape[1]), own)
        if turned:  # w . y, whatever reads y: all that has w is one number
            w = weights["logit.weight"].astype(np.float64)[0, : x.shape[1]]
            matrix = int8((weight[own] * w[own, None]).T)
            shared = x[:, others] @ (weight[others] * w[others, None])
            numbers = ((rounded @ matrix.T + shared) * sources[1]).sum(axis=1) + (x * bias + sources[1]) @ w
            values[layer.name] = np.outer(numbers, w) / (w @ w)
            continue
        product = rounded @ int8(weight[:, own]).T + x[:, others] @ weight[:, others].T + bias
        values[layer.name] = product if layer.HasField("linear") else sources[0] * product + sources[1]
    return values[manifest.net.layers[-1].name][:, 0]


def int8(weight: runs.Array) -> runs.Array:
    scales = np.abs(weight).max(axis=1, keepdims=True) / 127
    return np.rint(weight / scales) * scales


def graph_of(manifest: pb.Manifest, *, ranking: bool) -> dict[str, Value]:
    """The values of a graph; in a ranking one the context's columns of the net's inputs stand apart."""
    places, widths = layout(manifest.schema), nets.widths(manifest.net, nets.input_widths(manifest.plan, len(DENSE)))
    found = {name: Value((piece("", width),)) for name, width in widths.items()}
    if not ranking:
        return found
    assert places.slots
    sides = {feature.name: feature.side == pb.CONTEXT for feature in manifest.schema.features}
    once = [sides[field.feature] for field in manifest.plan.fields for _ in range(field.dim)] + [True] * len(DENSE)
    shared, own = np.flatnonzero(once), np.flatnonzero(~np.array(once))
    for name in ("everything", "mlp.input"):
        if name in found and widths[name] == len(once):
            found[name] = Value((Piece("", (len(shared),), shared, True), Piece("", (len(own),), own)))
    last = max((layer.name for layer in manifest.net.layers if layer.HasField("cross_matrix")), default="")
    if last:
        width, no = widths[last], np.zeros((0, 0))
        crossed = Crossed(found["everything"], found["everything"], no, no, None)
        found[last] = Value((Piece("", (width,), np.arange(width), deferred=crossed),))
    return found


@pytest.mark.parametrize("ranking", [False, True])
@pytest.mark.parametrize(("name", "settings"), INT8_MODELS)
def test_layers_in_int8(name: str, settings: dict[str, object], ranking: bool) -> None:
    manifest, weights, rows = make(name, **settings)
    for each, array in weights.items():
        if each.endswith(".weight") and array.ndim == 2:
            array *= np.float32(math.sqrt(24 / array.shape[1]))  # as wide layers start: values keep their size
    values = oracle.inputs(manifest, weights, rows["ids"], rows["dense"])
    exact, expected = dict(values), oracle.logits(manifest, weights, **rows)
    wide = list[str]()
    for layer in manifest.net.layers:
        exact[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](
            layer, weights, [exact[n] for n in layer.inputs]
        )
        if exact[layer.inputs[-1]].shape[1] >= 64 and (layer.HasField("cross_matrix") or layer.linear.outputs >= 16):
            wide.append(layer.name)
    assert wide
    graph = graph_of(manifest, ranking=ranking)
    for calibration in (ROWS, 16):  # of all rows, or of a few: then others lie beyond
        seen = {n: value[:calibration] for n, value in exact.items()}
        ranges = {n: Range(value.min(axis=0), value.max(axis=0)) for n, value in seen.items()}
        calibrated = Calibrated(frozenset(wide), ranges)
        found = difference(in_int8(manifest, weights, values, calibrated, graph), expected)
        bound = bound_of(manifest, weights, rows, FLOATS, calibrated, graph)
        assert found <= bound <= MOST * found
        codes, rounded = coded(manifest, weights, pb.FIELD_SCALE)
        both = oracle.inputs(manifest, rounded, rows["ids"], rows["dense"])
        both_bound = bound_of(manifest, weights, rows, codes, calibrated, graph)
        assert difference(in_int8(manifest, weights, both, calibrated, graph), expected) <= both_bound
        assert both_bound >= bound
        for layer in wide if calibration == ROWS else []:
            wrong = weights | {f"{layer}.weight": weights[f"{layer}.weight"] * 2}
            assert difference(in_int8(manifest, wrong, values, calibrated, graph), expected) > bound, "a scale twice"


def test_what_two_layers_read_is_rounded_once() -> None:
    """The errors of one rounding add up in both: two layers alike, beside each other, are one twice as steep."""
    feature = runs.categorical("a", "id", 40)
    tables = pb.Plan(fields=[runs.field(feature, "full", pb.ALONE, 8)])
    first = [pb.Layer(name=n, inputs=["embeddings"], linear=pb.Linear(inputs=8, outputs=2)) for n in ("a", "b")]
    last = [pb.Layer(name=f"{n}.out", inputs=[n], linear=pb.Linear(inputs=2, outputs=1)) for n in ("a", "b")]
    both = pb.Layer(name="logit", inputs=["a.out", "b.out"], sum=pb.Sum())
    manifest = pb.Manifest(schema=pb.Schema(features=[feature]), plan=tables, net=pb.Net(layers=[*first, *last, both]))
    weights = runs.weights(manifest, np.random.default_rng(2))
    for name in ("a", "b"):
        weights[f"{name}.weight"][:] = np.eye(2, 8)
        weights[f"{name}.out.weight"][:] = 1
        weights[f"{name}.bias"][:] = 0
    ranges = {"embeddings": Range(np.full(8, -0.5), np.full(8, 0.5))}
    calibrated = Calibrated(frozenset({"a", "b"}), ranges)
    graph = {name: Value((piece("", width),)) for name, width in nets.widths(manifest.net, {"embeddings": 8}).items()}
    ids, step = np.arange(8)[:, None], 1 / 255
    bound = bound_of(manifest, weights, {"ids": ids}, FLOATS, calibrated, graph)
    x = weights["embedding.a.0"][:8].astype(np.float64)
    logits = np.maximum(1, np.abs(oracle.logits(manifest, weights, ids, np.zeros((8, 0), np.float32))))
    of_weights = 4 * ((x**2).sum(axis=1) + step**2) / 127**2  # four outputs of scale 1 / 127, and what is added to them
    once, twice = (
        max(np.sqrt(math.log(2 * 8 / 1e-9) / 2 * (of_weights + of_inputs)) / logits)
        for of_inputs in (2 * (2 * step) ** 2, 4 * step**2)
    )
    assert bound == pytest.approx(once, rel=0.05)
    assert bound > 1.06 * twice


# ---------------------------------------------------------------- float32


@pytest.mark.parametrize("name", runs.MODELS)
def test_torch_rounds_within_the_bound_of_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, weights, rows = make(name)
    model = Model(manifest.schema, manifest.plan, manifest.net, {})
    model.reset(3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
        encoded = model_rows(manifest.schema, {}, Encoded(rows["ids"], rows["dense"]), np.zeros(ROWS, np.float32))
        model.train()
        model(encoded.ids, encoded.numbers)  # moves batchnorm's running statistics
        model.eval()
        found = model(encoded.ids, encoded.numbers)[0].numpy().astype(np.float64)
    weights = weights | model.weights()
    assert bound_of(manifest, weights, rows) >= 1e-5
    monkeypatch.setattr(module, "LEAST", 1e-12)
    seen, bound = difference(found, oracle.logits(manifest, weights, **rows)), bound_of(manifest, weights, rows)
    assert seen <= bound <= MOST_OF_FLOAT32 * seen
    assert bound < 2e-4


def test_squares_that_cancel_and_bags_of_hundreds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factorization machine of pairs that are small beside the squares, and a bag's sum that is beside its items."""
    features = [
        runs.categorical("bag", "id", 999, bag=400),
        runs.categorical("a", "id", 50),
        runs.categorical("b", "id", 50),
    ]
    manifest = runs.model(features, [runs.field(each, "full", pb.ALONE, 8) for each in features], "fm")
    rng = np.random.default_rng(5)
    weights = runs.weights(manifest, rng)
    weights["embedding.bag.0"] *= 40
    ids = np.concatenate([rng.integers(0, 999, (ROWS, 400)), rng.integers(0, 50, (ROWS, 2))], axis=1)
    expected = oracle.logits(manifest, weights, ids, np.zeros((ROWS, 0), np.float32))
    vectors, first = np.zeros((ROWS, 3, 8), np.float32), np.zeros(ROWS, np.float32)
    for k in range(400):
        vectors[:, 0] += weights["embedding.bag.0"][ids[:, k]]
        first += weights["first_order.bag.0"][ids[:, k], 0]
    for k, name in ((1, "a"), (2, "b")):
        vectors[:, k] = weights[f"embedding.{name}.0"][ids[:, 399 + k]]
        first += weights[f"first_order.{name}.0"][ids[:, 399 + k], 0]
    total, own = np.zeros((ROWS, 8), np.float32), np.zeros((ROWS, 8), np.float32)
    for k in range(3):
        total += vectors[:, k]
        own += vectors[:, k] * vectors[:, k]
    pairs = total * total - own
    found = np.float32(0.5) * pairs.sum(axis=1, dtype=np.float32) + first + weights["fm.bias.bias"]
    assert found.dtype == np.float32
    monkeypatch.setattr(module, "LEAST", 1e-12)
    seen, bound = difference(found.astype(np.float64), expected), bound_of(manifest, weights, {"ids": ids})
    assert seen > 1e-5, "the usual bound does not hold here"
    assert seen <= bound <= MOST_OF_FLOAT32 * seen


def test_the_bound_is_round_and_the_same_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, weights, rows = make("autoint_mlp")
    codes, _ = coded(manifest, weights, pb.HALF)
    bound = bound_of(manifest, weights, rows, codes)
    assert float(f"{bound:.1e}") == bound
    monkeypatch.setattr(module, "STRETCH_NUMBERS", 4000)
    assert bound_of(manifest, weights, rows, codes) == bound
    assert [module._rounded_up(number) for number in (1e-5, 1.01e-5, 0.0999, 3.0, 12.1)] == [1e-5, 1.1e-5, 0.1, 3, 13]


def test_rows_without_a_finite_logit_have_no_bound() -> None:
    manifest, weights, rows = make("dnn")
    usual = bound_of(manifest, weights, rows)
    broken = {"ids": rows["ids"], "dense": rows["dense"].copy()}
    broken["dense"][3] = np.inf
    assert bound_of(manifest, weights, broken) <= usual
