"""Whether a kernel has done something by itself since it was made a point: threads that
compute between cells, timers, child processes.

Linux counts the time that each thread has spent on a processor, in nanoseconds
(/proc/PID/task/TID/schedstat). An ipykernel that nobody asks for anything takes 0.2 ms a
second of it (measured: ipykernel 7.4, Python 3.11, 30 s). What answers questions, such as
those for completions, is not counted.

So a change that takes less than `_ALLOWED_NS` is not noticed: then the kernel is brought
back to what it was when the cell before had ended, and not to the instant before it.
"""

from __future__ import annotations

import time
from contextlib import suppress

from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.tracer.proc import read_proc
from jupyter_cr.tracer.proc.tasks import list_children, list_threads

__all__ = ["Meter"]

_ALLOWED_NS = 10_000_000
_ALLOWED_RATE = 0.002
"""Of the time that has passed: ten times what an idle ipykernel takes."""


class Meter:
    """Of one kernel.

    Args:
        pid: of its root, as we see it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = time.monotonic_ns()
        self._spent = 0
        """Before `_last`."""
        self._last = _processor_time(pid)
        self._is_paused = False

    @property
    def has_moved(self) -> bool:
        """Whether it has done something."""
        allowed = _ALLOWED_NS + _ALLOWED_RATE * (time.monotonic_ns() - self._since)
        return self._total() > allowed

    def pause(self) -> None:
        """What it does now is not counted."""
        if not self._is_paused:
            self._spent = self._total()
            self._is_paused = True

    def go_on(self) -> None:
        """What it does is counted again."""
        self._last = _processor_time(self._pid)
        self._is_paused = False

    def _total(self) -> int:
        if self._is_paused:
            return self._spent
        return self._spent + max(0, _processor_time(self._pid) - self._last)


def _processor_time(pid: int) -> int:
    """Of a process and all below it, in nanoseconds; what has ended does not count."""
    total = 0
    with suppress(CheckpointRestoreError, OSError, ValueError):
        for tid in list_threads(pid):
            with suppress(CheckpointRestoreError):
                total += int(read_proc(pid, "schedstat", tid).split()[0])
        for child in list_children(pid):
            total += _processor_time(child)
    return total
