"""Access log: what stands in a line and what never does, sampling, rotation, and calls that no disk delays."""

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from quorem.protos.errors import Unavailable
from quorem.serve import access_log
from quorem.serve.access_log import AccessLog
from quorem.serve.call import Call
from quorem.serve.statuses import Status
from served import eventually

CALL = Call(
    token="5ecre7-0123456789", caller="reader", model="ctr", version=3, rows=7, request_bytes=300, reply_bytes=40
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_was_called_and_nothing_of_what_was_asked(tmp_path: Path):
    log = AccessLog(tmp_path / "log")
    log.record("quorem.v1.Scorer/Score", CALL, Status.OK, 0.0012345)
    log.record("quorem.v1.Scorer/Score", Call(token="5ecre7-0123456789"), Status.NOT_FOUND, 0.00001)
    log.close()
    first, second = lines(tmp_path / "log")
    moment = datetime.fromisoformat(first.pop("time"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert first == {
        "worker": os.getpid(),
        "method": "quorem.v1.Scorer/Score",
        "model": "ctr",
        "version": 3,
        "rows": 7,
        "status": "OK",
        "total_us": 1234,
        "caller": "reader",
        "request_bytes": 300,
        "reply_bytes": 40,
    }
    assert second.keys() == first.keys() - {"model", "version", "caller"} | {"time"}
    assert "5ecre7" not in (tmp_path / "log").read_text()


def test_of_calls_that_went_well_one_in_so_many_is_told_and_every_other(tmp_path: Path):
    log = AccessLog(tmp_path / "log", sample=10)
    for number in range(95):
        log.record("Score", CALL, Status.INTERNAL if number % 19 == 0 else Status.OK, 0.0)
    log.close()
    assert Counter(line["status"] for line in lines(tmp_path / "log")) == {"OK": 9, "INTERNAL": 5}


def test_a_file_that_is_moved_away_is_made_anew_and_no_line_is_lost(tmp_path: Path):
    path, log = tmp_path / "log", AccessLog(tmp_path / "log")
    log.record("Score", CALL, Status.OK, 0.0)
    eventually(lambda: path.stat().st_size)
    path.rename(tmp_path / "log.1")
    log.record("Score", CALL, Status.NOT_FOUND, 0.0)
    eventually(lambda: path.exists() and path.stat().st_size)
    log.close()
    assert [line["status"] for line in lines(tmp_path / "log.1")] == ["OK"]
    assert [line["status"] for line in lines(path)] == ["NOT_FOUND"]
    assert log.dropped == 0


def test_where_it_cannot_be_made_anew_lines_go_to_the_one_that_was_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "at").mkdir()
    log = AccessLog(tmp_path / "at" / "log")
    (tmp_path / "at").rename(tmp_path / "moved")
    for _ in range(2):
        log.record("Score", CALL, Status.OK, 0.0)
        time.sleep(3 * access_log.PAUSE_S)
    log.close()
    assert len(lines(tmp_path / "moved" / "log")) == 2
    assert caplog.text.count("the access log was moved") == 1


def test_several_workers_and_threads_append_whole_lines(tmp_path: Path):
    logs = [AccessLog(tmp_path / "log") for _ in range(3)]
    with ThreadPoolExecutor(6) as threads:
        for number in range(3000):
            threads.submit(logs[number % 3].record, "Score", CALL, Status.OK, number / 1e6)
    for log in logs:
        log.close()
    assert sorted(line["total_us"] for line in lines(tmp_path / "log")) == list(range(3000))


def test_a_disk_that_stands_still_delays_no_call_and_what_is_dropped_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(access_log, "DEPTH", 100)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)  # full: the next write waits until somebody reads
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    log = AccessLog(Path(f"/dev/fd/{writer}"))
    log.record("Score", CALL, Status.OK, 0.0)
    time.sleep(4 * access_log.PAUSE_S)
    began = time.perf_counter()
    for _ in range(1000):
        log.record("Score", CALL, Status.OK, 0.0)
    assert time.perf_counter() - began < 0.5
    assert log.dropped == 900
    os.set_blocking(reader, False)
    found = b""
    while found.count(b"\n") < 101:
        try:
            found += os.read(reader, 1 << 20)
        except BlockingIOError:
            time.sleep(0.01)
    log.close()
    assert all(json.loads(line)["status"] == "OK" for line in found.lstrip(b"x").splitlines())
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_is_full_stops_nothing_and_is_counted():
    log = AccessLog(Path("/dev/full"))
    for _ in range(20):
        log.record("Score", CALL, Status.OK, 0.0)
    log.close()
    assert log.dropped == 20


def test_a_file_that_cannot_be_made_is_refused_with_its_remedy(tmp_path: Path):
    with pytest.raises(Unavailable, match="--access-log") as refused:
        AccessLog(tmp_path / "none" / "log")
    assert refused.value.where == str(tmp_path / "none" / "log")


def test_a_call_costs_microseconds(tmp_path: Path):
    log = AccessLog(tmp_path / "log", sample=100)
    best = min(timed(log) for _ in range(5))
    log.close()
    assert best < 20e-6


def timed(log: AccessLog) -> float:
    began = time.perf_counter()
    for _ in range(1000):
        log.record("Score", CALL, Status.OK, 0.0)
    return (time.perf_counter() - began) / 1000
