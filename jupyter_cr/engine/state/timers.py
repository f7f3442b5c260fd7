"""Interval timers (setitimer(2)) and POSIX timers (timer_create(2)).

What is left to run is what is recorded: a timer does not run while its process is a
snapshot. Times are Linux's struct itimerval and itimerspec, 32 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec

from jupyter_cr.tracer.calls import Call, Out
from jupyter_cr.tracer.proc.timers import PosixTimer
from jupyter_cr.tracer.remote import Result

__all__ = ["Record", "collect", "collect_calls", "rebuild_calls"]

_INTERVAL_TIMERS = (0, 1, 2)
_SIZE = 32
_SIGEV_NONE, _SIGEV_THREAD_ID = 1, 4
_NOTIFY = {"signal": 0, "none": _SIGEV_NONE, "thread": 2}
_SIGEVENT_SIZE = 64


class RunningTimer(msgspec.Struct, frozen=True):
    """One POSIX timer: sigevent fields, clock, and itimerspec left."""

    id: int
    clock: int
    notify: int
    signal: int
    value: int
    thread: int
    left: bytes


class Record(msgspec.Struct, frozen=True):
    """`intervals`: ITIMER_REAL, _VIRTUAL, _PROF, each a struct itimerval."""

    intervals: tuple[bytes, ...]
    timers: tuple[RunningTimer, ...]


def collect_calls(posix: Sequence[PosixTimer]) -> list[Call]:
    intervals = [Call("getitimer", (which, Out(_SIZE))) for which in _INTERVAL_TIMERS]
    return intervals + [Call("timer_gettime", (timer.id, Out(_SIZE))) for timer in posix]


def collect(
    posix: Sequence[PosixTimer], inner: Mapping[int, int], results: Sequence[Result]
) -> Record:
    """`inner`: a thread as we see it -> as the process itself sees it."""
    count = len(_INTERVAL_TIMERS)
    return Record(
        tuple(result.outs[0] for result in results[:count]),
        tuple(
            _running(timer, inner, result.outs[0])
            for timer, result in zip(posix, results[count:], strict=True)
        ),
    )


def _running(timer: PosixTimer, inner: Mapping[int, int], left: bytes) -> RunningTimer:
    notify = _NOTIFY[timer.notify]
    if timer.to_thread:
        notify |= _SIGEV_THREAD_ID
    return RunningTimer(
        timer.id,
        timer.clockid,
        notify,
        timer.signal,
        timer.sigev_value,
        inner.get(timer.target, 0),
        left,
    )


def rebuild_calls(record: Record) -> list[Call]:
    """Makes timers with the very numbers they had: a process counts them up from 0,
    so those between are made and deleted again."""
    calls: list[Call] = []
    next_id = 0
    for timer in sorted(record.timers, key=lambda timer: timer.id):
        for spare in range(next_id, timer.id):
            calls.append(Call("timer_create", (_CLOCK_MONOTONIC, _SILENT, Out(8))))
            calls.append(Call("timer_delete", (spare,)))
        event = struct.pack("<Qiii", timer.value, timer.signal, timer.notify, timer.thread)
        calls.append(
            Call("timer_create", (timer.clock, event.ljust(_SIGEVENT_SIZE, b"\0"), Out(8)))
        )
        calls.append(Call("timer_settime", (timer.id, 0, timer.left, 0)))
        next_id = timer.id + 1
    return calls + [
        Call("setitimer", (which, value, 0))
        for which, value in enumerate(record.intervals)
        if any(value)
    ]


_CLOCK_MONOTONIC = 1
_SILENT = struct.pack("<Qiii", 0, 0, _SIGEV_NONE, 0).ljust(_SIGEVENT_SIZE, b"\0")
