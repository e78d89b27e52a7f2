"""Hostile bundles: whatever is wrong with one, `quorem export --check` and the server's loader refuse it by name.

Digests are right wherever a case is not about them. A graph is a program: `--check` reads what it says before it runs
it, the loader trusts the digest, opens it, and holds its inputs and its logits against the manifest and golden rows.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import runs
from quorem.command import main
from quorem.export.bundle import export, prove_bundle
from quorem.export.precision import parse
from quorem.protos import errors
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import (
    Malformed,
    MissingFile,
    NetError,
    NewerFormat,
    NotComplementary,
    ParityError,
    PlanError,
    QuoremError,
    UnsafePath,
    WrongClasses,
    WrongDigest,
    WrongShape,
)
from quorem.serve.model import Model
from quorem.serve.survey import survey
from spoil import (
    Change,
    absolute,
    another,
    chosen_from_others,
    class_beyond,
    classes_alike,
    doubled,
    elsewhere,
    facts,
    few_bits,
    field,
    golden,
    graph,
    levels,
    logit,
    looping,
    more,
    no_export,
    no_golden,
    no_graph,
    no_layers,
    number,
    one_side,
    other_stride,
    other_vectors,
    outside,
    recoded,
    renamed,
    shortened,
    shortened_in_all,
    spoilt,
    stage,
    tables,
    told,
    twice,
    unlink,
    unlisted,
    unnamed_output,
)

Refusal = type[QuoremError]
FILES = ("card.md", "golden.safetensors", "model.onnx", "rank.onnx", "tables.bin")
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Versions by precision, of a model with classes, few bits, a vocabulary, a bag, numbers, and both sides."""
    features = [
        runs.categorical("user", "hash", 60),
        runs.categorical("item", "vocabulary", 20),
        runs.categorical("brand", "hash", 30),
        runs.categorical("seen", "id", 24, bag=2),
        runs.number("age", pb.LOG1P),
    ]
    features[0].side = pb.CONTEXT
    schemes = {"user": "qr", "item": "full", "brand": "completed", "seen": "chinese_remainder"}
    fields = [
        runs.field(each, schemes[each.name], pb.MULT, 4, bits=3 * (each.name == "seen"))
        for each in features
        if each.name in schemes
    ]
    root, manifest = tmp_path_factory.mktemp("hostile"), runs.model(features, fields, "deepfm", mlp=[64, 16, 8])
    runs.make_run(root / "run", manifest, np.random.default_rng(0), 12)
    return {name: export(root / "run", root / name, precision=parse(name)) for name in ("fp32", "fp16", "int8+int8")}


def refused(check: Path) -> tuple[QuoremError, QuoremError]:
    """The errors of `quorem export --check` and of the loader: of the survey, or of opening and warming."""
    with pytest.raises(QuoremError) as proved:
        prove_bundle(check)
    surveyed = survey(check.parents[1])
    if surveyed.refused:
        return proved.value, surveyed.refused[0][1]
    with pytest.raises(QuoremError) as loaded:
        Model(surveyed.versions[0], "cpu").warm()
    return proved.value, loaded.value


# ---------------------------------------------------------------- cases

