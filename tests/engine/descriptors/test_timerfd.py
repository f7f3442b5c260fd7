from __future__ import annotations

import os
import select
import time

import pytest

from jupyter_cr.tracer import libc
from jupyter_cr.tracer.libc import TFD_TIMER_ABSTIME, TimerSetting
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
CLOCKS = [time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, time.CLOCK_BOOTTIME]


def make(clock: int, setting: TimerSetting, flags: int = 0) -> int:
    fd = libc.timerfd_create(clock, os.O_CLOEXEC | os.O_NONBLOCK)
    libc.timerfd_settime(fd, setting, flags)
    return fd


def wait(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(30_000)


def field(fd: int, name: str) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return dict(line.rstrip("\n").split(": ", 1) for line in lines if ": " in line)[
            name
        ]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("flags", [0, TFD_TIMER_ABSTIME])
@pytest.mark.parametrize("interval", [0, 7 * SECOND])
def test_remaining_time(clock: int, flags: int, interval: int) -> None:
    base = time.clock_gettime_ns(clock) if flags else 0
    fd = make(clock, TimerSetting(base + HOUR, interval), flags)
    before = flags_of(fd)
    remained = libc.timerfd_gettime(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        now = libc.timerfd_gettime(again)
        assert HOUR // 2 < now.value <= remained.value
        assert now.interval == interval
        assert flags_of(again) == before
        assert int(field(again, "clockid")) == clock
        assert int(field(again, "settime flags"), 8) == flags


def test_disarmed() -> None:
    fd = make(time.CLOCK_MONOTONIC, TimerSetting(0, 0))
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert libc.timerfd_gettime(again) == TimerSetting(0, 0)
        with pytest.raises(BlockingIOError):
            os.read(again, 8)


def test_expired_unread() -> None:
    fd = make(time.CLOCK_MONOTONIC, TimerSetting(1))
    wait(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert int.from_bytes(os.read(again, 8), "little") == 1
        with pytest.raises(BlockingIOError):
            os.read(again, 8)


def test_expirations_of_an_interval_timer_are_counted() -> None:
    fd = make(time.CLOCK_MONOTONIC, TimerSetting(1, HOUR))
    wait(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        now = libc.timerfd_gettime(again)
        assert 0 < now.value <= HOUR
        assert now.interval == HOUR
        assert int.from_bytes(os.read(again, 8), "little") == 1


def test_many_expirations() -> None:
    fd = make(time.CLOCK_MONOTONIC, TimerSetting(1, 1_000_000))
    wait(fd)
    time.sleep(0.02)
    [file] = collect_and_close(fd)
    assert file.record.ticks >= 2
    with rebuilt([file]) as ([again], rebuilding):
        wait(again)
        if not rebuilding.warnings:
            assert int.from_bytes(os.read(again, 8), "little") >= file.record.ticks


def test_instant_of_the_wall_clock_that_has_passed() -> None:
    soon = time.time_ns() + 20_000_000
    fd = make(time.CLOCK_REALTIME, TimerSetting(soon), TFD_TIMER_ABSTIME)
    [file] = collect_and_close(fd)
    assert abs(file.record.value - soon) < SECOND or file.record.ticks == 1
    time.sleep(0.03)
    with rebuilt([file]) as ([again], _):
        wait(again)
        assert int.from_bytes(os.read(again, 8), "little") == 1


def test_cancelled_by_clock_changes() -> None:
    flags = TFD_TIMER_ABSTIME | libc.TFD_TIMER_CANCEL_ON_SET
    fd = make(time.CLOCK_REALTIME, TimerSetting(time.time_ns() + HOUR), flags)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert int(field(again, "settime flags"), 8) == flags


def test_collecting_leaves_the_expirations() -> None:
    fd = make(time.CLOCK_MONOTONIC, TimerSetting(1))
    wait(fd)
    collect(fd)
    assert int.from_bytes(os.read(fd, 8), "little") == 1
    os.close(fd)
