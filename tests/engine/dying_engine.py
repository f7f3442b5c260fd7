"""Engines that are killed at a given moment: ``python -m tests.engine.dying_engine PID``.

Each line of the input asks for one checkpoint of the process, made by a child:
``stops N`` kills it right after the Nth time that it has waited for a tracee, ``steps N``
right before its Nth access to one (ptrace, a write to its memory, a wait), ``delay S``
after S seconds. The answer is the child's exit status, -9 when it was killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from jupyter_cr.engine.checkpoint import checkpoint_tree
from jupyter_cr.tracer import ptrace
from tests.engine.harness import MemoryWriter


class Countdown:
    """Kills this process when it has counted so far."""

    def __init__(self, number: int) -> None:
        self.left = number

    def count(self) -> None:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            self.count()
            return function(*args)

        return counting

    def after_stop(self, waitpid: Callable[..., tuple[int, int]]) -> Callable[..., Any]:
        def counting(*args: Any) -> tuple[int, int]:
            pid, status = waitpid(*args)
            if pid:
                self.count()
            return pid, status

        return counting


def prepare(how: str, number: str) -> None:
    if how == "stops":
        os.waitpid = Countdown(int(number)).after_stop(os.waitpid)
    elif how == "steps":
        countdown = Countdown(int(number))
        ptrace._ptrace = countdown.before(ptrace._ptrace)
        os.waitpid = countdown.before(os.waitpid)
        os.pwrite = countdown.before(os.pwrite)


def run_child(pid: int, how: str, number: str) -> int:
    try:
        prepare(how, number)
        with MemoryWriter() as writer:
            checkpoint_tree(pid, writer)
        return 0
    except BaseException:  # noqa: BLE001 - a forked child must not return
        traceback.print_exc()
        return 1


def main() -> None:
    pid = int(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        how, number = line.split()
        child = os.fork()
        if not child:
            os._exit(run_child(pid, how, number))
        if how == "delay":
            time.sleep(float(number))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
