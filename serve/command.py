"""The commands `quorem serve` and `quorem score`: their arguments and help. Importing them costs nothing."""

import argparse
from pathlib import Path

from .arguments import add_access_options, add_command, add_file_options, number

SERVE = """\
Host the models of a repository over gRPC: quorem.v1.Scorer, the Open Inference Protocol
(inference.GRPCInferenceService, as Triton's clients speak it) and grpc.health.v1.

MODELS is the directory that `quorem export RUN --to MODELS/NAME` fills. The latest valid
version of every model is served, by one process per core that share one port and one copy
of the tables in memory. One line is printed when calls are answered."""

SERVE_EXAMPLES = """\
examples:
  quorem serve models
  quorem serve models --host 0.0.0.0 --port 9000 --workers 4
  quorem serve models --port 0 --json          a free port, told as JSON

SIGTERM and Ctrl-C drain: health says NOT_SERVING, new calls are refused as UNAVAILABLE,
calls in flight get --grace seconds to finish. A worker that dies is replaced."""

SCORE = """\
Score rows by a running server.

ROWS is a CSV file with a header, JSON lines (.jsonl, .ndjson: one object a row) or
Parquet (.parquet, needs `pip install 'quorem[bench]'`). Columns are the model's features
by name. A missing value is an empty cell of a CSV and null elsewhere; a bag of values is a
list, or text that is split where the model's recipe splits it."""

SCORE_EXAMPLES = """\
examples:
  quorem score localhost:8500 rows.csv
  quorem score localhost:8500 test.csv --ignore label --out scores.csv
  quorem score localhost:8500 rows.jsonl --model ctr --version 3 --logit --json"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve` and `score` to the commands of `quorem`."""
    _register_serve(commands)
    _register_score(commands)


def _register_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(commands, "serve", "a model repository becomes a gRPC endpoint", SERVE, SERVE_EXAMPLES)
    parser.add_argument("models", metavar="MODELS", type=Path, help="the model repository")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; 0.0.0.0 for all (default: %(default)s)")
    parser.add_argument(
        "--port", metavar="N", type=number(int, 0, 65535), default=8500, help="0: a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=number(int, 1, 1024),
        help="processes (default: the cores it may use; 1 on cuda)",
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "nghttp2", "grpcio"),
        default="auto",
        help="what carries the calls; auto: nghttp2 where it works, which is several times faster, else grpcio",
    )
    parser.add_argument(
        "--max-connection-age",
        metavar="SECONDS",
        type=number(float, 0, 1e6),
        default=0.0,
        help="of a connection, after which callers open another one and load spreads; 0: any (default: %(default)s)",
    )
    parser.add_argument(
        "--versions",
        metavar="POLICY",
        default="latest:1",
        help="of each model: latest:N, all, or numbers as in 1,3; labelled ones besides (default: %(default)s)",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=number(float, 0, 86400),
        default=2.0,
        help="between looks for new versions; 0: never (default: %(default)s)",
    )
    parser.add_argument(
        "--remember",
        metavar="FILE",
        type=Path,
        help="keeps which versions were read and good, so that a restart reads only files that changed since",
    )
    parser.add_argument(
        "--max-rows",
        metavar="N",
        type=number(int, 1, 1 << 20),
        default=4096,
        help="per request (default: %(default)s)",
    )
    parser.add_argument(
        "--max-request-mb", metavar="N", type=number(int, 1, 2047), default=16, help="MiB (default: %(default)s)"
    )
    parser.add_argument(
        "--max-rows-in-flight",
        metavar="N",
        type=number(int, 1, 1 << 24),
        default=8192,
        help="per worker; what comes beyond is refused at once (default: %(default)s)",
    )
    parser.add_argument(
        "--max-streams",
        metavar="N",
        type=number(int, 1, 4096),
        default=64,
        help="streaming calls per worker (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-rows",
        metavar="N",
        type=number(int, 0, 1 << 20),
        help="compute calls that are there together, up to so many rows; 0: one by one (default: 0, on cuda 1024)",
    )
    parser.add_argument(
        "--batch-delay-ms",
        metavar="MS",
        type=number(float, 0, 1000),
        default=2.0,
        help="the longest that a batch gathers calls that have arrived (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics-port", metavar="N", type=number(int, 0, 65535), help="Prometheus, over HTTP; 0: a free one"
    )
    parser.add_argument("--access-log", metavar="FILE", type=Path, help="gets a JSON line a call, without its content")
    parser.add_argument(
        "--access-log-sample",
        metavar="N",
        type=number(int, 1, 1 << 30),
        default=1,
        help="tell one in N of the calls that end well, and all others (default: %(default)s)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="serve over TLS with this certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="its key (PEM, without a password)")
    parser.add_argument("--tls-ca", metavar="FILE", type=Path, help="callers need a certificate that this vouches for")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="tokens of callers, `name token` a line")
    parser.add_argument(
        "--token-for", choices=("control", "all"), default="control", help="calls that need one (default: %(default)s)"
    )
    parser.add_argument("--allow-control", action="store_true", help="let callers with a token load and unload models")
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=number(float, 0, 3600),
        default=10.0,
        help="for calls in flight when told to stop (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "auto", "cuda"), default="cpu", help="auto takes a GPU where there is one"
    )
    parser.add_argument("--json", action="store_true", help="print the line of readiness as JSON, and errors too")
    parser.set_defaults(run=_serve, extra=None)


def _register_score(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = add_command(commands, "score", "rows of a file become scores", SCORE, SCORE_EXAMPLES)
    parser.add_argument("endpoint", metavar="ENDPOINT", help="host:port of a running `quorem serve`")
    parser.add_argument("rows", metavar="ROWS", type=Path, help="a .csv, .jsonl, .ndjson or .parquet file")
    parser.add_argument("--model", metavar="NAME", default="", help="needed where several models are served")
    selector = parser.add_mutually_exclusive_group()
    selector.add_argument("--version", metavar="N", type=number(int, 1, 2**63 - 1), help="default: the latest")
    selector.add_argument("--label", metavar="LABEL", help="a version by the name that the repository gives it")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write a .csv or .jsonl file instead of printing")
    parser.add_argument("--logit", action="store_true", help="logits instead of probabilities")
    parser.add_argument(
        "--batch", metavar="N", type=number(int, 1, 1 << 20), default=512, help="rows per call (default: %(default)s)"
    )
    add_file_options(parser)
    add_access_options(parser)
    parser.add_argument(
        "--connections",
        metavar="N",
        type=number(int, 1, 1024),
        default=1,
        help="that calls take turns on, two in flight on each; workers share load by them (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and errors as JSON too")
    parser.set_defaults(run=_score, extra=None)


def _serve(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)


def _score(args: argparse.Namespace) -> int:
    from .score import main

    return main(args)
