from __future__ import annotations

import os
import signal

from jupyter_cr.tracer import libc
from tests.engine.descriptors.harness import collect_and_close, flags_of, rebuilt

SET = {signal.SIGUSR2, signal.SIGCHLD, signal.SIGRTMAX}


def mask_of(signals: set[signal.Signals]) -> int:
    return sum(1 << (number - 1) for number in signals)


def test_reads_the_same_signals() -> None:
    fd = libc.signalfd(mask_of(SET), flags=os.O_CLOEXEC | os.O_NONBLOCK)
    before = flags_of(fd)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SET)
    try:
        with rebuilt(collect_and_close(fd)) as ([again], _):
            assert flags_of(again) == before
            for number in (signal.SIGUSR2, signal.SIGRTMAX):
                signal.raise_signal(number)
                assert int.from_bytes(os.read(again, 128)[:4], "little") == number
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_empty_set() -> None:
    fd = libc.signalfd(0, flags=os.O_CLOEXEC)
    [file] = collect_and_close(fd)
    with rebuilt([file]) as ([again], _):
        assert os.readlink(f"/proc/self/fd/{again}") == "anon_inode:[signalfd]"
