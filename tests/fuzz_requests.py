"""Fuzz of requests: mutated ones are answered, or refused with a caller's status: `python tests/fuzz_requests.py`.

It runs for FUZZ_SECONDS (default 600) from FUZZ_SEED on (default: drawn, and told): on the raw methods, in a process of
its own where warnings are errors, and for a part of the time over a real channel, by the transport TRANSPORT (default
auto). `--full` takes as many cases as a
release needs, however long that is: 10^6 of Score and of ModelInfer, 10^5 of every other method, 10^4 over a channel.
`METHOD SEED` judges one case. Nothing may crash, hang, grow, or be told as a fault of the server.
"""

import faulthandler
import gc
import itertools
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ctypes import c_uint64
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import grpc
from bare import OneProcess
from google.protobuf.message import Message
from mutate import mutate
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import scoring_pb2 as pb
from quorem.protos.errors import QuoremError
from quorem.serve.call import Call
from quorem.serve.exchange import request_of
from quorem.serve.methods import streams
from quorem.serve.services import INFERENCE, SCORER
from quorem.serve.statuses import Status, message_of, status_of
from served import CONTEXT, Rows, head, make_repository, serving

FULL, FULL_OTHERS, FULL_CHANNEL = 10**6, 10**5, 10**4
HEAVY = ("Score", "ModelInfer")
STREAMS = ("ScoreStream", "ModelStreamInfer")
BATCH = 500  # cases between two looks at the clock
CHANNEL_SHARE = 0.25  # of the time
HANG_S = 30.0
WARM_SHARE = 0.2  # of the cases, before memory is looked at
MOST_GROWTH = 8 << 20
ALLOWED = {
    *(Status.OK, Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.FAILED_PRECONDITION, Status.UNIMPLEMENTED),
    *(Status.PERMISSION_DENIED, Status.RESOURCE_EXHAUSTED),
}
NAMED = {
    "Describe": (pb.DescribeRequest, pb.DescribeResponse, {"model": "ctr"}),
    "ServerLive": (oip.ServerLiveRequest, oip.ServerLiveResponse, {}),
    "ServerReady": (oip.ServerReadyRequest, oip.ServerReadyResponse, {}),
    "ModelReady": (oip.ModelReadyRequest, oip.ModelReadyResponse, {"name": "ctr", "version": "1"}),
    "ServerMetadata": (oip.ServerMetadataRequest, oip.ServerMetadataResponse, {}),
    "ModelMetadata": (oip.ModelMetadataRequest, oip.ModelMetadataResponse, {"name": "ctr"}),
    "ModelConfig": (oip.ModelConfigRequest, oip.ModelConfigResponse, {"name": "ctr"}),
    "ModelStatistics": (oip.ModelStatisticsRequest, oip.ModelStatisticsResponse, {"name": "ctr"}),
    "RepositoryIndex": (oip.RepositoryIndexRequest, oip.RepositoryIndexResponse, {"ready": True}),
    "RepositoryModelLoad": (oip.RepositoryModelLoadRequest, oip.RepositoryModelLoadResponse, {"model_name": "ctr"}),
    "RepositoryModelUnload": (
        oip.RepositoryModelUnloadRequest,
        oip.RepositoryModelUnloadResponse,
        {"model_name": "ctr"},
    ),
}
REPLIES: dict[str, type[Message]] = {name: reply for name, (_, reply, _) in NAMED.items()} | {
    "Score": pb.ScoreResponse,
    "ScoreStream": pb.ScoreResponse,
    "ModelInfer": oip.ModelInferResponse,
    "ModelStreamInfer": oip.ModelStreamInferResponse,
}

T = TypeVar("T")


