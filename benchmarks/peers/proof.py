"""The proof that a server gives the golden rows their logits: what is timed afterwards is the same work."""

from collections.abc import Sequence
from typing import cast

import grpc
import numpy as np

from .rows import Request, logits_of

TIMEOUT_S = 30.0


def prove(name: str, address: str, requests: Sequence[Request], bound: float) -> float:
    """Ask for all of them; the greatest deviation found, of logits, relative where they are greater than one.

    Raises:
        SystemExit: a call fails, or a logit is further off than the bound.
    """
    worst = 0.0
    with grpc.insecure_channel(address) as channel:
        for request in requests:
            try:
                reply = channel.unary_unary(request.path)(request.body, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                call = cast("grpc.Call", error)
                told = f"{call.code().name}: {call.details()}"
                raise SystemExit(f"{name} at {address} does not answer: {told}") from None
            found = logits_of(request.path, reply)
            if found.shape != request.logits.shape:
                raise SystemExit(f"{name} at {address} gives {len(found)} logits for {len(request.logits)} rows")
            off = np.abs(found - request.logits) / np.maximum(1, np.abs(request.logits))
            if not (off <= bound).all():
                raise SystemExit(f"{name} at {address}: a logit is {off.max():.3g} off, allowed are {bound:g}")
            worst = max(worst, float(off.max()))
    return worst
