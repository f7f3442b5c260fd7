from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from jupyter_cr.errors import RestoreError, Unsupported
from jupyter_cr.tracer import libc
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt

GETDENTS64 = 217


def list_some(fd: int, size: int) -> set[str]:
    """Names of one getdents64(2)."""
    buffer = ctypes.create_string_buffer(size)
    count = libc.syscall(GETDENTS64, fd, ctypes.addressof(buffer), size)
    data, names = buffer.raw[:count], set()
    while data:
        length = int.from_bytes(data[16:18], "little")
        names.add(data[19:length].split(b"\0")[0].decode())
        data = data[length:]
    return names


def test_listing_goes_on_where_it_was(tmp_path: Path) -> None:
    expected = {f"file-{n:03}" for n in range(100)} | {".", ".."}
    for name in expected - {".", ".."}:
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    first = list_some(fd, 1024)
    assert 0 < len(first) < len(expected)
    before = flags_of(fd)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert flags_of(again) == before
        rest: set[str] = set()
        while some := list_some(again, 1024):
            rest |= some
    assert first | rest == expected
    assert not first & rest


def test_opened_without_o_directory(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_NONBLOCK)
    with rebuilt(collect_and_close(fd)) as ([again], _):
        assert os.path.samestat(os.fstat(again), tmp_path.stat())
        assert flags_of(again) & os.O_NONBLOCK


def test_removed_before_the_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    fd = os.open(tmp_path / "dir", os.O_RDONLY)
    (tmp_path / "dir").rmdir()
    with pytest.raises(Unsupported, match=f"descriptor {fd}"):
        collect(fd)
    os.close(fd)


def test_removed_before_the_restore(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    files = collect_and_close(os.open(tmp_path / "dir", os.O_RDONLY))
    (tmp_path / "dir").rmdir()
    with pytest.raises(RestoreError, match="dir"), rebuilt(files):
        pass


def test_became_a_file_before_the_restore(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    files = collect_and_close(os.open(tmp_path / "dir", os.O_RDONLY))
    (tmp_path / "dir").rmdir()
    (tmp_path / "dir").touch()
    with pytest.raises(RestoreError, match="Not a directory"), rebuilt(files):
        pass
