"""The mixture: the vectors of every candidate dim of every field, made of one width, normalised, weighted and added.

Source: Zhao et al., WWW'21, sections 2.2 and 2.3. Legend: B rows; V vectors; w columns of a vector's wide table, in
which all its candidates stand; N candidates; D the base, the width of what comes out.

The candidate n of a vector x [w] is x̂_n = BatchNorm(W_n S_n x), where S_n picks its columns: the first ones of all
(`shared`) or ones of its own (`separate`); W_n is learnt, and the same for all fields, or pads with zeros. BatchNorm
without scale and shift is an affine map as well, known from mean and covariance of x in the batch, so that the weighted
sum of all candidates is one matrix a vector,

    sum_n p_n x̂_n = M (x - mean x)   with   M = sum_n p_n diag(1 / sqrt(var_n + e)) W_n S_n
                                     and    var_n = diag(W_n S_n C S_n' W_n'), C the covariance of x,

and costs the matrix products of one candidate, not of N. A bias before a BatchNorm changes nothing: there is none.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...protos import manifest_pb2 as pb
from ...protos.collisions import Int32s
from ...protos.errors import RecipeError
from ...protos.plan import table_dims, vector_dims
from ..tables import Looked, Slots, Tables, Touched
from .config import SearchConfig

EPSILON, MOMENTUM = 1e-5, 0.1


class Mixture(Tables):
    """In place of a plan's tables: (B, T) ids -> (B, V * D), the candidates weighted by `weights`, (F, N)."""

    def __init__(
        self,
        config: SearchConfig,
        wide: pb.Plan,
        candidates: Sequence[int],
        slots: Slots,
        bags: Mapping[str, bool],
        classes: Mapping[str, Int32s],
    ) -> None:
        """Lay the wide tables out; `candidates` are those of all fields, rising."""
        fields = [_wide_field(config, field) for field in wide.fields]
        super().__init__(fields, slots, bags, classes)
        self.widths = [width for field in fields for width in vector_dims(field)]
        self.base, self.width, count = config.width, max(self.widths), len(self.widths)
        picked = [columns for field in fields for columns in _columns(config, field, candidates)]
        self.weights = torch.empty(0)  # set before every call
        self.normalises = config.normalise
        self.owner: Tensor
        self.picks: Tensor
        self.mean: Tensor
        self.covariance: Tensor
        owner = [number for number, field in enumerate(fields) for _ in vector_dims(field)]
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        picks = torch.zeros(count, len(candidates), max(candidates), self.width)
        for vector, of_candidates in enumerate(picked):
            for number, columns in enumerate(of_candidates):
                picks[vector, number, range(len(columns)), columns] = 1.0
        self.register_buffer("picks", picks, persistent=False)  # S, rows beyond a candidate's dim are zero
        self.register_buffer("mean", torch.zeros(count, self.width))
        self.register_buffer("covariance", torch.eye(self.width).repeat(count, 1, 1))
        maps = torch.eye(self.base, max(candidates)).repeat(len(candidates), 1, 1)
        self.maps = nn.Parameter(maps, requires_grad=config.unify == "linear")  # W: (N, D, widest candidate)

    def reset_maps(self, generator: torch.Generator) -> None:
        """Draw fresh maps of Xavier's normal distribution, unless they pad."""
        if self.maps.requires_grad:
            with torch.no_grad():
                for each in self.maps:
                    nn.init.xavier_normal_(each, generator=generator)

    def forward(self, ids: Tensor, looked: Looked | None = None) -> tuple[Tensor, list[Touched]]:
        """(B, T) int64 -> (B, V * D) float32, and the rows that were looked up."""
        values, touched = super().forward(ids, looked)
        if min(self.widths) < self.width:
            parts = values.split(self.widths, dim=1)
            values = torch.cat([pad(part, (0, self.width - part.shape[1])) for part in parts], dim=1)
        vectors = values.view(len(ids), -1, self.width).transpose(0, 1)
        covariance = None
        if self.normalises:
            vectors, covariance = self._moments(vectors)
        return torch.bmm(vectors, self._matrix(covariance).transpose(1, 2)).transpose(0, 1).flatten(1), touched

    def _moments(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(V, B, w) less its mean, and the covariance (V, w, w): of the batch; in evaluation, as met so far."""
        if not self.training:
            return vectors - self.mean.unsqueeze(1), self.covariance
        mean = vectors.mean(1)
        centred = vectors - mean.unsqueeze(1)
        covariance = torch.bmm(centred.transpose(1, 2), centred) / vectors.shape[1]
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.covariance.lerp_(covariance, MOMENTUM)
        return centred, covariance

    def _matrix(self, covariance: Tensor | None) -> Tensor:
        """M, (V, D, w), for vectors of a covariance (V, w, w), or such as are not normalised."""
        maps = self.maps @ self.picks  # (V, N, D, w)
        scale = self.weights[self.owner].unsqueeze(2)
        if covariance is not None:
            variance = ((maps.flatten(1, 2) @ covariance) * maps.flatten(1, 2)).sum(2).view(maps.shape[:3])
            scale = scale * (variance.clamp(min=0) + EPSILON).rsqrt()  # rounding may leave less than none
        return (scale.unsqueeze(3) * maps).sum(1)


def _wide_field(config: SearchConfig, field: pb.Field) -> pb.Field:
    """The field with tables in which all its candidates stand.

    Raises:
        RecipeError: joined by path, whose functions read vectors whole.
    """
    k, dims = len(field.tables), config.candidates_of(field.feature)
    if field.combine == pb.PATH:
        raise RecipeError(
            "a search cuts vectors to a candidate's dim, which path's functions read whole",
            found='combine = "path"',
            where=f"[embedding], field {field.feature!r}",
            remedy="Join its tables by mult, add, concat or feature, or leave the field full",
        )
    wide = pb.Field()
    wide.CopyFrom(field)
    if config.lookup == "separate":
        parts = [table_dims(field.combine, dim, 0, k) for dim in dims]
        for j, table in enumerate(wide.tables):
            table.dim = sum(part[0 if field.combine == pb.CONCAT else j] for part in parts)
        side_by_side = field.combine in (pb.CONCAT, pb.FEATURE)
        wide.dim = sum(table.dim for table in wide.tables) if side_by_side else wide.tables[0].dim
    return wide


def _columns(config: SearchConfig, field: pb.Field, candidates: Sequence[int]) -> list[list[list[int]]]:
    """For each vector of a wide field, for each candidate, its columns; none where a dim is no candidate."""
    own, k = config.candidates_of(field.feature), len(field.tables)
    vectors = len(vector_dims(field))
    # Tables that stand side by side in one vector hold a share each of every candidate.
    starts = [0]
    for table in field.tables:
        starts.append(starts[-1] + table.dim)
    parts = k if field.combine == pb.CONCAT else 1
    columns, before = list[list[int]](), 0
    for dim in candidates:
        shares = table_dims(field.combine, dim, 0, k)[:parts] if dim in own else []
        first = before if config.lookup == "separate" else 0
        columns.append([starts[j] + first + i for j, share in enumerate(shares) for i in range(share)])
        before += shares[0] if shares else 0
    return [columns] * vectors
