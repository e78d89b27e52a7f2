"""Run: the steps of a study as processes of one thread each, a few at a time; what is done is not done again.

Seconds are those that the process and all that it waited for spent on a CPU, so that they are the same beside others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from quorem.protos.manifest import write_atomically
from quorem.train.checkpoint import NAME as CHECKPOINT

from .steps import Step

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run_all(steps: Sequence[Step], directory: Path, processes: int) -> dict[str, str]:
    """Run what is not done; name -> what went wrong, of those that failed and of those that needed them.

    Raises:
        SystemExit: a step that was done by another command than it would be now.
    """
    for step in steps:
        _check(step, directory)
    waiting = [step for step in steps if not result_of(step.name, directory)]
    done, failed = {step.name for step in steps} - {step.name for step in waiting}, dict[str, str]()
    print(f"{len(done)} steps done, {len(waiting)} to do", flush=True)
    running = dict[Future[str], Step]()
    with ThreadPoolExecutor(processes) as pool:
        while waiting or running:
            for step in [each for each in waiting if failed.keys() & each.needs]:
                failed[step.name] = f"needs {', '.join(sorted(failed.keys() & step.needs))}"
                waiting.remove(step)
            ready = [step for step in waiting if done >= set(step.needs)]
            for step in ready[: processes - len(running)]:
                waiting.remove(step)
                running[pool.submit(_one, step, directory)] = step
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                step, wrong = running.pop(finished), finished.result()
                if wrong:
                    failed[step.name] = wrong
                else:
                    done.add(step.name)
                seconds = seconds_of(step.name, directory)
                print(f"{step.name}: {wrong or 'done'}{f', {seconds:.0f} s' if seconds else ''}", flush=True)
    return failed


def result_of(name: str, directory: Path) -> dict[str, Any]:
    """What a step printed; nothing while it is not done."""
    path = directory / f"{name}.json"
    return json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size else {}


def seconds_of(name: str, directory: Path) -> float | None:
    """What a step took; not known of one that came from elsewhere, or was interrupted and gone on with."""
    return _clock(name, directory).get("seconds")


def _clock(name: str, directory: Path) -> dict[str, Any]:
    path = directory / f"{name}.clock.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _check(step: Step, directory: Path) -> None:
    told = _clock(step.name, directory).get("command")
    if told is not None and told != list(step.command) and result_of(step.name, directory):
        raise SystemExit(
            f"{directory / step.name} was made by another command than it would be now:\n  {' '.join(told)}\n"
            f"  {' '.join(step.command)}\nName another directory, or delete {step.name} and {step.name}.json there."
        )


def _one(step: Step, directory: Path) -> str:
    """Run a step; what went wrong, nothing if nothing did."""
    resumed = (directory / step.name / CHECKPOINT).exists()
    command = [sys.executable, "-m", *step.command, *(["--resume"] if resumed else [])]
    part, log = directory / f"{step.name}.json.part", directory / f"{step.name}.log"
    with part.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | ONE_THREAD)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return f"exit code {process.returncode}: {(log.read_text().strip().splitlines() or ['no word'])[-1][:300]}"
    seconds = None if resumed else round(usage.ru_utime + usage.ru_stime, 2)
    told = {"command": list(step.command), "seconds": seconds}
    write_atomically(directory / f"{step.name}.clock.json", json.dumps(told).encode() + b"\n")
    part.replace(directory / f"{step.name}.json")
    if not log.stat().st_size:
        log.unlink()
    return ""
