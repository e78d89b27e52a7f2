"""quorem's own step: its model, lookups and optimizers on ready batches, without loader or evaluation."""

from collections.abc import Sequence

from quorem.protos import manifest_pb2 as pb
from quorem.protos import models, packing, partitions, plan
from quorem.train.memory import keep_freed
from quorem.train.model import Model
from quorem.train.optimizer import make_optimizer, sparse_from
from quorem.train.recipe import TrainConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..graphs.criteo import COLLISIONS, THRESHOLD
from .shapes import BOTTOM, DIM, LR, MLP, NUMBERS, TOP, Step


def make_plan(sizes: Sequence[int], *, compressed: bool, first_order: bool) -> pb.Plan:
    """Full tables, or quotient and remainder, multiplied, for columns of more than `THRESHOLD` ids."""

    def fields(dim: int) -> list[pb.Field]:
        found = list[pb.Field]()
        for k, n in enumerate(sizes, 1):
            whole = not compressed or n <= THRESHOLD
            tables = partitions.full(n) if whole else partitions.quotient_remainder(n, -(-n // COLLISIONS))
            scheme = pb.FULL if whole else pb.QUOTIENT_REMAINDER
            found.append(plan.build_field(f"C{k}", n, tables, scheme=scheme, combine=pb.MULT, dim=dim))
        return packing.pack(found)

    return pb.Plan(fields=fields(DIM), first_order=fields(1) if first_order else [])


def make_model(design: str, sizes: Sequence[int], *, compressed: bool) -> Model:
    """The model of a design, `deepfm` or `dlrm`, with fresh weights."""
    schema = pb.Schema()
    for k in range(1, NUMBERS + 1 if design == "dlrm" else 1):
        schema.features.add(name=f"I{k}", values=pb.FLOAT, side=pb.CONTEXT, dense=pb.Dense(transform=pb.NONE, scale=1))
    for k, n in enumerate(sizes, 1):
        ids = pb.IdRange(size=n - 1, out_of_range=pb.RARE)
        schema.features.add(name=f"C{k}", values=pb.INTEGER, side=pb.CANDIDATE, id=ids)
    tables = make_plan(sizes, compressed=compressed, first_order=design == "deepfm")
    if design == "deepfm":
        net = models.deepfm(tables, 0, mlp=MLP, batchnorm=False, dropout=0.0)
    else:
        net = models.dlrm(tables, NUMBERS, bottom=BOTTOM, top=TOP, batchnorm=False, dropout=0.0)
    model = Model(schema, tables, net, {})
    model.reset(1)
    return model


def make_step(
    design: str, sizes: Sequence[int], *, compressed: bool, optimizer: str, frozen: bool = False
) -> tuple[Step, int]:
    """A step of training, and the bytes of tables and state; with `frozen` tables only the layers learn."""
    keep_freed()
    model = make_model(design, sizes, compressed=compressed)
    tables = model.table_parameters()
    held = {id(each) for each in tables}
    config = TrainConfig.model_validate({"optimizer": optimizer, "lr": LR})
    if frozen:
        for each in tables:
            each.requires_grad_(False)
    model.sparsify(sparse_from(config))
    others = [each for each in model.parameters() if id(each) not in held]
    learner = make_optimizer(config, [] if frozen else tables, others)
    model.train()

    def step(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
        logits, _ = model(ids, numbers if design == "dlrm" else numbers[:, :0])
        loss = binary_cross_entropy_with_logits(logits, labels)
        learner.zero_grad()
        loss.backward()
        learner.step()

    columns = 1 if optimizer == "rowwise_adagrad" else 0
    multiples = {"adam": 2, "amsgrad": 3, "adagrad": 1, "rowwise_adagrad": 0}[optimizer]
    numbers = sum(each.numel() * (1 + multiples) + len(each) * columns for each in tables)
    return step, 4 * numbers
