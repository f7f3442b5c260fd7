from __future__ import annotations

import fcntl
import os
import select
from pathlib import Path

import pytest

from jupyter_cr.errors import RestoreError, Unsupported
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt

NONBLOCK = os.O_NONBLOCK


@pytest.fixture
def path(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fi fo")
    return tmp_path / "fi fo"


def hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


@pytest.mark.parametrize("data", [b"", b"unread", b"x" * 65536])
def test_both_ends(path: Path, data: bytes) -> None:
    read = os.open(path, os.O_RDONLY | NONBLOCK)
    write = os.open(path, os.O_WRONLY)
    os.write(write, data)
    os.set_blocking(read, True)
    before = flags_of(read), flags_of(write)
    files = collect_and_close(read, write)
    for order in (files, files[::-1]):
        with rebuilt(order) as (fds, rebuilding):
            read, write = fds if order is files else fds[::-1]
            assert (flags_of(read), flags_of(write)) == before
            assert not hung_up(read)
            if data:
                assert os.read(read, 100_000) == data
            os.write(write, b"more")
            assert os.read(read, 10) == b"more"
            assert rebuilding.warnings == []


def test_collecting_leaves_the_bytes(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"abc")
    collect(fd)
    assert os.read(fd, 10) == b"abc"
    os.close(fd)


def test_both_ends_in_one_with_a_capacity_of_its_own(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | NONBLOCK)
    size = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 18)
    os.write(fd, b"y" * size)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert fcntl.fcntl(again, fcntl.F_GETPIPE_SZ) == size
        assert os.read(again, size + 1) == b"y" * size


def test_reader_that_never_had_a_writer(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | NONBLOCK)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert not hung_up(again)
        assert os.read(again, 10) == b""


def test_reader_whose_writer_has_gone(path: Path) -> None:
    read = os.open(path, os.O_RDONLY | NONBLOCK)
    write = os.open(path, os.O_WRONLY)
    os.write(write, b"last")
    os.close(write)
    with rebuilt(collect_and_close(read)) as ([again], _):
        assert hung_up(again)
        assert os.read(again, 10) == b"last"
        assert os.read(again, 10) == b""


def test_writer_whose_reader_is_outside(path: Path) -> None:
    read = os.open(path, os.O_RDONLY | NONBLOCK)
    write = os.open(path, os.O_WRONLY)
    with rebuilt(collect_and_close(write)) as ([again], rebuilding):
        os.write(again, b"x")
        assert os.read(read, 10) == b"x"
        assert rebuilding.warnings == []
    os.close(read)


def test_writer_without_a_reader(path: Path) -> None:
    read = os.open(path, os.O_RDONLY | NONBLOCK)
    write = os.open(path, os.O_WRONLY)
    os.close(read)
    with rebuilt(collect_and_close(write)) as ([again], _), pytest.raises(BrokenPipeError):
        os.write(again, b"x")


def test_used_by_somebody_else(path: Path) -> None:
    mine = os.open(path, os.O_RDWR)
    theirs = os.open(path, os.O_RDWR)
    os.write(mine, b"once")
    with rebuilt(collect_and_close(mine)) as ([again], rebuilding):
        assert os.read(again, 10) == b"once"
        os.set_blocking(again, False)
        with pytest.raises(BlockingIOError):
            os.read(again, 10)
        assert str(path) in rebuilding.warnings[0]
    os.close(theirs)


def test_removed_before_the_checkpoint_is_refused(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    with pytest.raises(Unsupported, match=f"descriptor {fd}"):
        collect(fd)
    os.close(fd)


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY | NONBLOCK])
def test_removed_before_the_restore(path: Path, flags: int) -> None:
    files = collect_and_close(os.open(path, flags))
    path.unlink()
    with pytest.raises(RestoreError, match=str(path)), rebuilt(files):
        pass


def test_became_a_file_before_the_restore(path: Path) -> None:
    files = collect_and_close(os.open(path, os.O_RDWR))
    path.unlink()
    path.touch()
    with pytest.raises(RestoreError, match="none now"), rebuilt(files):
        pass
