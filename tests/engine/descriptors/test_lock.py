from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import pytest

from jupyter_cr.engine.descriptors import calls_for_place
from jupyter_cr.engine.descriptors.base import Place
from jupyter_cr.engine.descriptors.lock import Lock
from jupyter_cr.errors import RestoreError, Unsupported
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    describe,
    put_in_place,
    rebuilt,
)

LOCK_AND_WAIT = """
import fcntl, sys
file = open(int(sys.argv[1]), "r+b", closefd=False) if sys.argv[1].isdigit() else open(
    sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def flock(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def lock_on(probe: BufferedRandom, start: int = 0, length: int = 0) -> tuple[int, int, int]:
    """(type, start, length) of the lock that another open file meets."""
    answer = fcntl.fcntl(probe, fcntl.F_OFD_GETLK, flock(fcntl.F_WRLCK, start, length))
    kind, _, first, count, _ = struct.unpack("@hhqqi4x", answer)
    return kind, first, count


def is_flocked(path: Path, mode: int = fcntl.LOCK_EX) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def child_that_locks(target: str, call: str, *fds: int) -> Iterator[int]:
    """A process that holds the lock meanwhile; gives its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK_AND_WAIT, target, call],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=fds,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        yield child.pid
        child.communicate(timeout=30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lock file").write_bytes(bytes(100))
    return tmp_path / "lock file"


@pytest.mark.parametrize("mode", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_flock(path: Path, mode: int) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, mode)
    files = collect_and_close(fd)
    assert not is_flocked(path)
    with rebuilt(files):
        assert is_flocked(path)
        assert is_flocked(path, fcntl.LOCK_SH) == (mode == fcntl.LOCK_EX)


def test_flock_shared_by_two_open_files(path: Path) -> None:
    fds = [os.open(path, os.O_RDONLY) for _ in range(2)]
    for fd in fds:
        fcntl.flock(fd, fcntl.LOCK_SH)
    files = collect_and_close(*fds)
    with rebuilt(files) as (again, _):
        fcntl.flock(again[0], fcntl.LOCK_UN)
        assert is_flocked(path)
        fcntl.flock(again[1], fcntl.LOCK_UN)
        assert not is_flocked(path)


def test_ofd_locks(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock(fcntl.F_RDLCK, 10, 5))
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock(fcntl.F_WRLCK, 50))
    with path.open("r+b") as probe, rebuilt(collect_and_close(fd)):
        assert lock_on(probe, 0, 20) == (fcntl.F_RDLCK, 10, 5)
        assert lock_on(probe, 40) == (fcntl.F_WRLCK, 50, 0)
        assert lock_on(probe, 15, 35)[0] == fcntl.F_UNLCK


def test_posix_locks_are_taken_by_the_process(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLK, flock(fcntl.F_WRLCK, 20, 10))
    fcntl.fcntl(fd, fcntl.F_SETLK, flock(fcntl.F_RDLCK, 40))
    # Kept open: closing any descriptor on the file drops the process's locks.
    with path.open("r+b") as probe:
        files = collect_and_close(fd)
        with rebuilt(files) as (fds, rebuilding):
            assert lock_on(probe)[0] == fcntl.F_UNLCK
            put_in_place(files, fds, rebuilding)
            assert lock_on(probe, 0, 35) == (fcntl.F_WRLCK, 20, 10)
            assert lock_on(probe, 35) == (fcntl.F_RDLCK, 40, 0)


def test_no_locks(path: Path) -> None:
    [file] = collect_and_close(os.open(path, os.O_RDWR))
    assert file.record.locks == ()


def test_lock_of_a_child_through_an_inherited_descriptor(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    with child_that_locks(str(fd), "lockf", fd) as pid:
        here, there = Place(os.getpid(), fd), Place(pid, fd)
        [file] = collect(describe(fd, here, there))
    os.close(fd)
    assert file.record.locks == (Lock("posix", exclusive=True, pid=pid),)
    with rebuilt([]) as (_, rebuilding):
        assert calls_for_place(file, here, rebuilding) == []
        [call] = calls_for_place(file, there, rebuilding)
        assert call.args[:2] == (fd, fcntl.F_SETLK)
        assert not call.optional
        rebuilding.mode = "fork"
        assert calls_for_place(file, there, rebuilding)[0].optional


def test_somebody_else_has_it_at_the_restore(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    files = collect_and_close(fd)
    before = set(os.listdir("/proc/self/fd"))
    with (
        child_that_locks(str(path), "flock") as pid,
        pytest.raises(RestoreError, match=rf"lock file.*process {pid}"),
        rebuilt(files),
    ):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_fork_goes_on_without_the_original_s_lock(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with rebuilt(collect(fd), "fork") as ([again], rebuilding):
        assert os.read(again, 1) == b"\0"
        assert str(path) in rebuilding.warnings[0]
    os.close(fd)


def test_directory(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with rebuilt(collect_and_close(fd)):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(other)


def test_deleted_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    fcntl.flock(fd, fcntl.LOCK_EX)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert is_flocked(Path(f"/proc/self/fd/{again}"))


def test_lease_is_refused(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    with pytest.raises(Unsupported, match="LEASE"):
        collect(fd)
    os.close(fd)


def test_lock_on_something_else_is_refused() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, flock(fcntl.F_RDLCK, 0, 1))
    with pytest.raises(Unsupported, match="is locked"):
        collect(fd)
    os.close(fd)