@dataclass
class Judged:
    """What became of cases: how many of each method ended with which status, and what failed, in words."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Judged") -> None:
        """Merge what was judged elsewhere."""
        self.ends.update(other.ends)
        self.failures += other.failures


def bases(golden: Rows) -> dict[str, list[Message]]:
    """Good requests of every method."""
    scores, infers = list[Message](), list[Message]()
    for rows in (1, 3, 20):
        columns = golden.take(rows)
        scores.append(request_of(columns, rows, model="ctr", candidate_ids=[b"a%d" % each for each in range(rows)]))
        context = {name: head(columns.pop(name), 1) for name in CONTEXT}
        scores.append(request_of(columns, rows, context, top_k=2, version=1, logit=True))
        for raw in (True, False):
            infers.append(_infer(golden, rows, raw=raw))
    found = {name: [kind(**values)] for name, (kind, _, values) in NAMED.items()}
    return found | dict.fromkeys(("Score", "ScoreStream"), scores) | dict.fromkeys(("ModelInfer", STREAMS[1]), infers)


def _infer(golden: Rows, rows: int, *, raw: bool) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="ctr", id="i")
    for name, datatype, whole in (("ids", "INT64", golden.encoded.ids), ("dense", "FP32", golden.encoded.dense)):
        tensor, array = request.inputs.add(name=name, datatype=datatype, shape=whole[:rows].shape), whole[:rows]
        if raw:
            request.raw_input_contents.append(array.tobytes())
        else:
            contents = tensor.contents.int64_contents if name == "ids" else tensor.contents.fp32_contents
            contents.extend(array.ravel().tolist())
    return request


class Cases:
    """The requests of every seed, by method."""

    def __init__(self, golden: Rows) -> None:
        self._bases = bases(golden)
        self._others = [each.SerializeToString() for found in self._bases.values() for each in found]

    @property
    def methods(self) -> list[str]:
        """The names of the methods."""
        return sorted(self._bases)

    def make(self, method: str, seed: int) -> list[bytes]:
        """The request of a seed; for streams up to three."""
        dice = random.Random(f"{method} {seed}")
        count = dice.choice((1, 2, 3)) if method in STREAMS else 1
        return [mutate(dice, dice.choice(self._bases[method]), self._others) for _ in range(count)]


class Raw:
    """The methods in this process, as a transport would call them."""

    def __init__(self, models: Path) -> None:
        self._control = OneProcess(models, "ctr")
        self._repository = self._control.repository
        self._unary: dict[str, Any] = {}
        for calls in self._control.methods().values():
            self._unary |= calls
        self._streams = {name: stream for calls in streams(self._repository).values() for name, stream in calls.items()}

    def end(self, method: str, requests: Sequence[bytes]) -> Status:
        """How a call ends: OK, or the status of a named error that can be read; whatever else is raised goes on."""
        call = Call()
        try:
            if method in STREAMS:
                replies = list(self._streams[method](iter(requests), call))
            else:
                replies = [self._unary[method](requests[0], call)]
            for reply in replies:
                REPLIES[method].FromString(reply)
            status = Status.OK
        except QuoremError as error:
            status, told = status_of(error), message_of(error)
            if status not in ALLOWED or not error.rule or len(told) < len(error.rule[:20]):
                raise
        self._repository.statistics.record(call, method, status, call.queue_ns, call.encode_ns, call.compute_ns, 1)
        if method == "RepositoryModelUnload" and status == Status.OK:
            self._control.load("ctr")
        return status


class _Errors(logging.Handler):
    """Counts what is logged at error level or above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage()[:500])


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _judge(pipe: Connection, golden: Rows, models: Path, log: Path, at: Any) -> None:
    """A child: judges the seeds of a method that it is sent, and tells how much memory it has."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 2)
    faulthandler.enable()
    warnings.simplefilter("error")
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    raw, cases = Raw(models), Cases(golden)
    while (asked := pipe.recv()) is not None:
        method, seeds = asked
        judged = Judged()
        for seed in seeds:
            at.value = seed
            try:
                status = raw.end(method, cases.make(method, seed))
                judged.ends[method, status.name] += 1
            except Exception:
                judged.ends[method, "FAILED"] += 1
                judged.failures.append(f"{method} {seed}: {traceback.format_exc()[-3000:]}")
        judged.failures += [f"{method}: logged as an error: {each}" for each in errors.messages]
        errors.messages.clear()
        gc.collect()
        pipe.send((judged, _rss(os.getpid())))


class Judge:
    """A child process that calls the raw methods, watched from here, and started anew when a case ends it."""

    def __init__(self, golden: Rows, models: Path, log: Path) -> None:
        self._at = multiprocessing.get_context("spawn").RawValue(c_uint64, 0)
        self._arguments, self._log = (golden, models, log, self._at), log
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_judge, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def judge(self, method: str, seeds: range) -> tuple[Judged, int]:
        """Judge cases; and the child's memory after them, bytes."""
        try:
            self._pipe.send((method, seeds))  # a child that has just died refuses it: told as the death it is
            before = -1
            while not self._pipe.poll(HANG_S):
                if before == self._at.value:
                    told = f"{method} {before}: no answer after {HANG_S:g} s"
                    os.kill(self._process.pid or 0, signal.SIGABRT)  # has it say where it is
                    self._process.join(HANG_S)
                    break
                before = self._at.value
            else:
                return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            told = f"{method} {self._at.value}: the process ended with {self._process.exitcode}"
        told += "\n" + self._log.read_text(errors="replace")[-3000:]
        self.close()
        self._start()
        return Judged(Counter({(method, "FAILED"): 1}), [told]), 0

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def fuzz_raw(golden: Rows, root: Path, plan: Iterator[tuple[str, range]]) -> Judged:
    """Judge the cases of a plan on the raw methods; memory after the first of them must be what it is at the end."""
    log, total, sizes = root / "raw-log", Judged(), list[int]()
    log.touch()
    judge = Judge(golden, root / "models", log)
    try:
        for method, seeds in plan:
            judged, rss = judge.judge(method, seeds)
            total.add(judged)
            sizes.append(rss)
    finally:
        judge.close()
    warm, last = sizes[int(WARM_SHARE * len(sizes))], sizes[-1]
    print(f"raw methods: {total.ends.total()} cases; memory {warm >> 20} MiB when warm, {last >> 20} MiB at the end")
    if warm and last - warm > MOST_GROWTH:
        total.failures.append(f"memory grew from {warm} to {last} bytes")
    if said := log.read_text(errors="replace"):
        total.failures.append(f"said on stderr: {said[-3000:]}")
    return total


