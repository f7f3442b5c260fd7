"""timerfd_create(2): a timer that is read.

What time means after a restore: a timer goes on with what remained of it, as if the
time in between had not passed. Only one set to an instant of the wall clock
(TFD_TIMER_ABSTIME on CLOCK_REALTIME or CLOCK_REALTIME_ALARM) keeps that instant, and
expires at once where it has passed.
"""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import close_on_error
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer import libc

_TFD_IOC_SET_TICKS = 0x4008_5400  # _IOW('T', 0, u64), since Linux 3.17
_CLOCK_REALTIME_ALARM = 8
_CLOCK_BOOTTIME_ALARM = 9
_WALL_CLOCKS = frozenset({time.CLOCK_REALTIME, _CLOCK_REALTIME_ALARM})


class Record(msgspec.Struct, frozen=True, tag="timerfd"):
    clock: int
    """CLOCK_* number."""
    flags: int
    """TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET of timerfd_settime(2)."""
    value: int
    """Nanoseconds: the instant for a wall-clock timer with TFD_TIMER_ABSTIME, for all
    others the time that remained; 0 disarmed."""
    interval: int
    """Nanoseconds."""
    ticks: int
    """Expirations not yet read."""


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link == "anon_inode:[timerfd]"


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its clock, setting, and expirations not yet read."""
    # An interval timer stops at an expiration that nobody reads, and catches up when
    # asked (timerfd_do_gettime in fs/timerfd.c). No program can tell the difference,
    # but only then do value and ticks mean what they say.
    setting = libc.timerfd_gettime(descriptor.local)
    fields = dict(
        line.split(": ", 1)
        for line in Path(f"/proc/self/fdinfo/{descriptor.local}").read_text().splitlines()
        if ": " in line
    )
    clock = int(fields["clockid"])
    flags = int(fields["settime flags"], 8)
    value = setting.value
    if value and _keeps_instant(clock, flags):
        value += time.clock_gettime_ns(_readable(clock))
    return Record(clock, flags, value, setting.interval, int(fields["ticks"]))


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Makes and arms it.

    Raises:
        RestoreError: An alarm clock without CAP_WAKE_ALARM.
    """
    try:
        fd = libc.timerfd_create(record.clock, os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(
            f"a timer on clock {record.clock} cannot be made: {error.strerror}",
            "Restore as a user who may set alarms (CAP_WAKE_ALARM).",
        ) from error
    with close_on_error(fd):
        value = record.value
        absolute = record.flags & libc.TFD_TIMER_ABSTIME
        if value and absolute and not _keeps_instant(record.clock, record.flags):
            value += time.clock_gettime_ns(_readable(record.clock))
        libc.timerfd_settime(fd, libc.TimerSetting(value, record.interval), record.flags)
        if record.ticks:
            _set_ticks(fd, record, rebuilding)
        return fd


def _keeps_instant(clock: int, flags: int) -> bool:
    return clock in _WALL_CLOCKS and bool(flags & libc.TFD_TIMER_ABSTIME)


def _readable(clock: int) -> int:
    """The clock that shows the same time and that everybody may read."""
    return {
        _CLOCK_REALTIME_ALARM: time.CLOCK_REALTIME,
        _CLOCK_BOOTTIME_ALARM: time.CLOCK_BOOTTIME,
    }.get(clock, clock)


def _set_ticks(fd: int, record: Record, rebuilding: Rebuilding) -> None:
    try:
        fcntl.ioctl(fd, _TFD_IOC_SET_TICKS, struct.pack("=Q", record.ticks))
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        # Linux without CONFIG_CHECKPOINT_RESTORE: one expiration is the best to be had.
        libc.timerfd_settime(fd, libc.TimerSetting(1, record.interval))
        rebuilding.warnings.append(
            f"A timer had expired {record.ticks} time(s) unread; after the restore it "
            "counts from one."
        )
