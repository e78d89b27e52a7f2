"""Async client: what `client` does, for asyncio."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from ..protos import scoring_pb2 as pb
from ..protos import scoring_pb2_grpc
from ..protos.encode import Column
from ..protos.errors import QuoremError
from ..protos.ids import Int64s
from .batches import BATCH_ROWS, IN_FLIGHT, batches
from .channel import TIMEOUT_S, Access, Attempts, Retry, Tls, error_of
from .exchange import Description, Gathering, Scores, description_of, placed, request_of, scores_of
from .rows import Batch


class AsyncClient:
    """Connections to a server, for the event loop that it is made in; raises what `Client` does."""

    def __init__(
        self,
        endpoint: str,
        *,
        tls: Tls | None = None,
        token_file: Path | None = None,
        insecure_token: bool = False,
        connections: int = 1,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | bool = True,
    ) -> None:
        """Prepare the connections, which are made by the first calls.

        Args:
            endpoint: host:port.
            tls: certificates; None for a connection in the clear.
            token_file: holds the bearer token of every call.
            insecure_token: send it without TLS, too.
            connections: that calls take turns on; a server's workers share its load by connections, not by calls.
            timeout_s: of a call with all its attempts, where the call does not say.
            retry: which calls are made again; True for the defaults, False for none.

        Raises:
            MissingFile, Malformed, DataError: a certificate, a key or a token that will not do.
        """
        access = Access(endpoint, tls, token_file, insecure_token)
        self.endpoint, self._metadata, self._timeout_s = endpoint, access.metadata(), timeout_s
        self._retry = retry if isinstance(retry, Retry) else Retry() if retry else Retry(attempts=1)
        self._channels = [access.aio_channel() for _ in range(connections)]
        self._stubs = itertools.cycle([scoring_pb2_grpc.ScorerStub(channel) for channel in self._channels])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    async def describe(
        self, model: str = "", *, version: int | None = None, label: str | None = None, timeout_s: float | None = None
    ) -> Description:
        """What a model takes; an empty name means the only model there is."""
        request = pb.DescribeRequest(model=model, version=version, label=label)
        reply = await self._call(lambda stub: stub.Describe, request, timeout_s)
        return description_of(reply, self.endpoint)

    async def score(
        self,
        model: str,
        columns: Mapping[str, Column],
        rows: int,
        *,
        context: Mapping[str, Column] | None = None,
        version: int | None = None,
        label: str | None = None,
        candidate_ids: Int64s | Sequence[bytes] | None = None,
        top_k: int = 0,
        logit: bool = False,
        schema_fingerprint: str = "",
        timeout_s: float | None = None,
    ) -> Scores:
        """Score `rows` candidates: `columns` holds one value a row, `context` one value for all of them."""
        request = request_of(
            columns,
            rows,
            context,
            model=model,
            version=version,
            label=label,
            candidate_ids=candidate_ids,
            top_k=top_k,
            logit=logit,
            schema_fingerprint=schema_fingerprint,
        )
        return scores_of(await self._call(lambda stub: stub.Score, request, timeout_s), request, self.endpoint)

    async def score_rows(
        self,
        model: str,
        columns: Mapping[str, Column],
        rows: int,
        *,
        context: Mapping[str, Column] | None = None,
        version: int | None = None,
        label: str | None = None,
        logit: bool = False,
        batch_rows: int = BATCH_ROWS,
        in_flight: int | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Score any number of rows, `batch_rows` a call (fewer where the server takes fewer), in order.

        All are scored by one version, which is the one that a first call finds. `context` and `timeout_s` are those of
        every call. An error names the rows of the call that failed.
        """
        served = await self.describe(model, version=version, label=label, timeout_s=timeout_s)
        found = Gathering(rows)
        parts = batches(columns, rows, min(batch_rows, served.limits.max_rows))
        async for reply in self.score_batches(
            served, parts, context=context, logit=logit, in_flight=in_flight, timeout_s=timeout_s
        ):
            found.add(reply)
        return found.scores(served)

    async def score_batches(
        self,
        served: Description,
        parts: Iterable[Batch],
        *,
        context: Mapping[str, Column] | None = None,
        logit: bool = False,
        in_flight: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Scores]:
        """Score batches by a version that `describe` told, `in_flight` at a time; replies in the order of the batches.

        Batches are taken as calls are begun, so that a file of any length goes through. An error names the rows of the
        call that failed, once all before it are answered.
        """
        window = in_flight or IN_FLIGHT * len(self._channels)
        pending = deque[tuple[Batch, asyncio.Task[Scores]]]()

        async def call(batch: Batch) -> Scores:
            return await self.score(
                served.model,
                batch.columns,
                batch.rows,
                context=context,
                version=served.version,
                logit=logit,
                schema_fingerprint=served.fingerprint,
                timeout_s=timeout_s,
            )

        try:
            for batch in parts:
                pending.append((batch, asyncio.create_task(call(batch))))
                if len(pending) == window:
                    yield await _next(pending)
            while pending:
                yield await _next(pending)
        finally:
            await _cancel(pending)

    async def _call(
        self, method: Callable[[scoring_pb2_grpc.ScorerStub], Any], request: Any, timeout_s: float | None
    ) -> Any:
        attempts = Attempts(self._retry, self._timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                return await method(next(self._stubs))(request, timeout=attempts.left_s, metadata=self._metadata)
            except grpc.RpcError as error:
                if (wait_s := attempts.wait_s(error)) is None:
                    # Without its traceback, which would keep the call, and thereby a closed client's connection, alive.
                    raise error_of(error.with_traceback(None), self.endpoint) from None
            await asyncio.sleep(wait_s)


async def _next(pending: deque[tuple[Batch, asyncio.Task[Scores]]]) -> Scores:
    batch, reply = pending.popleft()
    try:
        return await reply
    except QuoremError as error:
        raise placed(error, batch) from None


async def _cancel(pending: deque[tuple[Batch, asyncio.Task[Scores]]]) -> None:
    """Wait for calls to end at once; forget them, or an error's traceback would keep their connections open."""
    for _, task in pending:
        task.cancel()
    await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
    pending.clear()
