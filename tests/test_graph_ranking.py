"""Ranking graphs: one context and any number of candidates have the oracle's logits, whatever stands on which side."""

from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import oracle
import pytest
import runs
from graphs import COMBINES, ENCODINGS, NUMBERS, exported, field, graph_of, off, opened, request, scored
from quorem.export.bundle import export
from quorem.export.precision import DENSE, TABLES, parse
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb

RANKED = [name for name in runs.MODELS if not name.startswith("autoint")]
SCHEMES = ("qr", "mixed_radix", "chinese_remainder", "semantic", "completed", "full")
PRECISIONS = [f"{tables}+{dense}" for tables, dense in product(TABLES, DENSE)]
SIDES = {  # of eleven categorical features and of numbers: k for context, c for candidates
    "alternating": ("kckckckckck", "kck"),
    "one context feature": ("ccccckccccc", "ccc"),
    "one candidate feature": ("kkkkkkkkkkc", "kkk"),
    "numbers alone are context": ("ccccccccccc", "kkk"),
    "a number alone is a candidate's": ("kkkkkkkkkkk", "kkc"),
}
WIDE = {"mlp": [64, 16]}
SETTINGS = {"fm": {}, "wide": {}, "dlrm": {"bottom": [64, 16], "top": [64, 16]}}


def cells(*parameters: Sequence[str]) -> list[tuple[str, ...]]:
    """Few cells of a grid in which every two values of two parameters meet."""
    several = range(len(parameters))
    unmet = {
        ((i, one), (j, other))
        for i, j in combinations(several, 2)
        for one, other in product(parameters[i], parameters[j])
    }
    found = list[tuple[str, ...]]()
    while unmet:
        cell = dict(min(unmet))
        for k in several:
            if k not in cell:
                cell[k] = max(
                    parameters[k],
                    key=lambda value, k=k: sum(tuple(sorted((each, (k, value)))) in unmet for each in cell.items()),
                )
        unmet -= set(combinations(sorted(cell.items()), 2))
        found.append(tuple(cell[k] for k in several))
    return found


def sided(features: Sequence[pb.Feature], sides: str) -> list[pb.Feature]:
    """Features on sides, a letter each."""
    found = list[pb.Feature]()
    for feature, side in zip(features, sides, strict=True):
        found.append(pb.Feature())
        found[-1].CopyFrom(feature)
        found[-1].side = pb.CONTEXT if side == "k" else pb.CANDIDATE
    return found


@pytest.mark.parametrize(
    ("scheme", "combine", "encoding", "sides", "precision", "name", "bits"),
    cells(SCHEMES, list(COMBINES), ENCODINGS, list(SIDES), PRECISIONS, [*RANKED, "wide"], list("012348")),
)
def test_all_pairs(
    tmp_path: Path, scheme: str, combine: str, encoding: str, sides: str, precision: str, name: str, bits: str
) -> None:
    """`export` compares both graphs with the oracle, and with each other on rows that share a context."""
    features = [
        runs.categorical(f"c{k}", encoding, 20 + k, bag=3 * (k % 4 == 2 and encoding != "bucket"), mean=k % 8 == 2)
        for k in range(11)
    ]
    combine = "mult" if scheme == "full" else combine
    fields = [field(each, scheme, combine, 6, bits=int(bits)) for each in features]
    of_fields, of_numbers = (sided(each, own) for each, own in zip((features, NUMBERS), SIDES[sides], strict=True))
    manifest = runs.model([*of_fields[:5], *of_numbers, *of_fields[5:]], fields, name, **SETTINGS.get(name, WIDE))
    bundle = exported(tmp_path, manifest, precision.removesuffix("+fp32"), 16)
    facts = manifests.read(bundle).export
    assert [graph.file for graph in facts.graphs] == ["model.onnx", "rank.onnx"]
    assert bool(facts.int8_layers) == (precision.endswith("+int8") and name not in ("fm", "wide"))


@pytest.mark.parametrize("name", RANKED)
def test_any_number_of_candidates(tmp_path: Path, name: str) -> None:
    features = [runs.categorical(f"c{k}", ENCODINGS[k % 4], 20 + k, bag=3 * (k in (4, 5))) for k in range(8)]
    fields = [field(each, "qr", "mult", 4) for each in features]
    own = sided([*features, *NUMBERS], "kckckckcckc")
    manifest, rng = runs.model(own, fields, name), np.random.default_rng(5)
    weights = runs.weights(manifest, rng)
    reference = runs.scored(manifest, weights, rng, 24)
    runs.write(tmp_path / "run", manifest, weights, reference)
    bundle = export(tmp_path / "run", tmp_path / "model", precision=parse("fp32"))
    ids, dense, bound = reference["ids"], reference["dense"], manifests.read(bundle).export.parity_bound
    row_wise, ranking = (opened(bundle / name) for name in ("model.onnx", "rank.onnx"))
    for count in (7, 0, 1, 2):
        asked = request(manifest.schema, ids, dense, count, range(10, 10 + count))
        assert {name: len(array) for name, array in asked.ranking.items()} == {
            "context_ids": 1,
            "context_dense": 1,
            "candidate_ids": count,
            "candidate_dense": count,
        }
        ranked = scored(ranking, asked.ranking)
        assert ranked.shape == (count,)
        assert off(ranked, scored(row_wise, asked.row_wise)) <= 2 * bound
        if count:
            expected = oracle.logits(manifest, weights, asked.row_wise["ids"], asked.row_wise["dense"])
            assert off(ranked, expected) <= bound


