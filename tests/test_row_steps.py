"""Row steps are the dense steps where the mathematics is one, for every join; lazy Adam is Adam on what it saw."""

from collections.abc import Sequence

import numpy as np
import pytest
import runs
import torch
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Encoded
from quorem.train.features import Rows, model_rows
from quorem.train.lookup import distinct, whole_sums
from quorem.train.model import Model
from quorem.train.optimizer import NEVER, Parts, load_state_tensors, make_optimizer, sparse_from, state_tensors
from quorem.train.recipe import TrainConfig
from quorem.train.row_steps import RowSteps, rows_of
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding
from torch.optim import Optimizer

JOINS = [
    ("full", pb.ALONE, 0),
    ("hash", pb.ALONE, 0),
    ("qr", pb.MULT, 0),
    ("mixed_radix", pb.MULT, 0),
    ("chinese_remainder", pb.ADD, 0),
    ("mixed_radix", pb.CONCAT, 0),
    ("qr", pb.PATH, 0),
    ("mixed_radix", pb.PATH, 3),
    ("qr", pb.FEATURE, 0),
    ("semantic", pb.MULT, 0),
    ("completed", pb.FEATURE, 0),
]
KINDS = ["adam", "amsgrad", "adagrad", "rowwise_adagrad"]
BATCH, STEPS = 40, 6


