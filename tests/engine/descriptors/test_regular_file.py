from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_cr.engine.descriptors import regular_file
from jupyter_cr.errors import RestoreError, Unsupported
from tests.engine.descriptors.harness import (
    collect,
    collect_and_close,
    describe,
    flags_of,
    rebuilt,
)

NAMES = ["plain", "with space", "with\nnewline", "ends with (deleted)", b"not\xffutf-8"]


@pytest.mark.parametrize("name", NAMES)
def test_offset_and_content(tmp_path: Path, name: str | bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TRUNC)
    os.write(fd, b"0123456789")
    os.lseek(fd, 4, os.SEEK_SET)
    files = collect_and_close(fd)
    with rebuilt(files) as ([again], rebuilding):
        assert os.read(again, 100) == b"456789"
        assert os.write(again, b"more") == 4
        assert rebuilding.warnings == []
    with open(path, "rb") as file:
        assert file.read() == b"0123456789more"


@pytest.mark.parametrize(
    "flags",
    [
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_RDWR | os.O_APPEND,
        os.O_WRONLY | os.O_NONBLOCK | os.O_SYNC,
        os.O_RDONLY | os.O_NOATIME,
        os.O_RDWR | os.O_DSYNC | os.O_NOFOLLOW,
    ],
)
def test_access_mode_and_flags(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path, flags)
    before = flags_of(fd) & ~os.O_NOFOLLOW
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert flags_of(again) == before
        if flags & os.O_APPEND:
            os.lseek(again, 0, os.SEEK_SET)
            os.write(again, b"!")
            assert path.read_bytes() == b"content!"


def test_collecting_leaves_the_offset_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb", buffering=0) as file:
        file.seek(3)
        collect(file.fileno())
        assert file.tell() == 3


def test_renamed_file_is_found_under_its_present_name(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "before", os.O_RDWR | os.O_CREAT)
    (tmp_path / "before").rename(tmp_path / "after")
    os.write(fd, b"x")
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.readlink(f"/proc/self/fd/{again}") == str(tmp_path / "after")


def test_file_in_shared_memory() -> None:
    path = f"/dev/shm/jupyter-cr-test-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, b"shared")
        with rebuilt(collect_and_close(fd)) as ([again], _):
            assert os.pread(again, 6, 0) == b"shared"
    finally:
        os.unlink(path)


def test_o_tmpfile_that_got_a_name_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"named later")
    # Without the (unused) directory, os.link() calls link(2), which does not follow.
    name = tmp_path / "name"
    os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
    # Linux goes on showing the nameless path, so the name is not to be found.
    with pytest.raises(Unsupported, match="still has 1 name"):
        collect(fd)
    os.close(fd)


def test_shorter_than_the_offset_warns_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 90, os.SEEK_SET)
    files = collect_and_close(fd)
    os.truncate(path, 10)
    with rebuilt(files) as ([again], rebuilding):
        assert os.lseek(again, 0, os.SEEK_CUR) == 90
        [warning] = rebuilding.warnings
        assert str(path) in warning
        assert "shorter" in warning


def test_offset_beyond_the_end_from_the_start_is_no_reason_to_warn(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    os.lseek(fd, 1 << 40, os.SEEK_SET)
    with rebuilt(collect_and_close(fd)) as ([again], rebuilding):
        assert os.lseek(again, 0, os.SEEK_CUR) == 1 << 40
        assert rebuilding.warnings == []


def test_replaced_file_warns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    fd = os.open(path, os.O_RDONLY)
    [file] = collect(fd)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    os.close(fd)
    with rebuilt([file]) as ([again], rebuilding):
        assert os.read(again, 10) == b"new"
        assert "another file" in rebuilding.warnings[0]


def test_removed_before_the_restore(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    files = collect_and_close(fd)
    path.unlink()
    with pytest.raises(RestoreError, match=str(path)), rebuilt(files):
        pass


def test_became_a_device_before_the_restore(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    files = collect_and_close(fd)
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(RestoreError, match="is none now"), rebuilt(files):
        pass


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_became_a_fifo_before_the_restore(tmp_path: Path, flags: int) -> None:
    path = tmp_path / "file"
    files = collect_and_close(os.open(path, flags | os.O_CREAT))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RestoreError, match=str(path)), rebuilt(files):
        pass


def test_named_as_nfs_names_deleted_files(tmp_path: Path) -> None:
    path = tmp_path / ".nfs00000001"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    [file] = collect_and_close(fd)
    assert isinstance(file.record, regular_file.Record)


def test_replaced_before_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    (tmp_path / "other-name").hardlink_to(path)
    path.unlink()
    with pytest.raises(Unsupported, match=f"descriptor {fd}"):
        collect(fd)
    os.close(fd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_no_longer_permitted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    path.chmod(0o400)
    with pytest.raises(Unsupported, match="permissions"):
        collect(fd)
    os.close(fd)


def test_file_about_a_process_is_refused() -> None:
    with open("/proc/self/status") as file, pytest.raises(Unsupported, match="pid"):
        collect(file.fileno())


def test_description_names_the_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        descriptor = describe(file.fileno())
        assert descriptor.where == f"process {os.getpid()}, descriptor {file.fileno()}"
        os.close(descriptor.local)
