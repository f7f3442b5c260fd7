from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from jupyter_cr.engine.descriptors import deleted_file
from jupyter_cr.errors import CorruptImage, Unsupported
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def open_deleted(path: Path, flags: int = os.O_RDWR, mode: int = 0o640) -> int:
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    os.fchmod(fd, mode)
    path.unlink()
    return fd


def test_unlinked_file(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone")
    os.write(fd, b"0123456789")
    os.lseek(fd, 7, os.SEEK_SET)
    before = os.fstat(fd)
    with rebuilt(collect_and_close(fd)) as ([again], rebuilding):
        after = os.fstat(again)
        assert os.read(again, 10) == b"789"
        assert after.st_nlink == 0
        assert (after.st_mode, after.st_uid, after.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
        assert after.st_mtime_ns == before.st_mtime_ns
        assert os.readlink(f"/proc/self/fd/{again}").startswith(str(tmp_path))
        assert rebuilding.warnings == []


def test_named_like_a_deleted_one(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "a (deleted)")
    os.write(fd, b"abc")
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.pread(again, 10, 0) == b"abc"


def test_temporary_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"hello")
        file.flush()
        files = collect(file.fileno())
    with rebuilt(files) as ([again], _):
        assert os.lseek(again, 0, os.SEEK_CUR) == 5
        assert os.pread(again, 10, 0) == b"hello"


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDONLY])
def test_access_modes(tmp_path: Path, flags: int) -> None:
    fd = open_deleted(tmp_path / "gone", flags)
    writer = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.write(writer, b"text")
    os.close(writer)
    before = flags_of(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert flags_of(again) == before
        with open(f"/proc/self/fd/{again}", "rb") as reader:
            assert reader.read() == b"text"


def test_read_only_mode_is_kept_for_the_end(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone", mode=0o400)
    os.write(fd, b"text")
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.fstat(again).st_mode & 0o777 == 0o400
        assert os.pwrite(again, b"T", 0) == 1


def test_open_files_share_the_inode(tmp_path: Path) -> None:
    one = open_deleted(tmp_path / "gone")
    two = os.open(f"/proc/self/fd/{one}", os.O_RDONLY)
    os.write(one, b"shared")
    os.lseek(two, 2, os.SEEK_SET)
    files = collect_and_close(one, two)
    assert [file.record.inode is not None for file in files] == [True, False]
    # The one without the content may come first.
    with rebuilt(files[::-1]) as ([again_two, again_one], _):
        assert os.path.sameopenfile(again_one, again_two)
        assert os.read(again_two, 10) == b"ared"
        os.pwrite(again_one, b"S", 0)
        assert os.pread(again_two, 6, 0) == b"Shared"


def test_holes_stay_holes(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone")
    os.ftruncate(fd, 1 << 40)
    os.pwrite(fd, b"middle", 1 << 30)
    [file] = collect_and_close(fd)
    assert sum(len(extent.data) for extent in file.record.inode.extents) < 1 << 20
    with rebuilt([file]) as ([again], _):
        assert os.fstat(again).st_size == 1 << 40
        assert os.fstat(again).st_blocks < 1 << 12
        assert os.pread(again, 8, (1 << 30) - 1) == b"\0middle\0"


def test_empty(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone")
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.fstat(again).st_size == 0


def test_several_mib_of_content(tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 5
    fd = open_deleted(tmp_path / "gone")
    os.write(fd, data)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.pread(again, len(data) + 1, 0) == data


def test_its_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    fd = open_deleted(tmp_path / "dir" / "gone")
    os.write(fd, b"text")
    files = collect_and_close(fd)
    (tmp_path / "dir").rmdir()
    with rebuilt(files) as ([again], rebuilding):
        assert os.pread(again, 10, 0) == b"text"
        assert str(tmp_path / "dir") in rebuilding.warnings[0]


def test_shared_memory_segment() -> None:
    path = Path(f"/dev/shm/jupyter-cr-test-deleted-{os.getpid()}")
    fd = open_deleted(path)
    os.write(fd, b"segment")
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.readlink(f"/proc/self/fd/{again}").startswith("/dev/shm/")
        assert os.pread(again, 10, 0) == b"segment"


def test_memfd_with_seals() -> None:
    fd = os.memfd_create("a name: (deleted)", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, b"sealed")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    link = os.readlink(f"/proc/self/fd/{fd}")
    mode = os.fstat(fd).st_mode
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.readlink(f"/proc/self/fd/{again}") == link
        assert fcntl.fcntl(again, fcntl.F_GET_SEALS) == SEALS
        assert os.fstat(again).st_mode == mode
        assert os.pread(again, 10, 0) == b"sealed"
        assert os.lseek(again, 0, os.SEEK_CUR) == 6


def test_memfd_without_sealing() -> None:
    fd = os.memfd_create("plain", os.MFD_CLOEXEC)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert fcntl.fcntl(again, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL


def test_memfd_opened_again_for_reading() -> None:
    fd = os.memfd_create("plain", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, b"0123")
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.lseek(reader, 1, os.SEEK_SET)
    files = collect_and_close(fd, reader)
    with rebuilt(files) as ([again, again_reader], _):
        assert os.path.sameopenfile(again, again_reader)
        assert flags_of(again_reader) == os.O_RDONLY
        assert os.read(again_reader, 9) == b"123"


def test_mappings_get_the_inode_of_open_files(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone")
    os.write(fd, b"x" * mmap.PAGESIZE)
    status = os.fstat(fd)
    files = collect_and_close(fd)
    with rebuilt(files, complete=False) as ([again], rebuilding):
        inode = deleted_file.find_inode(status.st_dev, status.st_ino, rebuilding)
        assert os.path.sameopenfile(inode, again)
        with mmap.mmap(inode, mmap.PAGESIZE) as memory:
            memory[0:1] = b"y"
            assert os.pread(again, 2, 0) == b"yx"


def test_inode_of_a_mapping_alone(tmp_path: Path) -> None:
    fd = open_deleted(tmp_path / "gone")
    os.write(fd, b"only mapped")
    inode = deleted_file.collect_inode(fd, os.readlink(f"/proc/self/fd/{fd}"), "a test")
    os.close(fd)
    with rebuilt([], complete=False) as (_, rebuilding):
        again = deleted_file.find_or_make_inode(inode, rebuilding)
        assert os.pread(again, 20, 0) == b"only mapped"
        assert deleted_file.find_or_make_inode(inode, rebuilding) == again
        assert deleted_file.find_inode(inode.dev, inode.ino, rebuilding) == again


def test_content_that_no_record_holds(tmp_path: Path) -> None:
    one = open_deleted(tmp_path / "gone")
    two = os.open(f"/proc/self/fd/{one}", os.O_RDONLY)
    _, file = collect_and_close(one, two)
    with pytest.raises(CorruptImage), rebuilt([file]):
        pass


@pytest.mark.long
def test_more_than_a_gib_is_refused() -> None:
    # Linux counts only what was written: fallocate(2) makes holes.
    fd = os.memfd_create("huge", os.MFD_CLOEXEC)
    try:
        piece = b"x" * (1 << 24)
        for _ in range(65):
            os.write(fd, piece)
        with pytest.raises(Unsupported, match=r"1\.0 GiB"):
            collect(fd)
    finally:
        os.close(fd)


def test_another_hard_link_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "one", os.O_RDWR | os.O_CREAT)
    os.link(tmp_path / "one", tmp_path / "two")
    os.unlink(tmp_path / "one")
    with pytest.raises(Unsupported, match="still has 1 name"):
        collect(fd)
    os.close(fd)
