"""`python -m benchmarks.serving.wire`: what the wire itself takes, there and back between two cores, without HTTP."""

import multiprocessing
import os
import socket
import time

from ..graphs.clock import machine
from .one_core import spread

ROUNDS, EXCHANGES = 7, 5000
REQUEST, REPLY = 378, 89  # bytes of a call of one row over HTTP/2, and of its answer
CHUNK = 4096


def main() -> None:
    """Measure and print."""
    there, here = sorted(os.sched_getaffinity(0))[:2]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = multiprocessing.get_context("spawn")
        address = listener.getsockname()
        process = context.Process(target=_answer, args=(listener, there), daemon=True)
        process.start()
        os.sched_setaffinity(0, {here})
        with socket.create_connection(address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _p50_us(sock)
            found = spread([_p50_us(sock) for _ in range(ROUNDS)])
        process.join()
    print(f"{REQUEST} bytes there and {REPLY} back over loopback: p50 {found} us of {ROUNDS} rounds; {machine()}")


def _p50_us(sock: socket.socket) -> float:
    took = list[float]()
    for _ in range(EXCHANGES):
        began = time.perf_counter()
        sock.sendall(bytes(REQUEST))
        left = REPLY
        while left:
            left -= len(sock.recv(CHUNK))
        took.append(time.perf_counter() - began)
    return 1e6 * sorted(took)[EXCHANGES // 2]


def _answer(listener: socket.socket, core: int) -> None:
    os.sched_setaffinity(0, {core})
    sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        left = REQUEST
        while came := sock.recv(CHUNK):
            left -= len(came)
            if not left:
                left = REQUEST
                sock.sendall(bytes(REPLY))


if __name__ == "__main__":  # the other process imports it again
    main()
