"""What the command `quorem compare` does: estimate a study, run what is left of it, and report."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from ...protos.errors import QuoremError, RecipeError
from . import summary
from .arms import Arm, make_arms
from .children import Children, cores
from .figures import draw_figures
from .lock import locked
from .probe import probe
from .progress import Display
from .work import RUNS, Work

INTERRUPTED, SOME_FAILED = 130, 1


def main(args: argparse.Namespace) -> int:
    """Run `quorem compare`; returns the exit code."""
    began = time.monotonic()
    if sys.platform == "win32":
        raise QuoremError("`quorem compare` needs the processes of POSIX", found="Windows", remedy="Run it under WSL")
    study, arms = make_arms(args.study, args.set)
    chosen = _select(arms, args.arm)
    _check_place(args.out, begun=args.report)
    jobs = args.jobs or cores()
    if args.estimate:
        return _estimate(args, Work(study.title, arms, chosen, args.out, args.seeds), jobs)
    if args.report:  # needs no lock: it reads what is whole, and writes whole files
        work = Work(study.title, arms, chosen, args.out, args.seeds)
        work.results.recall_failures(work.runs)
        return _report(args, work, stopped=False)
    (args.out / RUNS).mkdir(parents=True, exist_ok=True)
    with locked(args.out) as held:
        work = Work(study.title, arms, chosen, args.out, args.seeds)
        minutes = float("inf") if args.limit_minutes is None else args.limit_minutes
        with Children(jobs, args.device, held) as children, Display(Console(stderr=True, quiet=args.quiet)) as display:
            if not args.quiet:
                work.measure(children, display)
            work.run(children, display, began + 60 * minutes)
        return _report(args, work, stopped=children.stopping)


def _select(arms: Sequence[Arm], globs: Sequence[str]) -> list[Arm]:
    for glob in globs:
        if not any(fnmatchcase(arm.name, glob) for arm in arms):
            raise RecipeError(
                "--arm names arms of the study, with * and ? for what varies",
                found=repr(glob),
                where="--arm",
                remedy=f"Arms are {', '.join(repr(arm.name) for arm in arms)}",
            )
    return [arm for arm in arms if not globs or any(fnmatchcase(arm.name, glob) for glob in globs)]


def _check_place(out: Path, *, begun: bool) -> None:
    """Refuse a directory that holds something else than a study; or no study, where one must have been begun."""
    if (out / RUNS).is_dir():
        return
    if begun:
        raise RecipeError(
            "--report tells of a study that was begun", found="none", where=str(out), remedy="Leave --report out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(
            "a study is written into a new or empty directory, or gone on with where it was begun",
            found="something else",
            where=str(out),
            remedy="Name another --out",
        )


def _estimate(args: argparse.Namespace, work: Work, jobs: int) -> int:
    """Probe what is not known, and tell how long it will take; the exit code."""
    left = [due.run for due in work.left()]
    with Children(jobs, args.device) as children:
        probe(left, work.costs, children)
    if children.stopping:
        return INTERRUPTED
    if args.json:
        seconds = work.costs.left(left, jobs) if left else 0.0
        rounded = None if seconds is None else round(seconds, 1)
        unknown = {kind.name: why for kind, why in work.costs.unknown.items()}
        facts = {"out": str(args.out), "counts": work.counts(), "jobs": jobs, "seconds": rounded, "unknown": unknown}
        print(json.dumps(facts))
    elif not args.quiet:
        print("\n".join(work.estimate(jobs)))
    return 0


def _report(args: argparse.Namespace, work: Work, *, stopped: bool) -> int:
    """Write tables and figures, tell how it ended; the exit code."""
    table, found, counts = work.write(), work.summary(), work.counts()
    draw_figures(found, args.out)
    again = shlex.join(_again(args))
    if args.json:
        facts = {"out": str(args.out), "counts": counts} | ({"stopped": True, "remedy": again} if stopped else {})
        print(json.dumps(facts | summary.as_dict(found, work.results)))
    elif not args.quiet:
        print(table)
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        print(f"{counts['finished']} of {counts['all']} runs done{failed}; see {args.out}", file=sys.stderr)
    if stopped and not args.json:
        print(f"Stopped; runs under way are saved. Go on with:\n  {again}", file=sys.stderr)
    return INTERRUPTED if stopped else SOME_FAILED if counts["failed"] else 0


def _again(args: argparse.Namespace) -> list[str]:
    """The command that goes on with the study."""
    command = ["quorem", "compare", str(args.study), "--out", str(args.out)]
    command += [part for glob in args.arm for part in ("--arm", glob)]
    command += [part for setting in args.set for part in ("--set", setting)]
    for flag, value in (("--jobs", args.jobs), ("--seeds", args.seeds), ("--limit-minutes", args.limit_minutes)):
        command += [] if value is None else [flag, str(value)]
    return [*command, "--device", args.device]
