from __future__ import annotations

import os
import pty
import tty

import pytest

from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt


def test_same_terminal_again() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    before = flags_of(slave)
    [file] = collect(slave)
    with rebuilt([file]) as ([again], rebuilding):
        assert os.path.samestat(os.fstat(again), os.fstat(slave))
        assert flags_of(again) == before
        os.write(again, b"hello")
        assert os.read(master, 10) == b"hello"
        assert rebuilding.warnings == []
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("access", [os.O_RDWR, os.O_RDONLY, os.O_WRONLY])
def test_terminal_that_is_gone(access: int) -> None:
    master, slave = pty.openpty()
    fd = os.open(os.ttyname(slave), access | os.O_NOCTTY | os.O_NONBLOCK)
    os.close(slave)
    before, name = flags_of(fd), os.ttyname(fd)
    files = collect_and_close(fd)
    os.close(master)
    with rebuilt(files) as ([again], rebuilding):
        assert os.fstat(again).st_rdev == os.makedev(1, 3)
        assert flags_of(again) == before
        assert name in rebuilding.warnings[0]
