from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading

import pytest

from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    put_in_place,
    rebuilt,
)
from tests.engine.harness import wait_until

F_SETOWN_EX, F_GETOWN_EX = 15, 16
TID, PID, PGRP = range(3)


def set_owner(fd: int, kind: int, pid: int) -> None:
    fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("ii", kind, pid))


def owner(fd: int) -> tuple[int, int]:
    kind, pid = struct.unpack("ii", fcntl.fcntl(fd, F_GETOWN_EX, bytes(8)))
    return kind, pid


@pytest.mark.parametrize("kind", [TID, PID, PGRP])
def test_receiver_of_signals(kind: int) -> None:
    number = [threading.get_native_id(), os.getpid(), os.getpgid(0)][kind]
    if not number:
        pytest.skip("this process's group is outside its pid namespace")
    read, write = os.pipe()
    set_owner(read, kind, number)
    fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGRTMIN + 3)
    files = collect_and_close(read, write)
    with rebuilt(files) as (fds, rebuilding):
        put_in_place(files, fds, rebuilding)
        assert owner(read) == (kind, number)
        assert fcntl.fcntl(read, fcntl.F_GETSIG) == signal.SIGRTMIN + 3
        assert owner(write) == (0, 0)


def test_asynchronous_end_goes_on_telling() -> None:
    read, write = os.pipe()
    set_owner(read, PID, os.getpid())
    fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGUSR1)
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    files = collect_and_close(read, write)
    told: list[int] = []
    # Blocking it would not do: any thread of this process may get it.
    before = signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    try:
        with rebuilt(files) as (fds, rebuilding):
            put_in_place(files, fds, rebuilding)
            assert fcntl.fcntl(read, fcntl.F_GETFL) & os.O_ASYNC
            os.write(write, b"x")
            wait_until(lambda: told, "the signal")
            assert told[0] == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_receiver_outside_the_tree_is_forgotten() -> None:
    read, write = os.pipe()
    set_owner(read, PID, os.getppid())
    [file, _] = collect(read, write)
    assert file.owner == (0, 0)
    os.close(read)
    os.close(write)