def fuzz_channel(golden: Rows, root: Path, seeds: Iterator[int]) -> Judged:
    """Judge cases of all methods, in turn, over a channel to a server of two workers."""
    cases, judged, sizes = Cases(golden), Judged(), list[int]()
    options = ("--workers", "2", "--max-rows", "128", "--transport", os.environ.get("TRANSPORT", "auto"))
    with serving(root / "models", root / "log", *options) as server:
        with grpc.insecure_channel(server.address) as channel:
            for position, seed in enumerate(seeds):
                method = cases.methods[seed % len(cases.methods)]
                end = _end(channel, method, cases.make(method, seed))
                judged.ends[method, end.name] += 1
                if end not in ALLOWED:
                    judged.failures.append(f"{method} {seed} over a channel: {end.name}")
                if position % 100 == 0:
                    sizes.append(sum(_rss(pid) for pid in server.worker_pids))
        if server.workers() != server.worker_pids:
            judged.failures.append("a worker died")
        said = server.log.read_text()
    if said:
        judged.failures.append(f"the server said: {said[-3000:]}")
    warm, last = sizes[int(WARM_SHARE * len(sizes))], sizes[-1]
    print(f"channel: {judged.ends.total()} cases; memory {warm >> 20} MiB when warm, {last >> 20} MiB at the end")
    if last - warm > MOST_GROWTH:
        judged.failures.append(f"memory of the workers grew from {warm} to {last} bytes")
    return judged


def _end(channel: grpc.Channel, method: str, requests: Sequence[bytes]) -> Status:
    service = SCORER if method in ("Score", "ScoreStream", "Describe") else INFERENCE
    path = f"/{service}/{method}"
    try:
        if method in STREAMS:
            replies: list[bytes] = list(channel.stream_stream(path)(iter(requests), timeout=HANG_S))
        else:
            replies = [channel.unary_unary(path)(requests[0], timeout=HANG_S)]
    except grpc.RpcError as error:
        return Status(error.code().value[0])
    for reply in replies:
        REPLIES[method].FromString(reply)
    return Status.OK


def batches(first: int, methods: Sequence[str], heavy: int, others: int) -> Iterator[tuple[str, range]]:
    """So many cases of each method, a batch of each in turn."""
    for done in range(0, max(heavy, others), BATCH):
        for method in methods:
            if (left := (heavy if method in HEAVY else others) - done) > 0:
                yield method, range(first + done, first + done + min(BATCH, left))


def until(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Items, for so many seconds from the first on."""
    end = time.monotonic() + seconds
    for item in items:
        if time.monotonic() >= end:
            return
        yield item


def fuzz(root: Path, first: int, seconds: float | None) -> Judged:
    """Judge cases from a seed on, for so many seconds; None: as many as a release needs."""
    golden = make_repository(root)
    methods, over = Cases(golden).methods, range(first, first + FULL_CHANNEL)
    if seconds is None:
        judged = fuzz_raw(golden, root, batches(first, methods, FULL, FULL_OTHERS))
        judged.add(fuzz_channel(golden, root, over))
        return judged
    endless = batches(first, methods, sys.maxsize, sys.maxsize)
    judged = fuzz_raw(golden, root, until(endless, (1 - CHANNEL_SHARE) * seconds))
    judged.add(fuzz_channel(golden, root, until(itertools.count(first), CHANNEL_SHARE * seconds)))
    return judged


def main() -> int:
    """Judge as many cases as the arguments or the time allow; exit status 1 if one fails."""
    with tempfile.TemporaryDirectory(prefix="quorem-fuzz-") as name:
        root = Path(name)
        if len(sys.argv) == 3:
            golden, seed = make_repository(root), int(sys.argv[2])
            judged = fuzz_raw(golden, root, iter([(sys.argv[1], range(seed, seed + 1))]))
        else:
            seconds = None if sys.argv[1:] == ["--full"] else float(os.environ.get("FUZZ_SECONDS", "600"))
            first = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**31)))
            print(f"requests mutated from seed {first} on, for {seconds or 'as many as a release needs'} s", flush=True)
            judged = fuzz(root, first, seconds)
    by_method = dict[str, Counter[str]]()
    for (method, end), count in judged.ends.items():
        by_method.setdefault(method, Counter())[end] += count
    for method, ends in sorted(by_method.items()):
        print(f"{ends.total():8}  {method}: {', '.join(f'{end} {count}' for end, count in ends.most_common())}")
    for failure in judged.failures:
        print(f"FAILED {failure}")
    print(f"{judged.ends.total()} requests, {len(judged.failures)} failed")
    return 1 if judged.failures else 0


if __name__ == "__main__":
    sys.exit(main())
