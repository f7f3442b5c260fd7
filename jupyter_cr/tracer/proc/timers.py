"""A process's POSIX timers: /proc/PID/timers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from jupyter_cr.tracer.proc import ProcessId, read_proc

__all__ = ["Notify", "PosixTimer", "parse_posix_timers", "read_posix_timers"]

Notify = Literal["signal", "none", "thread"]


@dataclass(frozen=True, slots=True)
class PosixTimer:
    """One timer of timer_create(2), as proc_pid_timers(5) shows it: how it tells, not
    when it expires (timer_gettime(2), from inside, has that)."""

    id: int
    signal: int
    sigev_value: int
    """What the signal carries: a pointer or an int, as an unsigned 64-bit number."""
    notify: Notify
    to_thread: bool
    """SIGEV_THREAD_ID: ``target`` is a thread id."""
    target: int
    """Pid or thread id, as the present /proc numbers it; 0: a thread that has ended."""
    clockid: int
    """CLOCK_* (time.h); negative for a CPU-time clock of a process or thread."""


def read_posix_timers(pid: ProcessId) -> list[PosixTimer]:
    """The POSIX timers of a process, by id.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
        Unsupported: this Linux has no such file (CONFIG_CHECKPOINT_RESTORE,
            CONFIG_POSIX_TIMERS).
    """
    return parse_posix_timers(read_proc(pid, "timers"))


def parse_posix_timers(text: bytes) -> list[PosixTimer]:
    """The timers in the text of a /proc/PID/timers, by id."""
    lines = [line.partition(": ")[2] for line in text.decode("ascii").splitlines()]
    timers = [_parse_timer(*lines[at : at + 4]) for at in range(0, len(lines), 4)]
    return sorted(timers, key=lambda timer: timer.id)


def _parse_timer(number: str, signal: str, notify: str, clock: str) -> PosixTimer:
    signal, _, value = signal.partition("/")
    how, _, target = notify.partition("/")
    kind, _, target_id = target.partition(".")
    return PosixTimer(
        id=int(number),
        signal=int(signal),
        # "(null)" is how Linux prints a null pointer in %p, though not in %px.
        sigev_value=0 if value == "(null)" else int(value, 16),
        notify=cast(Notify, how),
        to_thread=kind == "tid",
        target=int(target_id),
        clockid=int(clock),
    )
