"""ModelStatistics: Triton's statistics of the served versions, over all workers; a function from bytes to bytes."""

from typing import Any

from ..protos import open_inference_pb2 as pb
from .call import Call
from .control import Control
from .messages import parse
from .repository import Repository

OK = "OK"


def model_statistics(repository: Repository, control: Control, request: bytes, _call: Call) -> bytes:
    """Answer a serialized ModelStatisticsRequest: a version's, all of a model, or all there are.

    Raises:
        InputError: a request that is none.
        NotFound, WrongType: not served.
    """
    asked = parse(pb.ModelStatisticsRequest, "inference.ModelStatisticsRequest", request)
    if asked.name or asked.version:
        model = repository.model_of_text(asked.name, asked.version).version
        numbers = [model.number] if asked.version else repository.versions(model.name)
        chosen = [(model.name, number) for number in numbers]
    else:
        chosen = [(name, number) for name in repository.names for number in repository.versions(name)]
    counted = control.snapshot().get("models", {})
    return pb.ModelStatisticsResponse(
        model_stats=[_statistics(name, number, counted.get(name, {}).get(str(number))) for name, number in chosen]
    ).SerializeToString()


def _statistics(name: str, number: int, counts: dict[str, Any] | None) -> pb.ModelStatistics:
    found = pb.ModelStatistics(name=name, version=str(number), inference_stats=_times(0, 0, 0, 0))
    if counts is None:
        return found
    calls = [(status, count) for method in counts["calls"].values() for status, count in method.items()]
    done = sum(count for status, count in calls if status == OK)
    found.last_inference = counts["last_ms"]
    found.inference_count = counts["rows"]
    found.execution_count = counts["executions"]
    output_ns = sum(batch["output_ns"] for batch in counts["batches"].values())
    times = _times(counts["executions"], counts["encode_ns"], counts["compute_ns"], output_ns)
    times.success.count, times.success.ns = done, counts["total_ns"]
    times.fail.count, times.fail.ns = sum(count for _, count in calls) - done, counts["failed_ns"]
    times.queue.count, times.queue.ns = done, counts["queue_ns"]
    found.inference_stats.CopyFrom(times)
    for size, batch in counts["batches"].items():
        parts = _times(batch["count"], batch["encode_ns"], batch["compute_ns"], batch["output_ns"])
        found.batch_stats.add(
            batch_size=int(size),
            compute_input=parts.compute_input,
            compute_infer=parts.compute_infer,
            compute_output=parts.compute_output,
        )
    return found


def _times(count: int, encode_ns: int, compute_ns: int, output_ns: int) -> pb.InferStatistics:
    """Encoding, the graph and the reply of `count` executions; all else zero, yet there: clients look for it."""
    return pb.InferStatistics(
        success=pb.StatisticDuration(),
        fail=pb.StatisticDuration(),
        queue=pb.StatisticDuration(),
        compute_input=pb.StatisticDuration(count=count, ns=encode_ns),
        compute_infer=pb.StatisticDuration(count=count, ns=compute_ns),
        compute_output=pb.StatisticDuration(count=count, ns=output_ns),
    )
