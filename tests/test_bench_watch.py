"""Laws of a bench's watch: the server's side adds up, and what cannot be told is None, never an error."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from quorem.serve.bench.load import Drawn, build
from quorem.serve.bench.result import Server
from quorem.serve.bench.sizes import Fixed
from quorem.serve.bench.target import find
from quorem.serve.bench.watch import Watch, tree
from quorem.serve.channel import Access
from served import Served

CALLS = 40

BURN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
sys.stdin.readline()
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < .3: pass"])
print("done", flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""


@contextmanager
def metrics(pages: list[str]) -> Iterator[str]:
    """An address whose /metrics shows one page after the other, the last one again and again."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/metrics"
            page = (pages.pop(0) if len(pages) > 1 else pages[0]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("protocol", ["score", "infer"])
def test_our_own_server_tells_times_and_its_processes_the_rest(server: Served, protocol):
    target = find(Access(server.address), "", protocol, None)
    load = build(target, Drawn(), Fixed(128), 1)
    watch = Watch(target, None, server.process.pid)
    mark = watch.begin()
    begun = time.perf_counter()
    with target.access.channel() as channel:
        call = channel.unary_unary(target.path)
        for request in load.requests[:CALLS]:
            call(request, timeout=30)
    spent_us = 1e6 * (time.perf_counter() - begun) / CALLS
    found = watch.end(mark, CALLS)
    assert found.queue_us is not None
    assert found.compute_us is not None
    assert found.cpu_us is not None
    assert found.pss_bytes is not None
    assert 0 <= found.queue_us < spent_us
    assert 0 < found.compute_us < spent_us
    assert found.cpu_us >= 0
    assert found.pss_bytes > 20e6
    assert set(server.worker_pids) < set(tree(server.process.pid))


def test_processor_time_of_a_whole_tree_is_counted(server: Served):
    target = find(Access(server.address), "", "score", None)
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        child = int(process.stdout.readline())
        assert tree(process.pid) == [process.pid, child]
        watch = Watch(target, None, process.pid)
        mark = watch.begin()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        found = watch.end(mark, 10)
        process.stdin.write("\n")
    assert found.cpu_us is not None
    assert found.cpu_us >= 0.28e6 / 10, "of a process that has ended, too"
    assert watch.end(mark, 10) == Server(), "the process is gone, and no call was made"
    assert tree(process.pid) == []


def test_metrics_of_any_server_are_read(server: Served):
    target = find(Access(server.address), "", "score", None)
    page = "# HELP process_cpu_seconds_total x\n# TYPE process_cpu_seconds_total counter\n"
    before = page + 'process_cpu_seconds_total{a="} 7"} 1.5\nprocess_cpu_seconds_total{a="2"} 2 1700000000000\n'
    after = page + 'process_cpu_seconds_total{a="} 7"} 2.5e0\nprocess_cpu_seconds_total{a="2"} 2\nbad line\n\n'
    rss, pss = "process_resident_memory_bytes 1e6\n", "quorem_pss_bytes 12345\n"
    for more, memory in ((rss, 1_000_000), (rss + pss, 12345)):
        with metrics([before, after + more]) as address:
            watch = Watch(target, address, None)
            found = watch.end(watch.begin(), 100)
            assert found.cpu_us == pytest.approx(1e4)
            assert found.pss_bytes == memory
    with metrics(["quorem_info 1\n"]) as address:
        watch = Watch(target, f"http://{address}/metrics", None)
        assert watch.end(watch.begin(), 100) == Server()


def test_what_cannot_be_told_is_no_error(server: Served):
    target = find(Access(server.address), "", "score", None)
    gone = replace(target, access=Access("127.0.0.1:1"))
    unknown = replace(target, version="77")
    for each in (gone, unknown):
        for url in ("127.0.0.1:1", "http://[", "ftp://127.0.0.1:1/metrics", None):
            watch = Watch(each, url, None)
            assert watch.end(watch.begin(), 0) == Server()
    here = Watch(gone, None, os.getpid()).end(Watch(gone, None, os.getpid()).begin(), 0)
    assert here.cpu_us is None, "no call was answered"
    assert here.pss_bytes
