"""The model card: every fact that it tells stands in the manifest, and nothing in a manifest can mark its text."""

import itertools
from pathlib import Path

import pytest
from quorem.export.card import NAME, WORST, card
from quorem.protos import manifest
from quorem.protos import manifest_pb2 as pb
from rich.markdown import Markdown

GOLDEN = Path(__file__).parent / "golden" / "manifest.json"
HOSTILE = "a|b `x` *y* _z_ <i>&amp; [l](u) \\ ~~s~~ user_id"


def precision(tables: pb.Number, dense: pb.Number) -> pb.Precision:
    return pb.Precision(tables=tables, dense=dense)


@pytest.fixture
def bundle() -> pb.Manifest:
    """The golden manifest, as an export to int8 would have it."""
    made = manifest.parse(GOLDEN.read_bytes(), "golden")
    stages = [pb.Stage(name=name, nodes=nodes) for name, nodes in (("ids", 1000), ("lookup", 7), ("net", 20))]
    made.export.CopyFrom(
        pb.Export(
            run_sha256="ab" * 32,
            parity_bound=2e-3,
            table_bytes=9000,
            slots=8,
            dense=3,
            precision=precision(pb.INT8, pb.INT8),
            codes=[pb.TableCode(tensor=f"embedding.f{i:02}.0", code=pb.FIELD_SCALE, error=i / 1000) for i in range(14)],
            int8_layers=["mlp.0"],
            graphs=[pb.GraphFacts(file="model.onnx", stages=stages)],
            no_rank="the net has an attention layer",
            parts=[pb.PartBytes(name="tables", bytes=8000), pb.PartBytes(name="alignment", bytes=1192)],
            candidates=[
                pb.Candidate(precision=precision(pb.FP32, pb.FP32), bytes=40_000, auc=0.8, logloss=0.4),
                pb.Candidate(
                    precision=precision(pb.INT8, pb.INT8), bytes=12_000, auc=0.79995, logloss=0.4001, rmse=2e-3
                ),
            ],
        )
    )
    made.files.add(name="tables.bin", bytes=9192, sha256="cd" * 32)
    return made


def read(text: str) -> tuple[list[str], list[list[str]], list[str]]:
    """A card as a reader of Markdown sees it: headings, rows of cells, and the other texts."""
    headings, rows, others, tokens = list[str](), list[list[str]](), list[str](), Markdown(text).parsed
    for before, token in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("code_block", "html_block"):
            others.append(token.content)
        if token.type != "inline":
            continue
        assert token.children is not None
        marked = {each.type for each in token.children} - {"text", "code_inline", "text_special"}
        assert marked == set(), token.content
        shown = "".join(each.content for each in token.children)
        if before.type == "heading_open":
            headings.append(shown)
        elif before.type in ("th_open", "td_open"):
            rows[-1].append(shown)
        else:
            others.append(shown)
    return headings, rows, others


def test_a_card_has_the_sections_that_readers_look_for(bundle: pb.Manifest) -> None:
    headings, _, _ = read(card(bundle))
    assert headings[0] == "Model card: deepfm"
    expected = {
        "Model details",
        "Intended use",
        "Training data",
        "Evaluation",
        "Limitations",
        "How to score",
        "Lineage",
    }
    assert expected <= set(headings)
    assert len(headings) == len(set(headings))


def test_its_numbers_are_those_of_the_manifest(bundle: pb.Manifest) -> None:
    _, rows, others = read(card(bundle))
    prose = "\n".join(others)
    found = {row[0]: row[1:] for row in rows}
    assert found["label"] == ["clicked"]
    assert found["training rows"] == ["800"]
    assert found["negative rate"] == ["all rows"]
    assert found["embedding parameters"] == ["4,360"]
    assert found["auc"] == ["0.750000", "0.742188"]
    assert (
        found["user"]
        == [*("context", "id", "ids 1", "100", "quotient remainder", "(1,25) (25,4)", "mult", "4", "464 B", "1.6 KiB")]
        or found["user"][2] == "ids 0"
    )
    assert found["tables.bin: alignment"] == ["1,192"]
    assert ["fp32", "fp32", "40,000", "0.800000", "0.400000", "0.00e+00", ""] in rows
    assert ["int8", "int8", "12,000", "0.799950", "0.400100", "2.00e-03", "chosen"] in rows
    assert found["run: sha256 of its manifest.json"] == ["ab" * 32]
    assert found["tables.bin"] == ["cd" * 32]
    assert found["ids"] == ["1,000", "0"]
    assert "The tables take 9,000 bytes" in prose
    assert "within 2.00e-03" in prose
    assert "There is no rank.onnx: the net has an attention layer" in prose
    assert "8,589,933,604 share every row with another one" in prose
    assert "n / 2^64" in prose
    assert "│ 1,000 nodes │" in prose


def test_the_worst_tables_are_told_one_by_one_and_the_others_counted(bundle: pb.Manifest) -> None:
    _, rows, others = read(card(bundle))
    told = [row for row in rows if row[0].startswith("embedding.f")]
    assert [row[0] for row in told] == [f"embedding.f{13 - i:02}.0" for i in range(WORST)]
    assert told[0] == ["embedding.f13.0", "field scale", "1.30e-02"]
    assert any("14 field scale" in each and "the 10 with" in each for each in others)


def test_the_same_manifest_gives_the_same_card_and_the_card_does_not_tell_of_itself(bundle: pb.Manifest) -> None:
    before = card(bundle)
    bundle.files.add(name=NAME, bytes=len(before), sha256="ef" * 32)
    assert card(bundle) == before
    assert card(manifest.parse(GOLDEN.read_bytes(), "golden")) != before


def test_what_names_say_is_shown_and_not_obeyed(bundle: pb.Manifest) -> None:
    """Each row has as many cells as its head, and names read as they were written."""
    old = bundle.schema.features[3].name
    bundle.schema.features[3].name = HOSTILE
    for fields in (bundle.plan.fields, bundle.plan.first_order):
        for field in fields:
            if field.feature == old:
                field.feature = HOSTILE
    bundle.training.label, bundle.training.source, bundle.net.model = HOSTILE, "\x1b[2J\n# gone", HOSTILE
    bundle.export.no_rank = HOSTILE
    bundle.export.int8_layers[0] = HOSTILE
    headings, rows, others = read(card(bundle))
    assert headings[0] == f"Model card: {HOSTILE}"
    assert ["label", HOSTILE] in rows
    assert ["source", r"\x1b[2J\n# gone"] in rows
    assert [row[0] for row in rows].count(HOSTILE) == 1
    assert f"There is no rank.onnx: {HOSTILE}" in others
    assert "\x1b" not in card(bundle)


def test_a_bundle_that_tells_less_has_a_shorter_card(bundle: pb.Manifest) -> None:
    """One whose export kept fp32, and whose run had neither test rows nor metrics, and kept one negative in four."""
    bundle.training.negative_rate, bundle.training.test_rows = 0.25, 0
    bundle.training.valid_metrics.clear()
    bundle.training.test_metrics.clear()
    bundle.export.CopyFrom(pb.Export(parity_bound=1e-5, table_bytes=9000, slots=8))
    _, rows, others = read(card(bundle))
    prose = "\n".join(others)
    assert ["negative rate", "0.25 of the negatives were kept"] in rows
    assert ["test rows", "none"] in rows
    assert ["precision", "tables fp32, dense layers fp32"] in rows
    assert "The manifest has no metrics." in prose
    assert "Tables by code" not in prose
    assert "rank.onnx" not in prose
    assert "model.onnx takes ids int64 [B, 8] and gives logit" in prose
