from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from jupyter_cr.engine.descriptors import o_path
from jupyter_cr.errors import RestoreError, Unsupported
from tests.engine.descriptors.harness import collect, collect_and_close, flags_of, rebuilt


def check(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_PATH | flags)
    before, status = flags_of(fd), os.fstat(fd)
    files = collect_and_close(fd)
    assert isinstance(files[0].record, o_path.Record)
    with rebuilt(files) as ([again], _):
        assert flags_of(again) == before
        assert os.path.samestat(os.fstat(again), status)


def test_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o000)
    check(tmp_path / "file", 0)


def test_directory(tmp_path: Path) -> None:
    check(tmp_path, os.O_DIRECTORY)


def test_symbolic_link_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    check(tmp_path / "link", os.O_NOFOLLOW)


def test_socket_and_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    check(tmp_path / "fifo", 0)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        check(tmp_path / "socket", 0)


def test_removed_before_the_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_PATH)
    (tmp_path / "file").unlink()
    with pytest.raises(Unsupported, match=f"descriptor {fd}"):
        collect(fd)
    os.close(fd)


def test_of_another_type_at_the_restore(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = collect_and_close(os.open(tmp_path / "file", os.O_PATH))
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    with pytest.raises(RestoreError, match="another type"), rebuilt(files):
        pass
