"""The command `quorem bench`: its arguments and help. Importing it costs nothing."""

import argparse
from pathlib import Path

from ..arguments import add_access_options, add_command, add_file_options, number, numbers
from .sizes import parse_size

TEXT = """\
Measure a server that speaks quorem.v1.Scorer or the Open Inference Protocol over gRPC.

Scenarios:
  closed   CONCURRENCY calls in flight, the next sent when the last is answered: throughput
           at that concurrency, and the latency of callers that wait for their turn
  open     calls arrive at --rate whether or not others were answered (Poisson), and are
           timed from the moment they were due: the latency that users see, queues included
  slo      the greatest Poisson rate whose p99 stays under --bound and of which no call fails, by
           search; the least rate that failed is measured again before it counts
  offline  rows a second when all rows are there at once
  mlperf   MLCommons' LoadGen sends the calls and judges the run (needs the extra `mlperf`):
           its Server scenario, or --mlperf-offline; at --rate, or at what a search finds

A cell is measured in windows, after a warm-up, until three in a row agree within 10 % in
rate and p50. Requests are built before the clock starts: rows drawn from the model's
schema (Zipf-distributed ids, seeded), golden rows of a bundle, or rows of a file.
Latencies are of answered calls; all others are counted by status and shown."""

EXAMPLES = """\
examples:
  quorem bench localhost:8500
  quorem bench localhost:8500 --scenario slo --rows mlperf --bound 60
  quorem bench localhost:8500 --scenario open --rate 200,400,800 --rows 270 --page bench.html
  quorem bench localhost:8500 --rows-file test.csv --ignore label --protocol infer --json
  quorem bench localhost:8001 --model ctr --bundle models/ctr/3     any OIP server
  quorem bench compare localhost:8500 localhost:8001 --bundle models/ctr/3
  quorem bench compare before.json after.json

Exit status: 0 all calls were answered, or the search found a rate; 1 some failed, or it found
none, or the run of LoadGen is invalid; 2 refused, in one line; 130 interrupted, after what was
measured until then was told.
Put the server on other cores than the bench: `client cores` says how much it used."""

SCENARIOS = ("closed", "open", "slo", "offline", "mlperf")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench` to the commands of `quorem`."""
    parser = add_command(commands, "bench", "rate and latency of an endpoint", TEXT, EXAMPLES)
    parser.add_argument(
        "targets",
        metavar="ENDPOINT",
        nargs="+",
        help="host:port; or `compare` and two or more of host:port and files of --out",
    )
    _add_what(parser)
    _add_how(parser)
    _add_told(parser)
    add_access_options(parser)
    parser.set_defaults(run=_bench, extra="bench")


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is sent")
    what.add_argument("--model", metavar="NAME", default="", help="needed where several models are served")
    what.add_argument(
        "--protocol",
        choices=("auto", "score", "infer"),
        default="auto",
        help="Scorer/Score or ModelInfer (default: auto, Score where the server has it)",
    )
    what.add_argument(
        "--rows",
        metavar="SIZE,SIZE",
        type=_sizes,
        help="rows of a request: a number, A-B (uniform), or mlperf (100 to 700, mean 270; default: 1,32,128 of "
        "closed, mlperf elsewhere)",
    )
    what.add_argument("--rows-file", metavar="FILE", type=Path, help="take rows from a file, as `quorem score` does")
    add_file_options(what)
    what.add_argument(
        "--bundle", metavar="DIR", type=Path, help="the version that is served: its schema, golden rows and their proof"
    )
    what.add_argument(
        "--id-range",
        metavar="N",
        type=number(int, 1, 2**62),
        default=1000,
        help="ids of a server that tells no schema (default: %(default)s)",
    )
    what.add_argument("--seed", metavar="N", type=number(int, 0, 2**63 - 1), default=1, help="of what is drawn")


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how it is measured")
    how.add_argument("--scenario", choices=SCENARIOS, default="closed", help="see above (default: %(default)s)")
    how.add_argument(
        "--concurrency",
        metavar="N,N",
        type=numbers(int, 1, 4096),
        help="in flight, of closed (default: 1,8,32)",
    )
    how.add_argument("--rate", metavar="R,R", type=numbers(float, 0.01, 1e7), help="calls a second, of open and mlperf")
    how.add_argument(
        "--bound", metavar="MS", type=number(float, 0.1, 6e5), default=60.0, help="of p99 (default: %(default)s)"
    )
    how.add_argument(
        "--warmup", metavar="SECONDS", type=number(float, 0, 3600), default=1.0, help="untimed (default: %(default)s)"
    )
    how.add_argument(
        "--window", metavar="SECONDS", type=number(float, 0.05, 3600), default=1.0, help="(default: %(default)s)"
    )
    how.add_argument(
        "--windows",
        metavar="N",
        type=number(int, 3, 10_000),
        default=10,
        help="the most, where three do not agree (default: %(default)s)",
    )
    how.add_argument(
        "--repeats", metavar="N", type=number(int, 1, 1000), default=1, help="of every cell (default: %(default)s)"
    )
    how.add_argument(
        "--timeout", metavar="SECONDS", type=number(float, 0.01, 600), default=30.0, help="of a call (%(default)s)"
    )
    how.add_argument(
        "--processes", metavar="N", type=number(int, 1, 1024), help="client processes (default: half the cores)"
    )
    how.add_argument(
        "--driver", choices=("quorem", "h2load"), default="quorem", help="h2load: a cheaper client, of closed only"
    )
    how.add_argument("--noop", action=argparse.BooleanOptionalAction, default=True, help="price a call without work")
    how.add_argument("--mlperf-offline", action="store_true", help="LoadGen's Offline scenario instead of its Server")
    how.add_argument(
        "--seconds", metavar="S", type=number(float, 1, 86400), default=600.0, help="of mlperf (default: %(default)s)"
    )
    how.add_argument(
        "--queries", metavar="N", type=number(int, 1, 10**9), help="the least of mlperf (default: its own rules)"
    )
    how.add_argument("--rounds", metavar="N", type=number(int, 1, 1000), default=5, help="of compare (%(default)s)")


def _add_told(parser: argparse.ArgumentParser) -> None:
    told = parser.add_argument_group("what is told")
    told.add_argument("--metrics", metavar="URL", help="the server's Prometheus page: its CPU and memory")
    told.add_argument("--pid", metavar="PID", type=number(int, 1, 2**31), help="the server's process, if it is here")
    told.add_argument("--logs", metavar="DIR", type=Path, help="keep LoadGen's own logs there")
    told.add_argument("--out", metavar="FILE", type=Path, help="write the result as JSON")
    told.add_argument("--page", metavar="FILE", type=Path, help="write it as one HTML page with plots")
    told.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")


def _sizes(text: str) -> list[object]:
    return [parse_size(part) for part in text.split(",")]


def _bench(args: argparse.Namespace) -> int:
    if args.targets[0] == "compare":
        from .compare import main

        return main(args)
    from .run import main as run

    return run(args)
