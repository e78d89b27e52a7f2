"""The child: one command of quorem, in a process that does not outlive the one that started it."""

import os
import runpy
import signal
import threading
import time

GRACE_SECONDS = 10.0


def main() -> None:
    """Run `quorem ARGUMENTS`, and watch standard input: who started this holds it open, and writes nothing to it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("quorem", run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which even SIGKILL to the parent brings; then save and end."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
