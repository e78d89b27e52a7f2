"""The peers: FuxiCTR and DeepCTR-Torch from their packages, and the fused tables of TorchRec (fbgemm) on the CPU.

FuxiCTR's package has layers and the loop, and no DeepFM: the one here is put together from its layers as its model
zoo has it. Steps are the packages' own: what their loops do with a batch that is ready, FuxiCTR's clipping included.
DeepCTR-Torch is spared its default L2, which goes over whole tables.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .plain import DESIGNS
from .shapes import DIM, FIELDS, LR, MLP, Step

NAMES = [f"C{k}" for k in range(1, FIELDS + 1)]


def fuxictr(sizes: Sequence[int]) -> Step:
    """FuxiCTR's DeepFM with its default Adam."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("criteo", tempfile.gettempdir())
    for name, n in zip(NAMES, sizes, strict=True):
        features.features[name] = {"source": "", "type": "categorical", "padding_idx": None, "vocab_size": n}
    features.labels, features.num_fields = ["label"], FIELDS
    features.default_emb_dim = DIM
    features.set_column_index()

    class DeepFM(BaseModel):
        def __init__(self) -> None:
            super().__init__(
                features, task="binary_classification", verbose=0, model_root=tempfile.gettempdir(), metrics=["AUC"]
            )
            self.embedding_layer = FeatureEmbedding(features, DIM)
            self.fm = FactorizationMachine(features)
            self.mlp = MLP_Block(
                input_dim=FIELDS * DIM,
                output_dim=1,
                hidden_units=MLP,
                hidden_activations="relu",
                output_activation=None,
            )
            self.compile("adam", "binary_crossentropy", LR)
            self.reset_parameters()
            self._max_gradient_norm = 10.0

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            known = self.get_inputs(inputs)
            vectors = self.embedding_layer(known)
            logits = self.fm(known, vectors) + self.mlp(vectors.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logits)}

    model = DeepFM()
    model.train()

    def step(ids: Tensor, _: Tensor, labels: Tensor) -> None:
        model.train_step({name: ids[:, k] for k, name in enumerate(NAMES)} | {"label": labels})

    return step


def deepctr(sizes: Sequence[int]) -> Step:
    """DeepCTR-Torch's DeepFM with Adam."""
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    if max(sizes) > 2**24:
        raise ValueError("it takes ids as float32, which has no odd number above 2^24")
    columns = [SparseFeat(name, n, embedding_dim=DIM) for name, n in zip(NAMES, sizes, strict=True)]
    model = DeepFM(columns, columns, dnn_hidden_units=tuple(MLP), l2_reg_linear=0, l2_reg_embedding=0)
    model.compile("adam", "binary_crossentropy")
    model = model.train()

    def step(ids: Tensor, _: Tensor, labels: Tensor) -> None:
        scores = model(ids.float()).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(scores, labels, reduction="sum")
        whole = loss + model.get_regularization_loss() + model.aux_loss
        loss.item()
        whole.item()
        whole.backward()
        model.optim.step()

    return step


def torchrec(design: str, sizes: Sequence[int]) -> Step:
    """fbgemm's table batch, in which TorchRec's fused tables consist, with row-wise Adagrad; layers with Adagrad."""
    import fbgemm_gpu  # noqa: F401  # loads its operators
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    def batch_of_tables(dim: int) -> Any:
        tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(n, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in sizes],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LR,
            eps=1e-10,
            pooling_mode=PoolingMode.SUM,
        )
        for weight in tables.split_embedding_weights():
            weight.normal_(0, 1e-4)
        return tables

    if design != "dlrm":
        raise ValueError("its tables are no narrower than four numbers: a first-order term has one")
    torch.manual_seed(1)
    tables, layers = batch_of_tables(DIM), DESIGNS[design]()
    optimizer = torch.optim.Adagrad(layers.parameters(), lr=LR)

    def step(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
        flat = ids.t().reshape(-1)
        vectors = tables(flat, torch.arange(len(flat) + 1)).view(len(ids), FIELDS, DIM)
        loss = binary_cross_entropy_with_logits(layers(vectors, None, numbers), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
