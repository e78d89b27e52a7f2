"""Goldens: a bundle's golden rows as requests whose logits are known.

Legend: N rows of a request; S slots of `ids`; D columns of `dense`; R golden rows.
"""

from pathlib import Path

import numpy as np

from ...protos import manifest, manifest_pb2
from ...protos.encode import Column, Encoded, Float32s
from ...protos.errors import Unimplemented
from ...protos.ids import MISSING
from ...protos.schema import Layout, layout
from .requests import arrays, infer, request
from .target import Target


class Goldens:
    """The golden rows of a version's directory; after the last one comes the first again.

    bound: how far off the stored logit a served one may be, as for `quorem serve` itself.
    """

    def __init__(self, target: Target, bundle: Path) -> None:
        """Raises QuoremError for a directory that is none, and Unimplemented for Score of strings."""
        from ..golden import ELSEWHERE, read  # brings ONNX Runtime along, which no other load needs

        found = manifest.read(bundle, verify_digests=False)
        self._target, self._schema, self._layout = target, found.schema, layout(found.schema)
        self._golden = read(bundle, self._layout)
        self.bound = ELSEWHERE * found.export.parity_bound
        if target.protocol == "score":
            _check_no_strings(found.schema, bundle)

    def request(self, first: int, rows: int) -> tuple[bytes, Float32s | None]:
        """N rows, and their logits (N,): unknown where the first row's context takes the place of the others'."""
        chosen = np.arange(first, first + rows) % len(self._golden.logits)
        encoded = Encoded(self._golden.rows.ids[chosen], self._golden.rows.dense[chosen])
        logits = self._golden.logits[chosen]
        if self._target.protocol == "infer":
            return infer(self._target, arrays(self._target, encoded)), logits
        columns = {each.name: _column(each, self._layout, encoded) for each in self._schema.features}
        shares = any(each.side == manifest_pb2.CONTEXT for each in self._schema.features)
        return request(self._target, self._schema, columns, rows), None if shares and rows > 1 else logits


def _check_no_strings(schema: manifest_pb2.Schema, bundle: Path) -> None:
    strings = [each.name for each in schema.features if each.values == manifest_pb2.STRING]
    if strings:
        raise Unimplemented(
            "golden rows keep strings as hashes, which Score does not take",
            found=f"features {strings[:8]}",
            where=str(bundle),
            remedy="Use --protocol infer, or take rows from a --rows-file",
        )


def _column(feature: manifest_pb2.Feature, places: Layout, encoded: Encoded) -> Column:
    """A feature's values as they were before they were encoded; an integer is its own code."""
    if feature.name in places.dense:
        return Column(floats=encoded.dense[:, places.dense[feature.name]])
    start, length = places.slots[feature.name]
    raw = encoded.ids[:, start : start + length]
    there = raw != MISSING
    if feature.HasField("bag"):
        return Column(integers=raw[there], lengths=there.sum(axis=1))
    return Column(integers=raw[:, 0], missing=~there[:, 0])
