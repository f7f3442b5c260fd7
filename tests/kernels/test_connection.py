"""Connection files."""

from __future__ import annotations

import json
import stat
import uuid
from pathlib import Path

import pytest

from jupyter_cr.errors import RestoreError, StorageError, UsageError
from jupyter_cr.kernels.connection import (
    PORTS,
    encode_connection,
    fork_connection,
    kernel_id_of,
    needed_ports,
    new_connection_file,
    parse_connection,
    read_connection,
    write_connection,
)

CONNECTION = {
    "shell_port": 1001,
    "iopub_port": 1002,
    "stdin_port": 1003,
    "control_port": 1004,
    "hb_port": 1005,
    "ip": "127.0.0.1",
    "key": "a-secret",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "python3",
    "jupyter_session": "/home/u/größe.ipynb",
}


def test_only_ports_change_in_a_fork() -> None:
    ports = {1001: 2001, 1002: 2002, 1003: 2003, 1004: 2004, 1005: 2005, 9999: 1}
    forked = fork_connection(CONNECTION, ports)
    assert [forked[key] for key in PORTS] == [2001, 2002, 2003, 2004, 2005]
    others = CONNECTION.keys() - set(PORTS)
    assert {key: forked[key] for key in others} == {key: CONNECTION[key] for key in others}
    assert forked.keys() == CONNECTION.keys()


def test_ports_stay_where_sockets_have_paths() -> None:
    connection = CONNECTION | {"transport": "ipc"}
    assert fork_connection(connection, {}) == connection


def test_a_fork_that_does_not_listen_is_not_taken_for_its_original() -> None:
    with pytest.raises(RestoreError, match="still starting"):
        fork_connection(CONNECTION, {1001: 2001, 1002: 2002})


def test_no_need_of_input_and_heartbeat() -> None:
    assert needed_ports(CONNECTION) == {1001, 1002, 1004}
    forked = fork_connection(CONNECTION, {1001: 2001, 1002: 2002, 1004: 2004})
    assert [forked[key] for key in PORTS] == [2001, 2002, 1003, 2004, 1005]


def test_written_for_the_owner_only_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "runtime" / "kernel-1.json"
    write_connection(path, encode_connection(CONNECTION))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_connection(path) == CONNECTION
    assert json.loads(path.read_text()) == CONNECTION


def test_written_over_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "kernel-1.json"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="exists already"):
        write_connection(path, b"{}")
    write_connection(path, encode_connection(CONNECTION), replace=True)
    assert read_connection(path) == CONNECTION
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/kernel-1\.json"):
        write_connection(tmp_path / "file" / "kernel-1.json", b"{}")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"shell_port": 1}', b"\xff\xfe", b'{"a": "\xff"}'],
)
def test_other_files_are_told_from_connection_files(tmp_path: Path, content: bytes) -> None:
    assert parse_connection(content) is None
    path = tmp_path / "kernel-1.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a kernel's connection file"):
        read_connection(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json cannot be read: No such file"):
        read_connection(tmp_path / "none.json")


def test_new_files_have_new_ids(tmp_path: Path) -> None:
    first, second = new_connection_file(), new_connection_file()
    assert first != second
    assert first.parent == tmp_path / "runtime"
    uuid.UUID(kernel_id_of(first))


def test_ids_come_from_names() -> None:
    assert kernel_id_of(Path("/run/kernel-a-b.json")) == "a-b"
    assert kernel_id_of(Path("/run/other.json")) == ""
