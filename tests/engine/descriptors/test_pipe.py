from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from jupyter_cr.engine.descriptors import pipe
from jupyter_cr.errors import CorruptImage
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    flags_of,
    rebuilt,
)

MIB = 1 << 20


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A pipe that stays with the test, as an original or somebody else does."""
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def fill(write: int, size: int) -> bytes:
    data = os.urandom(size)
    os.set_blocking(write, False)
    done = 0
    while done < size:
        done += os.write(write, data[done:])
    os.set_blocking(write, True)
    return data


def read_all(fd: int) -> bytes:
    """What is unread now."""
    data = b""
    os.set_blocking(fd, False)
    try:
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)
    return data


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@pytest.mark.parametrize("size", [0, 1, 4097, 65536])
def test_both_ends_with_unread_bytes(size: int) -> None:
    read, write = os.pipe()
    data = fill(write, size)
    with rebuilt(collect_and_close(read, write)) as ([read, write], rebuilding):
        assert inode(read) == inode(write)
        assert (flags_of(read), flags_of(write)) == (os.O_RDONLY, os.O_WRONLY)
        assert os.get_blocking(read)
        assert read_all(read) == data
        os.write(write, b"more")
        assert os.read(read, 10) == b"more"
        assert rebuilding.warnings == []


def test_full_pipe_of_a_mib() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, MIB)
    data = fill(write, MIB)
    with rebuilt(collect_and_close(read, write)) as ([read, write], _):
        assert fcntl.fcntl(read, fcntl.F_GETPIPE_SZ) == MIB
        poll = select.poll()
        poll.register(write, select.POLLOUT)
        assert not poll.poll(0)
        assert read_all(read) == data


def test_small_capacity() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    data = fill(write, 4096)
    with rebuilt(collect_and_close(read, write)) as ([read, _], _):
        assert fcntl.fcntl(read, fcntl.F_GETPIPE_SZ) == 4096
        assert read_all(read) == data


def test_collecting_leaves_the_bytes(ends: tuple[int, int]) -> None:
    read, write = ends
    data = fill(write, 10_000)
    collect(read, write)
    assert read_all(read) == data


def test_slots_that_are_partly_read() -> None:
    read, write = os.pipe()
    data = fill(write, 65536)
    assert os.read(read, 5000) == data[:5000]
    with rebuilt(collect_and_close(read, write)) as ([read, _], _):
        assert read_all(read) == data[5000:]


def test_non_blocking_ends() -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    with rebuilt(collect_and_close(read, write)) as ([read, write], _):
        assert not os.get_blocking(read)
        assert not os.get_blocking(write)


def test_write_end_first() -> None:
    read, write = os.pipe()
    fill(write, 100)
    files = collect_and_close(read, write)
    with rebuilt(files[::-1]) as ([write, read], _):
        assert len(read_all(read)) == 100


def test_packets_keep_their_bounds() -> None:
    read, write = os.pipe2(os.O_DIRECT)
    for packet in (b"one", b"three", b"x" * 4096):
        os.write(write, packet)
    with rebuilt(collect_and_close(read, write)) as ([read, write], _):
        assert flags_of(write) == os.O_WRONLY | os.O_DIRECT
        assert [os.read(read, 9000) for _ in range(3)] == [b"one", b"three", b"x" * 4096]
        os.write(write, b"four")
        os.write(write, b"five")
        assert os.read(read, 100) == b"four"


def test_several_open_files_on_each_end() -> None:
    read, write = os.pipe()
    other_read = os.open(f"/proc/self/fd/{read}", os.O_RDONLY | os.O_NONBLOCK)
    other_write = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    both = os.open(f"/proc/self/fd/{write}", os.O_RDWR)
    fds = [read, write, other_read, other_write, both]
    before = [flags_of(fd) for fd in fds]
    os.write(write, b"abc")
    files = collect_and_close(*fds)
    assert sum(file.record.content is not None for file in files) == 1
    with rebuilt(files) as (again, _):
        assert [flags_of(fd) for fd in again] == before
        assert len({inode(fd) for fd in again}) == 1
        assert os.read(again[2], 10) == b"abc"
        os.write(again[3], b"def")
        assert os.read(again[4], 10) == b"def"


def test_end_of_file_after_the_unread_bytes() -> None:
    read, write = os.pipe()
    os.write(write, b"last")
    os.close(write)
    with rebuilt(collect_and_close(read)) as ([read], rebuilding):
        assert os.read(read, 10) == b"last"
        assert os.read(read, 10) == b""
        assert rebuilding.warnings == []


def test_nobody_reads_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    with rebuilt(collect_and_close(write)) as ([write], rebuilding):
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        assert rebuilding.warnings == []


def test_writes_on_to_a_reader_outside(ends: tuple[int, int]) -> None:
    read, write = ends
    files = collect_and_close(write)
    assert files[0].record.outer
    with rebuilt(files) as ([again], rebuilding):
        os.write(again, b"still here")
        assert os.read(read, 20) == b"still here"
        assert rebuilding.warnings == []
        assert flags_of(again) == os.O_WRONLY


def test_reads_on_from_a_writer_outside(ends: tuple[int, int]) -> None:
    read, write = ends
    os.write(write, b"before ")
    files = collect(read)
    with rebuilt(files) as ([again], rebuilding):
        os.write(write, b"after")
        assert os.read(again, 20) == b"before after"
        assert rebuilding.warnings == []


@pytest.mark.parametrize("mine", [0, 1])
def test_descriptor_kept_from_the_replaced_tree(ends: tuple[int, int], mine: int) -> None:
    files = collect(ends[mine])
    number = inode(ends[mine])
    kept = os.dup(ends[mine])
    with rebuilt(files, outer={number: kept}) as ([again], rebuilding):
        assert inode(again) == number
        assert flags_of(again) == flags_of(ends[mine])
        assert rebuilding.warnings == []
    os.close(kept)


def test_two_open_files_from_one_kept_descriptor(ends: tuple[int, int]) -> None:
    read, write = ends
    other = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    files = collect(write, other)
    os.close(other)
    with rebuilt(files, outer={inode(write): write}) as ([one, two], _):
        assert os.get_blocking(one)
        assert not os.get_blocking(two)
        os.write(two, b"x")
        assert os.read(read, 1) == b"x"


def test_reader_outside_has_gone() -> None:
    read, write = os.pipe()
    files = collect_and_close(write)
    os.close(read)
    with rebuilt(files) as ([again], rebuilding):
        assert os.write(again, b"into the void") == 13
        assert os.fstat(again).st_rdev == os.makedev(1, 3)
        assert "/dev/null" in rebuilding.warnings[0]


def test_writer_outside_has_gone() -> None:
    read, write = os.pipe()
    os.write(write, b"unread")
    files = collect_and_close(read)
    os.close(write)
    with rebuilt(files) as ([again], rebuilding):
        assert os.read(again, 10) == b"unread"
        assert os.read(again, 10) == b""
        assert "end of file" in rebuilding.warnings[0]


def test_of_another_boot_is_not_looked_for(ends: tuple[int, int]) -> None:
    _, write = ends
    record = pipe.Record(inode(write), os.O_WRONLY, True, "another boot", None)
    with rebuilt([]) as (_, rebuilding):
        fd = pipe.rebuild(record, rebuilding)
        assert os.fstat(fd).st_rdev == os.makedev(1, 3)
        os.close(fd)


def test_fork_takes_nothing_from_the_original(ends: tuple[int, int]) -> None:
    read, write = ends
    os.write(write, b"for both")
    files = collect(read)
    with rebuilt(files, "fork", outer={inode(read): read}) as ([again], rebuilding):
        assert os.read(again, 20) == b"for both"
        assert os.read(again, 20) == b""
        assert len(rebuilding.warnings) == 1
        assert os.read(read, 20) == b"for both"


def test_fork_writes_where_the_original_writes(ends: tuple[int, int]) -> None:
    read, write = ends
    with rebuilt(collect(write), "fork") as ([again], rebuilding):
        os.write(again, b"fork")
        assert os.read(read, 10) == b"fork"
        assert rebuilding.warnings == []


def test_fork_has_its_own_inner_pipe(ends: tuple[int, int]) -> None:
    read, write = ends
    os.write(write, b"both")
    with rebuilt(collect(read, write), "fork") as ([again, _], _):
        assert inode(again) != inode(read)
        assert os.read(again, 10) == b"both"
        assert os.read(read, 10) == b"both"


def test_content_that_no_record_holds() -> None:
    _, file = collect_and_close(*os.pipe())
    with pytest.raises(CorruptImage), rebuilt([file]):
        pass
