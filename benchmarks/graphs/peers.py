"""The peers of a lookup in torch: torch.nn.functional.embedding, eager and compiled, and fbgemm's batch of tables.

Each is a function of ids int64 [B, 26] that gives [B, 416], over the product's own tables.bin.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from quorem.protos import manifest_pb2 as pb
from torch.nn.functional import embedding

from .per_field import Places

Lookup = Callable[[torch.Tensor], torch.Tensor]


def tables(path: Path, found: Sequence[pb.Field], starts: Places) -> dict[str, torch.Tensor]:
    """The fields' tables, mapped from the file."""
    mapped = {
        f"embedding.{field.feature}.{j}": np.memmap(
            path, np.float32, "c", starts[f"embedding.{field.feature}.{j}"], (table.rows, table.dim)
        )
        for field in found
        for j, table in enumerate(field.tables)
    }
    return {name: torch.from_numpy(array) for name, array in mapped.items()}


def per_field(found: Sequence[pb.Field], known: dict[str, torch.Tensor]) -> Lookup:
    """One embedding a table, as modules in a list have it."""
    chains = [
        (field.tables[0].rows, [known[f"embedding.{field.feature}.{j}"] for j in range(len(field.tables))])
        for field in found
    ]

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        vectors = list[torch.Tensor]()
        for (rows, own), x in zip(chains, ids.unbind(1), strict=True):
            if len(own) == 1:
                vectors.append(embedding(x, own[0]))
            else:
                vectors.append(embedding(x % rows, own[0]) * embedding(x // rows, own[1]))
        return torch.cat(vectors, 1)

    return look_up


def fused(found: Sequence[pb.Field], known: dict[str, torch.Tensor]) -> Lookup:
    """Two embeddings over tables that are packed as the product packs them: exactly its arithmetic."""
    remainders = torch.cat([known[f"embedding.{field.feature}.0"] for field in found])
    second = [field for field in found if len(field.tables) > 1]
    ones = torch.ones(1, found[0].dim)
    quotients = torch.cat([*(known[f"embedding.{field.feature}.1"] for field in second), ones])
    rows = torch.tensor([field.tables[0].rows for field in found])
    first_rows = torch.tensor(np.cumsum([0, *(field.tables[0].rows for field in found)])[:-1])
    ends = np.cumsum([0, *(field.tables[1].rows for field in second)]).tolist()
    starts = {field.feature: start for field, start in zip(second, ends, strict=False)}
    second_rows = torch.tensor([starts.get(field.feature, ends[-1]) for field in found])

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        quotient = ids // rows
        vectors = embedding(ids - quotient * rows + first_rows, remainders)
        return (vectors * embedding(quotient + second_rows, quotients)).flatten(1)

    return look_up


def fbgemm(found: Sequence[pb.Field], known: dict[str, torch.Tensor]) -> Lookup | str:
    """Two batches of tables, of remainders and of quotients; or why there are none."""
    try:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            EmbeddingLocation,
            SplitTableBatchedEmbeddingBagsCodegen,
        )
    except (ImportError, OSError) as error:
        return f"fbgemm is not measured: {type(error).__name__}: {str(error).splitlines()[0]}"
    second = [field for field in found if len(field.tables) > 1]

    def batch(members: Sequence[pb.Field], j: int) -> torch.nn.Module:
        place = (EmbeddingLocation.HOST, ComputeDevice.CPU)
        shapes = [(field.tables[j].rows, field.dim, *place) for field in members]
        made = SplitTableBatchedEmbeddingBagsCodegen(shapes, optimizer=EmbOptimType.EXACT_SGD)
        for field, weights in zip(members, made.split_embedding_weights(), strict=True):
            weights.copy_(known[f"embedding.{field.feature}.{j}"])
        return made

    with torch.no_grad():
        remainders, quotients = batch(found, 0), batch(second, 1)
    rows = torch.tensor([field.tables[0].rows for field in found])[:, None]
    places = torch.tensor([k for k, field in enumerate(found) if len(field.tables) > 1])

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        by_field = ids.T
        quotient = by_field // rows
        remainder = by_field - quotient * rows
        vectors = remainders(remainder.flatten(), torch.arange(ids.numel() + 1))
        own = quotients(quotient[places].flatten(), torch.arange(len(second) * len(ids) + 1))
        split = vectors.view(len(ids), len(found), -1)
        split[:, places] *= own.view(len(ids), len(second), -1)
        return vectors

    return look_up
