"""Descriptors of a stopped child, taken as the engine takes them: with pidfd_getfd(2)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_cr.engine.descriptors import (
    calls_for_place,
    collect_open_file,
    rebuild_open_file,
)
from jupyter_cr.engine.descriptors.base import Descriptor, OpenFile, Place, Rebuilding, Tree
from jupyter_cr.tracer import libc

PROGRAM = """
import fcntl, os, select, sys, tempfile
path = sys.argv[1]
file = open(path, "r+b", buffering=0)
file.seek(3)
fcntl.lockf(file, fcntl.LOCK_EX, 2, 1)
deleted = tempfile.TemporaryFile(buffering=0)
deleted.write(b"deleted content")
read, write = os.pipe()
os.write(write, b"unread")
event = os.eventfd(7)
poll = select.epoll()
poll.register(event, select.EPOLLIN)
poll.register(read, select.EPOLLIN | select.EPOLLET)
print(file.fileno(), deleted.fileno(), read, write, event, poll.fileno(), flush=True)
sys.stdin.read()
"""


@contextmanager
def stopped_child(path: Path) -> Iterator[tuple[int, list[int]]]:
    """Its pid, and the numbers of its descriptors."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        try:
            numbers = [int(word) for word in child.stdout.readline().split()]
            assert len(numbers) == 6
            child.send_signal(signal.SIGSTOP)
            yield child.pid, numbers
        finally:
            child.kill()


def describe(pid: int, pidfd: int, fd: int) -> Descriptor:
    local = libc.pidfd_getfd(pidfd, fd)
    return Descriptor(
        local=local,
        places=(Place(pid, fd, cloexec=True),),
        link=os.readlink(f"/proc/{pid}/fd/{fd}"),
        flags=fcntl.fcntl(local, fcntl.F_GETFL),
        fdinfo=Path(f"/proc/{pid}/fdinfo/{fd}").read_text(),
        stat=os.fstat(local),
    )


def collect_child(pid: int, numbers: list[int]) -> list[OpenFile]:
    pidfd = os.pidfd_open(pid)
    try:
        tree = Tree([describe(pid, pidfd, fd) for fd in numbers])
    except PermissionError:
        pytest.skip("pidfd_getfd(2) is not permitted here")
    finally:
        os.close(pidfd)
    try:
        return [collect_open_file(d, tree, n) for n, d in enumerate(tree.descriptors)]
    finally:
        for descriptor in tree.descriptors:
            os.close(descriptor.local)


def test_descriptors_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with stopped_child(path) as (pid, numbers):
        files = collect_child(pid, numbers)
    rebuilding = Rebuilding("restore", files)
    with rebuilding.stack:
        fds = [rebuild_open_file(file, rebuilding) for file in files]
    file, deleted, read, write, event, epoll = fds
    assert os.read(file, 10) == b"3456789"
    assert os.pread(deleted, 50, 0) == b"deleted content"
    assert os.read(read, 50) == b"unread"
    assert os.write(write, b"x") == 1
    assert os.eventfd_read(event) == 7
    assert os.readlink(f"/proc/self/fd/{epoll}") == "anon_inode:[eventpoll]"
    calls = [
        [call for place in f.places for call in calls_for_place(f, place, rebuilding)]
        for f in files
    ]
    assert [len(some) for some in calls] == [1, 0, 0, 0, 0, 2]
    assert calls[0][0].args[0] == numbers[0]
    assert {call.args[2] for call in calls[5]} == {numbers[4], numbers[2]}
    assert rebuilding.warnings == []
    for fd in fds:
        os.close(fd)


def test_same_open_file_in_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with stopped_child(path) as (pid, numbers):
        pidfd = os.pidfd_open(pid)
        try:
            mine = libc.pidfd_getfd(pidfd, numbers[0])
        except PermissionError:
            pytest.skip("pidfd_getfd(2) is not permitted here")
        finally:
            os.close(pidfd)
        kind = libc.KCMP_FILE
        assert libc.kcmp(os.getpid(), pid, kind, mine, numbers[0]) == 0
        assert libc.kcmp(os.getpid(), pid, kind, mine, numbers[1]) != 0
        assert libc.kcmp(os.getpid(), pid, libc.KCMP_VM) != 0
        assert libc.kcmp_epoll_target(pid, numbers[5], numbers[4])
        with pytest.raises(FileNotFoundError):
            libc.kcmp_epoll_target(pid, numbers[5], numbers[0])
        with pytest.raises(OSError, match="Bad file descriptor"):
            libc.kcmp(os.getpid(), pid, kind, mine, 4000)
        os.close(mine)
