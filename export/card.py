"""The model card of a bundle: what it is, what it learned from, how well it does, and where it ends; as Markdown.

Its headings are those of Mitchell et al., Model Cards for Model Reporting (FAT*'19), where a manifest has the answers.
"""

import re
from collections.abc import Iterable, Sequence

from ..protos import manifest_pb2 as pb
from ..protos import plan, schema
from ..protos.inspect_field import Facts, field_facts, told_bits, told_tables
from ..protos.inspect_graphs import export_facts
from ..protos.inspect_picture import draw
from ..protos.terminal import told_bytes

NAME = "card.md"
WORST = 10  # tables whose errors are told one by one
MARKS = re.compile(r"[\\`*\[\]<>|&~]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word marks nothing


def card(manifest: pb.Manifest) -> str:
    """The card of a bundle, from its manifest; whether the card is among its files makes no difference."""
    facts = export_facts(manifest)
    sections = [
        ("Model details", _details(manifest, facts)),
        ("Intended use", _use(manifest)),
        ("Training data", _data(manifest)),
        ("Evaluation", _evaluation(manifest)),
        ("Fields", _fields(manifest)),
        ("Size", _size(manifest, facts)),
        ("Precision", _precision(facts)),
        ("Graphs", _graphs(facts)),
        ("Limitations", _limitations(manifest, facts)),
        ("How to score", _scoring(manifest, facts)),
        ("Lineage", _lineage(manifest)),
    ]
    parts = [f"# Model card: {_safe(manifest.net.model)}"]
    for title, blocks in sections:
        parts += [f"## {title}", *(block for block in blocks if block)]
    return "\n\n".join(parts) + "\n"


def _details(manifest: pb.Manifest, facts: Facts) -> list[str]:
    features, fields = manifest.schema.features, manifest.plan.fields
    dense = len(schema.dense_features(manifest.schema))
    sides = [sum(each.side == side for each in features) for side in (pb.CONTEXT, pb.CANDIDATE)]
    kept = facts["precision"] or {"tables": "fp32", "dense": "fp32"}
    return [
        "A click model with compressed embedding tables, trained and exported by quorem. It gives a row a logit and "
        "the probability of a click (`ctr`), which is the logit's logistic function.",
        _table(
            ["", ""],
            [
                ["net", f"{_safe(manifest.net.model)}, {len(manifest.net.layers)} layers"],
                ["features", f"{len(features)}: {sides[0]} of the context, {sides[1]} of the candidate"],
                ["fields with embeddings", f"{len(fields)}"],
                ["dense features", f"{dense}"],
                ["embedding parameters", f"{plan.parameters(fields):,}"],
                ["first-order parameters", f"{plan.parameters(manifest.plan.first_order):,}"],
                ["precision", f"tables {kept['tables']}, dense layers {kept['dense']}"],
            ],
        ),
    ]


def _use(manifest: pb.Manifest) -> list[str]:
    return [
        f"To estimate how probable it is that {_safe(manifest.training.label or 'the label')} is 1 for a row with the "
        "features below, and to rank the candidates of one context by it. Rows are to come from where the training "
        "rows came from: its probabilities hold for traffic like that, and are to be measured again on any other.",
    ]


def _data(manifest: pb.Manifest) -> list[str]:
    training = manifest.training
    rate = f"{training.negative_rate:g} of the negatives were kept" if 0 < training.negative_rate < 1 else "all rows"
    return [
        _table(
            ["", ""],
            [
                ["source", _safe(training.source)],
                ["label", _safe(training.label)],
                ["training rows", f"{training.train_rows:,}"],
                ["validation rows", f"{training.valid_rows:,}"],
                ["test rows", f"{training.test_rows:,}" if training.test_rows else "none"],
                ["negative rate", f"{rate}"],
                ["seed", f"{training.seed}"],
                ["device", _safe(training.device)],
                ["best epoch", f"{training.best_epoch}"],
                *(
                    [["teacher: sha256 of its manifest.json", _safe(training.teacher_sha256)]]
                    if training.teacher_sha256
                    else []
                ),
            ],
        ),
        "The logarithm of the negative rate was added to the last bias, so that probabilities are those of all rows."
        if 0 < training.negative_rate < 1
        else "",
    ]


def _evaluation(manifest: pb.Manifest) -> list[str]:
    valid, test = manifest.training.valid_metrics, manifest.training.test_metrics
    names = sorted(valid.keys() | test.keys())
    told = "Metrics of the trained model, in float32, on the rows as they came (logloss in nats)."
    stopped = "The epoch was chosen on the validation rows: " + (
        "only the test rows have decided nothing." if test else "there are no rows that have decided nothing."
    )
    if not names:
        return ["The manifest has no metrics."]
    rows = [
        [_safe(name), *(f"{split[name]:.6f}" if name in split else "" for split in (valid, test))] for name in names
    ]
    return [told, _table(["metric", ">validation", ">test"], rows), stopped]


def _fields(manifest: pb.Manifest) -> list[str]:
    tables, places = {field.feature: field for field in manifest.plan.fields}, schema.layout(manifest.schema)
    rows = list[list[str]]()
    for each in manifest.schema.features:
        first, slots = places.slots.get(each.name, (0, 0))
        last = f"-{first + slots - 1}" if slots > 1 else ""
        place = f"ids {first}{last}" if slots else f"dense {places.dense[each.name]}"
        side, encoding = pb.Side.Name(each.side).lower(), str(each.WhichOneof("encoding"))
        bag = f", bag of {each.bag.max_length}" if each.HasField("bag") else ""
        start = f" from {each.id.first}" if each.id.first else ""
        rows.append([_safe(each.name), side, encoding + start + bag, place])
        if each.name in tables:
            field = field_facts(tables[each.name], plan.table_bytes)
            told = [f"{schema.cardinality(each):,}", field["scheme"].replace("_", " "), told_tables(field)]
            sizes = [told_bytes(field[size]) for size in ("bytes", "full_bytes")]
            rows[-1] += [*told, field["combine"], str(field["dim"]), told_bits(field), *sizes]
    head = [
        "feature",
        "side",
        "encoding",
        "input",
        ">ids",
        "scheme",
        "(divide,rows)",
        "joined",
        ">dim",
        ">bits",
        ">bytes",
        ">full",
    ]
    return [
        "Bytes are those of embedding tables as trained, in float32 or in codes of the `bits` that are told; `full` is "
        "one table in float32 with a row for every id.",
        _table(head, [[*row, *[""] * (len(head) - len(row))] for row in rows]),
    ]


def _size(manifest: pb.Manifest, facts: Facts) -> list[str]:
    held = facts["table_bytes"]
    full = sum(map(plan.full_bytes, [*manifest.plan.fields, *manifest.plan.first_order]))
    smaller = f", {full / held:,.1f} times as much" if held else ""
    rows = [[f"tables.bin: {_safe(each['name'])}", f"{each['bytes']:,}"] for each in facts["parts"]]
    rows += [[f"file {_safe(file.name)}", f"{file.bytes:,}"] for file in _files(manifest)]
    return [
        f"The tables take {held:,} bytes ({told_bytes(held)}). Full tables of the same dims in float32, "
        f"those of the first order among them, would take {full:,} bytes ({told_bytes(full)}){smaller}.",
        _table(["part", ">bytes"], rows),
    ]


def _precision(facts: Facts) -> list[str]:
    kept = facts["precision"] or {"tables": "fp32", "dense": "fp32"}
    layers = f" ({', '.join(map(_safe, facts['int8_layers']))})" if facts["int8_layers"] else ""
    blocks = [
        f"Tables {kept['tables']}, dense layers {kept['dense']}{layers}. A logit is within "
        f"{_number(facts['parity_bound'])} · max(1, |logit|) of the trained model's, as the run's "
        "reference rows have proved."
    ]
    if facts["candidates"]:
        rows = [
            [
                each["precision"]["tables"],
                each["precision"]["dense"],
                f"{each['bytes']:,}",
                *("nan" if each[name] is None else f"{each[name]:.6f}" for name in ("auc", "logloss")),
                _number(each["rmse"]),
                "chosen" if each["precision"] == facts["precision"] else "",
            ]
            for each in facts["candidates"]
        ]
        head = ["tables", "dense layers", ">bytes", ">AUC", ">logloss", ">RMSE of the logit", ""]
        blocks += ["It was chosen from these, measured on the run's validation rows:", _table(head, rows)]
    if facts["codes"]:
        counts = ", ".join(f"{each['tables']} {each['code'].replace('_', ' ')}" for each in facts["codes"])
        worst = sorted(facts["table_codes"], key=lambda each: (-(each["error"] or 0), each["tensor"]))[:WORST]
        rows = [[_safe(each["tensor"]), each["code"].replace("_", " "), _number(each["error"])] for each in worst]
        which = f"the {len(worst)} with the largest errors" if len(worst) < len(facts["table_codes"]) else "all of them"
        blocks += [
            f"Tables by code: {counts}. Below, {which}; an error is the root mean square of what coding changed, over "
            "that of the trained numbers.",
            _table(["table", "code", ">error"], rows),
        ]
    return blocks


def _graphs(facts: Facts) -> list[str]:
    blocks = list[str]()
    for graph in facts["graphs"]:
        rows = [[_safe(each["name"]), f"{each['nodes']:,}", f"{each['bytes']:,}"] for each in graph["stages"]]
        blocks += [
            f"{_safe(graph['file'])}: {graph['nodes']:,} nodes",
            _table(["stage", ">nodes", ">bytes of constants inside"], rows),
            "\n".join(f"    {line}".rstrip() for line in draw(graph)),
        ]
    if facts["no_rank"]:
        blocks.append(f"There is no rank.onnx: {_safe(facts['no_rank'])}")
    return blocks


def _limitations(manifest: pb.Manifest, facts: Facts) -> list[str]:
    fields, features = manifest.plan.fields, manifest.schema.features
    ids, colliding = sum(each.cardinality for each in fields), sum(each.collisions for each in fields)
    where = ", ".join(f"{_safe(each.feature)} ({each.collisions:,})" for each in fields if each.collisions)
    encoded = {kind: [each for each in features if each.WhichOneof("encoding") == kind] for kind in ("id", "hash")}
    vocabularies = [each for each in features if each.WhichOneof("encoding") == "vocabulary"]
    bags = [each for each in features if each.HasField("bag")]
    told = [
        f"Of {ids:,} ids, {colliding:,} share every row with another one, which the model cannot tell from it: {where}."
        if colliding
        else f"Each of the {ids:,} ids has rows that no other id of its field has together; single rows are shared.",
        f"{_names(vocabularies)}: values that training saw too seldom, or never, share one vector. The graph keeps "
        "no values but hashes of them: an unseen one is taken for a known one with a chance of n / 2^64 among n."
        if vocabularies
        else "",
        f"{_names(encoded['hash'])}: ids are hashes; a value that training never saw has the vector of "
        "whatever shares its bucket."
        if encoded["hash"]
        else "",
        f"{_names(encoded['id'])}: ids outside the range share one vector, or are refused where the schema says so."
        if encoded["id"]
        else "",
        f"{_names(bags)}: bags longer than their slots were cut in training and are refused in serving."
        if bags
        else "",
        "Numbers are rounded as the section on precision says; close candidates may change places."
        if facts["int8_layers"] or any(each["error"] != 0 for each in facts["table_codes"])
        else "",
        "What the model knows ends with its training rows. It was not examined for how it treats groups of people.",
    ]
    return ["\n".join(f"- {each}" for each in told if each)]


def _scoring(manifest: pb.Manifest, facts: Facts) -> list[str]:
    inputs = [f"`ids` int64 [B, {facts['slots']}]"] if facts["slots"] else []
    inputs += [f"`dense` float32 [B, {facts['dense']}]"] if facts["dense"] else []
    rank = any(graph["file"] == "rank.onnx" for graph in facts["graphs"])
    return [
        "Serve the model repository that this version is in, and score a file of raw values by column name:",
        "    quorem serve MODELS --port 8500\n    quorem score localhost:8500 rows.csv",
        f"Any server of ONNX gives the same: model.onnx takes {' and '.join(inputs)} and gives `logit` and `ctr`, "
        "float32 [B]. `ids` are raw values in 64 bits (an integer as it is, the xxh3_64 of a string's UTF-8 bytes, "
        "-2^63 for missing), `dense` raw numbers (NaN for missing), each where the table of fields says."
        + (" rank.onnx takes one context and its candidates, and gives the same scores." if rank else ""),
        "The repository is one of Triton's as it stands: `tritonserver --model-repository=MODELS`.",
    ]


def _lineage(manifest: pb.Manifest) -> list[str]:
    return [
        _table(
            ["", ""],
            [
                ["run: sha256 of its manifest.json", _safe(manifest.export.run_sha256)],
                ["schema fingerprint", schema.fingerprint(manifest.schema)],
                ["manifest format", f"{manifest.format_version}"],
            ],
        ),
        _table(["file", "sha256"], [[_safe(file.name), _safe(file.sha256)] for file in _files(manifest)]),
    ]


def _files(manifest: pb.Manifest) -> list[pb.File]:
    return [file for file in manifest.files if file.name != NAME]


def _names(features: Iterable[pb.Feature]) -> str:
    return ", ".join(_safe(each.name) for each in features)


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.2e}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a column whose name begins with `>` holds numbers."""
    rule = ["---:" if name.startswith(">") else "---" for name in head]
    lines = [[name.removeprefix(">") for name in head], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _safe(text: str) -> str:
    """The text with nothing that Markdown, or a terminal, would obey."""
    return MARKS.sub(r"\\\g<0>", text if text.isprintable() else ascii(text)[1:-1])