HOSTILE: dict[str, tuple[Change, Refusal, str]] = {
    **{f"no {name}": (unlink(name), MissingFile, name) for name in FILES},
    **{f"{name} without a digest": (unlisted(name), MissingFile, name) for name in FILES if name != "card.md"},
    "a file listed twice": (twice, Malformed, "once"),
    "a file above": (lambda _, found: setattr(found.files[0], "name", "../model.onnx"), UnsafePath, "plain files"),
    "no export": (no_export, Malformed, "what was exported"),
    "a bound of nan": (facts(parity_bound=NAN), Malformed, "parity bound"),
    "a bound of infinity": (facts(parity_bound=INFINITY), Malformed, "parity bound"),
    "no bound": (facts(parity_bound=0), Malformed, "parity bound"),
    "a bound below": (facts(parity_bound=-1e-5), Malformed, "parity bound"),
    "a bound that admits all": (facts(parity_bound=9), Malformed, "parity bound"),
    "slots": (facts(slots=99), Malformed, "slots"),
    "numbers": (facts(dense=0), Malformed, "numbers"),
    "another lineage": (facts(run_sha256="AB" * 32), Malformed, "run_sha256"),
    "tables in no known number": (number("tables", 4), Malformed, "fp32, fp16 or int8"),
    "tables in no number": (number("tables", 0), Malformed, "fp32, fp16 or int8"),
    "layers in float16": (number("dense", pb.FP16), Malformed, "fp32 or int8"),
    "tables in another number": (number("tables", pb.FP16), Malformed, "codes"),
    "a candidate in no number": (more("candidates", pb.Candidate()), Malformed, "fp32, fp16 or int8"),
    "chosen from others": (chosen_from_others, Malformed, "candidates"),
    "a code of no table": (told("codes", 0, tensor="embedding.user.9"), Malformed, "each once"),
    "a code twice": (doubled("codes"), Malformed, "2 times"),
    "no known code": (told("codes", 0, code=9), Malformed, "codes"),
    "a table of few bits without a code": (few_bits(list.clear), Malformed, "few bits"),
    "a table of few bits in a byte": (few_bits(recoded(pb.FIELD_SCALE)), Malformed, "codes"),
    "a table of no few bits in them": (told("codes", 0, code=pb.COLUMN_SCALE), Malformed, "codes"),
    "an error of nan": (told("codes", 0, error=NAN), Malformed, "finite"),
    "an error below": (told("codes", 0, error=-1), Malformed, "finite"),
    "no such layer in int8": (facts(int8_layers=["mlp.0", "mlp.9"]), Malformed, "mlp.9"),
    "a layer in int8 twice": (facts(int8_layers=["mlp.0", "mlp.0"]), Malformed, "2 times"),
    "a layer without a matrix in int8": (facts(int8_layers=["fm"]), Malformed, "'fm'"),
    "int8 in floats": (number("dense", pb.FP32), Malformed, "dense layers in int8"),
    "an unknown graph": (more("graphs", pb.GraphFacts(file="other.onnx")), Malformed, "graphs of a bundle"),
    "a graph above": (told("graphs", 1, file="../rank.onnx"), Malformed, "graphs of a bundle"),
    "a graph twice": (doubled("graphs"), Malformed, "graphs of a bundle"),
    "rank.onnx alone": (told("graphs", 0, file="rank.onnx"), Malformed, "graphs of a bundle"),
    "a reason against the graph that there is": (facts(no_rank="none"), Malformed, "says why"),
    "no graph and no reason": (lambda _, found: found.export.graphs.pop(), Malformed, "says why"),
    "a graph to rank one side with": (one_side, Malformed, "both sides"),
    "an unknown stage": (stage("\x1b[2J"), Malformed, "stages"),
    "an unknown part": (told("parts", 0, name="weights"), Malformed, "parts"),
    "a part twice": (doubled("parts"), Malformed, "2 times"),
    "parts of more than there is": (told("parts", 0, bytes=2**63), Malformed, "add up"),
    "tables of more than there is": (facts(table_bytes=2**40), Malformed, "holds all tables"),
    "no place of classes": (lambda _, found: found.export.class_arrays.pop(), Malformed, "where the classes"),
    "classes beyond the tables": (told("class_arrays", 0, offset=2**40), Malformed, "within tables.bin"),
    "tables shortened": (tables(shortened), Malformed, "add up"),
    "tables shortened in all": (tables(shortened_in_all), Malformed, "ONNX Runtime opens"),
    "a class beyond its rows": (tables(class_beyond), WrongClasses, "number of a row"),
    "classes that tell nothing apart": (tables(classes_alike), NotComplementary, "own tuple"),
    "other vectors": (other_vectors, ParityError, ""),
    "another cardinality": (field(lambda each: setattr(each, "cardinality", 59)), PlanError, "as many ids"),
    "fewer rows": (field(lambda each: setattr(each.tables[1], "rows", 3)), NotComplementary, "own tuple"),
    "no layers": (no_layers, NetError, "last layer"),
    "no golden rows": (golden(lambda tensors: tensors.update({k: v[:0] for k, v in tensors.items()})), Malformed, ""),
    "no safetensors": (no_golden, Malformed, "safetensors"),
    "golden ids of another width": (
        golden(lambda tensors: tensors.update(ids=tensors["ids"][:, 1:].copy())),
        WrongShape,
        "int64",
    ),
    "golden ids as floats": (
        golden(lambda tensors: tensors.update(ids=tensors["ids"].astype(np.float32))),
        WrongShape,
        "int64",
    ),
    "another golden logit": (logit(9), ParityError, ""),
    "a golden logit of nan": (logit(NAN), ParityError, ""),
    "a golden logit of infinity": (logit(INFINITY), ParityError, ""),
    "model.onnx that is none": (no_graph("model.onnx"), Malformed, "ONNX"),
    "rank.onnx that is none": (no_graph("rank.onnx"), Malformed, "ONNX"),
    "other inputs of model.onnx": (graph(renamed, "model.onnx"), WrongShape, "inputs"),
    "other inputs of rank.onnx": (graph(renamed), WrongShape, "inputs"),
    "an output too few": (graph(unnamed_output), WrongShape, "outputs"),
    "rows of another stride": (graph(other_stride), Malformed, ""),
    "levels that are none": (levels(NAN), ParityError, ""),
    "other levels": (levels(1e6), ParityError, ""),
    "constants beyond tables.bin": (graph(outside("offset", "999424")), Malformed, "ONNX Runtime opens"),
}
# What only --check reads, and what the loader says to it.
GRAPHS: dict[str, tuple[Change, Refusal, Refusal, str]] = {
    "constants above the directory": (elsewhere, UnsafePath, Malformed, "escapes model dir"),
    "constants at an absolute path": (absolute, UnsafePath, Malformed, "External data path"),
    "constants in another file": (another, UnsafePath, ParityError, "golden logits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_by_name(exported: dict[str, Path], tmp_path: Path, name: str):
    change, error, text = HOSTILE[name]
    for caught in refused(spoilt(exported["int8+int8"], tmp_path, change)):
        assert type(caught) is error, caught
        assert text in str(caught)
        assert caught.remedy
        assert len(str(caught)) < 3000


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_reads_other_files_is_refused(exported: dict[str, Path], tmp_path: Path, name: str):
    change, proved, loaded, text = GRAPHS[name]
    found = refused(spoilt(exported["int8+int8"], tmp_path, change))
    assert [type(each) for each in found] == [proved, loaded]
    assert "tables.bin" in str(found[0])
    assert text in str(found[1])


def test_a_graph_that_may_loop_is_not_run_by_the_check(exported: dict[str, Path], tmp_path: Path):
    with pytest.raises(Malformed, match="hold no graphs"):
        prove_bundle(spoilt(exported["fp32"], tmp_path, graph(looping, "model.onnx")))


def test_the_tables_of_a_precision_have_codes_of_it(exported: dict[str, Path], tmp_path: Path):
    half = pb.TableCode(tensor="embedding.user.0", code=pb.HALF)
    for name, change in (("fp32", more("codes", half)), ("fp16", told("codes", 0, code=pb.ROW_SCALE))):
        for caught in refused(spoilt(exported[name], tmp_path / name, change)):
            assert type(caught) is Malformed
            assert "codes" in caught.rule


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_is_not_the_one_that_was_written_is_refused(
    exported: dict[str, Path], tmp_path: Path, name: str, cut: bool
):
    bundle = spoilt(exported["fp32"], tmp_path, lambda *_: None)
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data[:-1] if cut else data)
    assert {type(each) for each in refused(bundle)} == {WrongDigest}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_is_refused(exported: dict[str, Path], tmp_path: Path, name: str):
    bundle = spoilt(exported["fp32"], tmp_path, lambda *_: None)
    (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    assert {type(each) for each in refused(bundle)} == {UnsafePath}


@pytest.mark.parametrize(
    ("text", "error"), [('{"format_version": 2, "later": 1}', NewerFormat), ("{", Malformed), ("null", Malformed)]
)
def test_a_manifest_that_is_none_is_refused(exported: dict[str, Path], tmp_path: Path, text: str, error: Refusal):
    bundle = spoilt(exported["fp32"], tmp_path, lambda *_: None)
    (bundle / "manifest.json").write_text(text)
    assert {type(each) for each in refused(bundle)} == {error}


def test_every_named_error_of_a_bundle_has_its_case():
    named = {
        error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.ArtifactError)
    } - {errors.OffGrid}  # of runs: a bundle keeps codes, and each of them gives a value
    met = {case[1] for case in (*HOSTILE.values(), *GRAPHS.values())} | {WrongDigest, NewerFormat, errors.ArtifactError}
    assert named <= met
    assert {NotComplementary, WrongClasses, PlanError, NetError, ParityError} <= met


def test_the_command_tells_what_is_wrong(exported: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = spoilt(exported["fp32"], tmp_path, elsewhere)
    assert main(["export", str(bundle), "--check", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    facts = json.loads(captured.err)
    assert facts["error"] == "UnsafePath"
    assert facts["where"] == str(bundle / "rank.onnx")


def test_a_bundle_of_earlier_versions_is_checked_and_served(exported: dict[str, Path], tmp_path: Path):
    """One graph, no precision, no parts, no card."""

    def earlier(bundle: Path, found: pb.Manifest) -> None:
        for name in ("precision", "graphs", "parts", "no_rank"):
            found.export.ClearField(name)
        for name in ("rank.onnx", "card.md"):
            (bundle / name).unlink()
            unlisted(name)(bundle, found)

    bundle = spoilt(exported["fp32"], tmp_path, earlier)
    assert prove_bundle(bundle)[1].rows == 12
    (version,) = survey(bundle.parents[1]).versions
    assert version.number == 2
    Model(version, "cpu").warm()