def make(scheme: str, combine: pb.Combine, hidden: int, *, bag: int = 3) -> tuple[Model, Rows]:
    """A DeepFM of a field, a bag that is often empty and a small full field, its weights spread out; and rows."""
    features = [
        runs.categorical("a", "hash", 400),
        runs.categorical("bag", "hash", 150, bag=bag, mean=True),
        runs.categorical("b", "hash", 9),
    ]
    fields = [runs.field(each, scheme, combine, 6, hidden=hidden) for each in features[:2]]
    fields.append(runs.field(features[2], "full", pb.ALONE, 6))
    manifest = runs.model(features, fields, "deepfm", dropout=0, batchnorm=False)
    classes = {key: each for field in fields for key, each in runs.classes_of(field).items()}
    model = Model(manifest.schema, manifest.plan, manifest.net, classes)
    model.reset(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    rows = BATCH * STEPS
    raw = runs.rows(manifest, {}, np.random.default_rng(1), rows)
    return model, model_rows(manifest.schema, {}, Encoded(*raw), (np.arange(rows) % 3 == 0).astype(np.float32))


def configured(kind: str, sparse_rows: int, l2: float = 0.01) -> TrainConfig:
    values = {"optimizer": kind, "lr": 0.05, "l2": l2, "sparse_rows": sparse_rows}
    return TrainConfig.model_validate(values)


def learner(model: Model, config: TrainConfig) -> Optimizer:
    tables = model.table_parameters()
    held = {id(each) for each in tables}
    model.penalise = config.l2 > 0 and config.l2_rows == "batch"
    model.sparsify(sparse_from(config))
    return make_optimizer(config, tables, [each for each in model.parameters() if id(each) not in held])


def learn(model: Model, rows: Rows, optimizer: Optimizer, l2: float, steps: range = range(STEPS)) -> None:
    model.train()
    for number in steps:
        taken = slice(number * BATCH, number * BATCH + BATCH)
        logits, norm = model(rows.ids[taken], rows.numbers[taken])
        loss = binary_cross_entropy_with_logits(logits, rows.labels[taken])
        optimizer.zero_grad()
        (loss + l2 * norm if model.penalise else loss).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adagrad", "rowwise_adagrad"])
@pytest.mark.parametrize(("bag", "l2"), [(3, 0.01), (0, 0.01), (0, 0.0)])
@pytest.mark.parametrize(("scheme", "combine", "hidden"), JOINS)
def test_adagrad_by_rows_is_adagrad(
    scheme: str, combine: pb.Combine, hidden: int, bag: int, l2: float, kind: str
) -> None:
    found = list[Model]()
    for sparse_rows in (10**6, 0):
        model, rows = make(scheme, combine, hidden, bag=bag)
        model = (
            model.double()
        )  # in float32, a gradient that is but rounding decides on the sign of Adagrad's first step
        optimizer = learner(model, configured(kind, sparse_rows, l2))
        learn(model, rows, optimizer, l2)
        found.append(model)
        for each in model.table_parameters():
            assert each.grad is not None
            assert each.grad.is_sparse == (sparse_rows == 0)
        assert isinstance(optimizer, Parts) == (sparse_rows == 0)
    for (name, dense), sparse in zip(found[0].named_parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("threshold", [1, 60, 140])
def test_groups_are_chosen_by_the_rows_of_their_packed_tables(threshold: int) -> None:
    model, rows = make("qr", pb.MULT, 0)
    optimizer = learner(model, configured("rowwise_adagrad", threshold, 0.0))
    learn(model, rows, optimizer, 0.0, range(1))
    told = [(len(each), each.grad is not None and each.grad.is_sparse) for each in model.table_parameters()]
    assert {sparse for _, sparse in told} == ({True} if threshold == 1 else {True, False})
    assert all(sparse == (length >= threshold) for length, sparse in told)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_not_looked_up_rest(kind: str) -> None:
    model, rows = make("full", pb.ALONE, 0)
    optimizer = learner(model, configured(kind, 0))
    learn(model, rows, optimizer, 0.01, range(4))
    before = [each.detach().clone() for each in model.table_parameters()]
    learn(model, rows, optimizer, 0.01, range(4, 5))
    for table, was in zip(model.table_parameters(), before, strict=True):
        assert table.grad is not None
        touched = torch.zeros(len(table), dtype=torch.bool)
        touched[table.grad._indices()[0]] = True
        assert (table.detach() != was).any(1).tolist() == touched.tolist()


@pytest.mark.parametrize("kind", ["adam", "amsgrad"])
def test_lazy_adam_is_adam_where_every_row_is_looked_up(kind: str) -> None:
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(12, 5, generator=draw)
    tables = [nn.Parameter(start.clone()) for _ in range(2)]
    dense = make_optimizer(configured(kind, 100, 0.0), [tables[0]], [])
    lazy = make_optimizer(configured(kind, 0, 0.0), [tables[1]], [])
    for step in range(8):
        rows = torch.cat([torch.randperm(12, generator=draw), torch.randint(0, 12, (30,), generator=draw)])
        weight = torch.randn(42, 5, generator=draw) * 10.0**-step
        for table, optimizer, sparse in zip(tables, (dense, lazy), (False, True), strict=True):
            optimizer.zero_grad()
            (embedding(rows, table, sparse=sparse) * weight).sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[1], tables[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_a_checkpoint_bit_for_bit(kind: str) -> None:
    (whole, rows), (parted, _) = make("qr", pb.MULT, 0), make("qr", pb.MULT, 0)
    config = configured(kind, 60)
    first = learner(whole, config)
    learn(whole, rows, first, 0.01, range(3))
    kept = {name: value.clone() for name, value in state_tensors(first).items()}
    parted.load_state_dict(whole.state_dict())
    second = learner(parted, config)
    load_state_tensors(second, kept, 0.02)
    for group in first.param_groups:
        group["lr"] = 0.02
    assert [group["lr"] for group in second.param_groups] == [group["lr"] for group in first.param_groups]
    for model, optimizer in ((whole, first), (parted, second)):
        learn(model, rows, optimizer, 0.01, range(3, STEPS))
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, state_tensors(second)[name]) for name, value in state_tensors(first).items())


def test_state_is_one_number_a_row() -> None:
    model, rows = make("full", pb.ALONE, 0)
    optimizer = learner(model, configured("rowwise_adagrad", 0))
    learn(model, rows, optimizer, 0.01)
    assert isinstance(optimizer, Parts)
    held = sum(value.numel() for state in optimizer.parts[1].state.values() for value in state.values())
    assert held == sum(len(each) for each in model.table_parameters())


def test_l2_of_whole_tables_steps_none_by_rows() -> None:
    config = TrainConfig(l2=0.1, l2_rows="all", sparse_rows=0)
    assert sparse_from(config) == NEVER
    assert not isinstance(make_optimizer(config, [nn.Parameter(torch.zeros(9, 2))], []), Parts)


def test_a_batch_of_empty_bags_touches_no_row() -> None:
    model, rows = make("full", pb.ALONE, 0)
    model.sparsify(0)
    ids = rows.ids[:BATCH].clone()
    ids[:, 1:4] = -1
    model(ids, rows.numbers[:BATCH])[0].sum().backward()
    (partition,) = next(model.embedding.packed()).packed()
    bag = [field.feature for field in partition.fields].index("bag")
    assert partition.weight.grad is not None
    touched, _ = rows_of(partition.weight.grad)
    assert not ((touched >= partition.starts[bag]) & (touched < partition.starts[bag + 1])).any()


@pytest.mark.parametrize("dense", [0, 10**6])
def test_what_backward_summed_is_not_sorted_again(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sorts = list[int]()

    def counted(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
        sorts.append(len(keys))
        return torch.sort(keys, stable=True)

    monkeypatch.setattr("quorem.train.lookup._sorted", counted)
    model, rows = make("full", pb.ALONE, 0, bag=0)
    learn(model, rows, learner(model, configured("rowwise_adagrad", dense, 0.0)), 0.0, range(1))
    assert sorts == [3 * BATCH]  # once for the tables of both orders, their gradients and their steps


@pytest.mark.parametrize(("scheme", "combine", "hidden"), JOINS)
def test_rows_that_are_said_to_rise_rise(scheme: str, combine: pb.Combine, hidden: int) -> None:
    model, rows = make(scheme, combine, hidden, bag=0)
    model.sparsify(0)
    for group in model.embedding.packed():
        lookups, spread = group.lookups(rows.ids)
        for lookup in lookups:
            assert spread is not None or not lookup.ordered
            assert not lookup.ordered or bool((lookup.rows.diff() >= 0).all())


def plain_sums(rows: Tensor, gradients: Tensor, size: int) -> Tensor:
    return torch.zeros(size, gradients.shape[1], dtype=gradients.dtype).index_add_(0, rows, gradients)


@pytest.mark.parametrize("size", [3, 1000, 2**31 + 5, 2**62])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_duplicates_are_summed_once(count: int, size: int) -> None:
    draw = torch.Generator().manual_seed(count)
    high = min(size, 90)
    rows = torch.randint(0, high, (count,), generator=draw) + (size - high)
    gradients = torch.randn(count, 4, generator=draw, dtype=torch.float64)
    expected = plain_sums(rows - (size - high), gradients, high)
    found = distinct(rows, size)
    assert found.rows.tolist() == sorted(set(rows.tolist()))
    torch.testing.assert_close(found.sums(gradients), expected[found.rows - (size - high)])
    ordered, order = rows.sort(stable=True)
    known = distinct(ordered, size, ordered=True)
    assert torch.equal(known.rows, found.rows)
    assert torch.equal(known.sums(gradients[order]), found.sums(gradients))
    if count:
        again, sums = whole_sums(rows, gradients)  # as on a GPU: a row as often as it came, each with the whole
        assert again.tolist() == sorted(rows.tolist())
        torch.testing.assert_close(sums, expected[again - (size - high)])


@pytest.mark.parametrize("width", [1, 3, 16, 65])
def test_a_dense_gradient_has_the_bits_of_torchs_on_any_number_of_threads(width: int) -> None:
    draw = torch.Generator().manual_seed(width)
    rows, table = torch.randint(0, 50, (3000,), generator=draw), torch.zeros(50, width)
    gradients = torch.randn(3000, width, generator=draw)
    expected = torch.ops.aten.embedding_dense_backward(gradients, rows, len(table), -1, False)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found = distinct(rows, len(table))
            assert torch.equal(found.sums(gradients), expected[found.rows])
    finally:
        torch.set_num_threads(threads)


def test_a_row_that_is_written_twice_is_written_alike() -> None:
    """As on a GPU, where equal rows keep their places: the step of `whole_sums` is that of the distinct rows."""
    draw = torch.Generator().manual_seed(4)
    rows, values = torch.randint(0, 20, (90,), generator=draw), torch.randn(90, 3, generator=draw)
    tables = list[Tensor]()
    for together in (whole_sums(rows, values), (distinct(rows, 20).rows, distinct(rows, 20).sums(values))):
        table = nn.Parameter(torch.ones(20, 3))
        optimizer = RowSteps([table], "adam", 0.1, 0.01)
        # The gradient says that each of its rows is there once: it is not summed again.
        table.grad = torch.sparse_coo_tensor(
            together[0].unsqueeze(0), together[1], table.shape, is_coalesced=True, check_invariants=False
        )
        optimizer.step()
        tables.append(table.detach())
    torch.testing.assert_close(*tables)


def both_devices(models: Sequence[Model]) -> list[tuple[str, Tensor, Tensor]]:
    return [
        (name, one.cpu(), other.cpu())
        for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True)
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "combine", "hidden"), JOINS)
def test_row_steps_on_a_gpu_are_those_of_the_cpu(scheme: str, combine: pb.Combine, hidden: int, kind: str) -> None:
    found = list[Model]()
    for device in ("cpu", "cuda"):
        model, rows = make(scheme, combine, hidden)
        model = model.to(device)
        learn(model, rows.to(torch.device(device)), learner(model, configured(kind, 0)), 0.01)
        found.append(model)
    for name, one, other in both_devices(found):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    model, rows = make("qr", pb.MULT, 0)
    model, there = model.cuda(), rows.to(torch.device("cuda"))
    optimizer = learner(model, configured("rowwise_adagrad", 0))
    learn(model, there, optimizer, 0.01, range(2))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        learn(model, there, optimizer, 0.01, range(2, STEPS))
    finally:
        torch.cuda.set_sync_debug_mode("default")