@pytest.mark.parametrize("precision", ["fp32", "int8+int8"])
def test_a_candidates_score_does_not_depend_on_the_others(tmp_path: Path, precision: str) -> None:
    """Nor on their number: a request may be cut in two."""
    features = [runs.categorical(f"c{k}", "hash", 20 + k) for k in range(10)]
    fields = [field(each, "qr", "mult", 8) for each in features]
    manifest = runs.model(sided([*features, *NUMBERS], "kckckckckckck"), fields, "deepfm", mlp=[64, 16])
    bundle = exported(tmp_path, manifest, precision)
    ids, dense = runs.rows(manifest, {}, np.random.default_rng(1), 40)
    asked = request(manifest.schema, ids, dense, 0, range(40)).ranking
    ranking = opened(bundle / "rank.onnx")
    together, apart = scored(ranking, asked), list[runs.Array]()
    for row in (slice(row, row + 1) for row in range(40)):
        one = {each: array if each.startswith("context") else array[row] for each, array in asked.items()}
        apart.append(scored(ranking, one))
    assert off(np.concatenate(apart), together) <= 2e-6


@pytest.mark.parametrize(
    ("categorical", "numbers", "inputs"),
    [
        ("kc", "kc", {"context_ids": 1, "context_dense": 1, "candidate_ids": 1, "candidate_dense": 1}),
        ("kc", "", {"context_ids": 1, "candidate_ids": 1}),
        ("cc", "kk", {"context_dense": 2, "candidate_ids": 2}),
        ("kk", "cc", {"context_ids": 2, "candidate_dense": 2}),
        ("kc", "cc", {"context_ids": 1, "candidate_ids": 1, "candidate_dense": 2}),
    ],
)
def test_inputs_of_no_width_are_left_out(
    tmp_path: Path, categorical: str, numbers: str, inputs: dict[str, int]
) -> None:
    features = [runs.categorical(f"c{k}", "id", 20) for k in range(2)]
    fields = [field(each, "full", "mult", 4) for each in features]
    own = [*sided(features, categorical), *sided(NUMBERS[: len(numbers)], numbers)]
    graph = graph_of(exported(tmp_path, runs.model(own, fields, "dnn")), "rank.onnx")
    shapes = {each.name: each.type.tensor_type.shape.dim for each in graph.input}
    assert {name: shape[1].dim_value for name, shape in shapes.items()} == inputs
    for name, shape in shapes.items():
        assert (shape[0].dim_value == 1) == name.startswith("context")
        assert bool(shape[0].dim_param) == name.startswith("candidate")


@pytest.mark.parametrize("sides", ["kkkkk", "ccccc"])
@pytest.mark.parametrize("name", ["fm", "dcnv2"])
def test_a_model_of_one_side_says_why_it_has_no_ranking_graph(tmp_path: Path, name: str, sides: str) -> None:
    features = [runs.categorical(f"c{k}", "id", 20) for k in range(2)]
    fields = [field(each, "full", "mult", 4) for each in features]
    bundle = exported(tmp_path, runs.model(sided([*features, *NUMBERS], sides), fields, name))
    facts = manifests.read(bundle).export
    assert "one side" in facts.no_rank
    assert [graph.file for graph in facts.graphs] == ["model.onnx"]
    assert not (bundle / "rank.onnx").exists()


def test_buckets_on_both_sides(tmp_path: Path) -> None:
    """Numbers that become ids, beside those that do not."""
    features = [runs.categorical(f"b{k}", "bucket", 6 + k) for k in range(4)]
    fields = [field(each, "qr", "mult", 4) for each in features]
    own = sided([features[0], NUMBERS[0], features[1], NUMBERS[1], features[2], features[3]], "ckkcck")
    for name in RANKED:
        graph = graph_of(exported(tmp_path / name, runs.model(own, fields, name)), "rank.onnx")
        assert [each.name for each in graph.input] == ["context_dense", "candidate_dense"]


def test_candidates_that_no_layer_reads_are_not_ranked(tmp_path: Path) -> None:
    """Their scores are all the same."""
    features = [runs.categorical(f"c{k}", "id", 20) for k in range(2)]
    manifest = runs.model(features, [field(each, "full", "mult", 4) for each in features], "dnn")
    del manifest.schema.features[:]
    manifest.schema.features.extend(sided([*features, *NUMBERS], "kkccc"))
    facts = manifests.read(exported(tmp_path, manifest)).export
    assert "no layer reads" in facts.no_rank
