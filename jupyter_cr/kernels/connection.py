"""Connection files: where a kernel's five sockets are (jupyter_client's "Connection
files"). Their content stays a dict here: kernels and launchers add keys of their own,
and all of them must go through unchanged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import RestoreError, UsageError

__all__ = [
    "PORTS",
    "Connection",
    "encode_connection",
    "fork_connection",
    "kernel_id_of",
    "needed_ports",
    "new_connection_file",
    "parse_connection",
    "read_connection",
    "runtime_dir",
    "write_connection",
]

Connection = dict[str, Any]

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")

_NEEDED = ("shell_port", "iopub_port", "control_port")
"""Jupyter Server takes no kernel for started that does not answer on these."""

_PREFIX = "kernel-"
_SUFFIX = ".json"


def runtime_dir() -> Path:
    """Where Jupyter keeps connection files."""
    # Imported where needed: 25 ms.
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def kernel_id_of(path: Path) -> str:
    """The id in the name of a connection file, ``kernel-ID.json``; empty if none."""
    if path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX):
        return path.name[len(_PREFIX) : -len(_SUFFIX)]
    return ""


def parse_connection(content: bytes) -> Connection | None:
    """What a connection file says; None if that is no connection file."""
    try:
        connection = msgspec.json.decode(content, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if all(isinstance(connection.get(key), int) for key in PORTS):
        return connection
    return None


def read_connection(path: Path) -> Connection:
    """Read a connection file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    hint = "`jupyter --runtime-dir` names the directory that has them: kernel-ID.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", hint) from error
    connection = parse_connection(content)
    if connection is None:
        raise UsageError(f"{path} is not a kernel's connection file.", hint)
    return connection


def encode_connection(connection: Mapping[str, Any]) -> bytes:
    """The content of a connection file, as jupyter_client would lay it out."""
    return msgspec.json.format(msgspec.json.encode(connection), indent=2) + b"\n"


def write_connection(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a connection file, for its owner's eyes only: it holds the key with which
    code can be run.

    Args:
        replace: write over a file that is there.

    Raises:
        UsageError: there is a file already.
        StorageError: it cannot be written.
    """
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    flags |= os.O_TRUNC if replace else os.O_EXCL
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError as error:
            raise UsageError(
                f"{path} exists already.",
                "Name another file, or remove it if no kernel uses it any more.",
            ) from error
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(content)


def new_connection_file() -> Path:
    """A path for a new kernel's connection file: a new id, in Jupyter's directory."""
    import uuid

    return runtime_dir() / f"{_PREFIX}{uuid.uuid4()}{_SUFFIX}"


def needed_ports(connection: Mapping[str, Any] | None) -> frozenset[int]:
    """The TCP ports that a kernel listens on as soon as it has started: none if its
    sockets have paths (``"transport": "ipc"``), or it is no kernel."""
    if connection is None or connection.get("transport", "tcp") != "tcp":
        return frozenset()
    return frozenset(connection[key] for key in _NEEDED)


def fork_connection(original: Connection, ports: Mapping[int, int]) -> Connection:
    """The connection of a fork: the original's, with other ports.

    Args:
        original: as recorded.
        ports: recorded port -> the fork's; a port not in it stays (ipc transport).

    Raises:
        RestoreError: the fork does not listen yet: whatever was sent to these ports would
            reach the original.
    """
    if not needed_ports(original) <= ports.keys():
        raise RestoreError(
            "the kernel was still starting when the snapshot was taken",
            "It can be restored, but not forked. Take another one, and fork that.",
        )
    return original | {key: ports.get(original[key], original[key]) for key in PORTS}
