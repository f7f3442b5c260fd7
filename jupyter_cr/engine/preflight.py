"""What a restore needs of the world around, checked while the tree that it replaces
still runs: what is missing then is an error, and nothing has been lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain

from jupyter_cr.engine.descriptors import directory, fifo, o_path, regular_file
from jupyter_cr.engine.descriptors.base import OpenFile
from jupyter_cr.engine.descriptors.path import ACCESS, open_path
from jupyter_cr.engine.descriptors.tcp_socket import listening_ports, port_numbers
from jupyter_cr.engine.rebuild_state import open_directory
from jupyter_cr.engine.snapshot import Snapshot
from jupyter_cr.engine.state import process
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.errors import AddressTaken, CheckpointRestoreError, RestoreError
from jupyter_cr.tracer.sock_diag import State, TcpSocket

__all__ = [
    "find_missing",
    "require_listeners",
    "require_machine",
    "require_paths",
    "require_ports",
]

_WILDCARDS = ("0.0.0.0", "::")


def find_missing(reader: SnapshotReader) -> list[CheckpointRestoreError]:
    """All that a restore here would need and not find, ports aside.

    Raises:
        CorruptImage: the snapshot was not written by a complete checkpoint.
    """
    snapshot = Snapshot.read(reader)
    checks: Iterator[Callable[[], None]] = chain(
        [snapshot.machine.require],
        (identity.require for identity in snapshot.needed.files),
        (partial(require_paths, [record], ()) for record in snapshot.living),
        (partial(require_paths, (), [file]) for file in snapshot.files),
    )
    missing: dict[str, CheckpointRestoreError] = {}
    for check in checks:
        try:
            check()
        except CheckpointRestoreError as error:
            missing[error.message] = error
    return list(missing.values())


def require_machine(reader: SnapshotReader) -> None:
    """See that all is here that a restore needs.

    Raises:
        RestoreError, FileChanged: something is not; names all of it.
    """
    missing = find_missing(reader)
    if missing:
        first, *others = missing
        first.message += "".join(f"\nand {error.message}" for error in others)
        raise first


def require_paths(records: Iterable[process.Record], files: Iterable[OpenFile]) -> None:
    """Check that the files and directories that were open under a name are there.

    Raises:
        RestoreError: names the first that is not.
    """
    for record in records:
        for name in dict.fromkeys((record.root, record.cwd)):
            os.close(open_directory(record, name))
    for file in files:
        match file.record:
            case regular_file.Record(path=path, flags=flags):
                _require(path, stat.S_IFREG, flags & ACCESS)
            case directory.Record(path=path, flags=flags):
                _require(path, stat.S_IFDIR, flags & ACCESS)
            case fifo.Record(path=path, access=access):
                _require(path, stat.S_IFIFO, access)
            case o_path.Record(path=path, file_type=file_type):
                _require(path, file_type, None)


def _require(path: bytes, file_type: int, access: int | None) -> None:
    fd = open_path(path, os.O_PATH)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) != file_type:
            raise RestoreError(
                f"{os.fsdecode(path)} is of another type than at the checkpoint",
                "Put back what was there and try again.",
            )
    finally:
        os.close(fd)
    if access is None:
        return
    needed = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(access, os.R_OK | os.W_OK)
    if not os.access(path, needed, effective_ids=True):
        raise RestoreError(
            f"{os.fsdecode(path)} was open at the checkpoint and this user may not open it "
            "again",
            "Make it accessible to this user and try again.",
        )


def require_listeners(files: Iterable[OpenFile], listens_on: frozenset[int]) -> None:
    """Check that the tree listens on some TCP ports.

    Raises:
        RestoreError: it had not got so far.
    """
    if not listens_on <= port_numbers(files):
        raise RestoreError(
            "the tree did not listen on all its ports yet when the snapshot was taken",
            "Take another one now that it has started, and fork that.",
        )


def require_ports(
    files: Iterable[OpenFile],
    sockets: Iterable[TcpSocket],
    own: Collection[int],
    ports: Mapping[int, int],
) -> None:
    """Check that nobody else listens where the tree is to.

    Args:
        files: of the snapshot.
        sockets: all of the network namespace.
        own: inodes of the sockets of the tree that will be replaced.
        ports: recorded -> wanted.

    Raises:
        AddressTaken: names the port.
    """
    wanted = {
        ports[port.address.port]: port.address
        for port in listening_ports(files)
        if port.address.port in ports
    }
    for found in sockets:
        host, number = found.local
        if found.state != State.LISTEN or found.inode in own or number not in wanted:
            continue
        ours = wanted[number].plain[0]
        if host == ours or host in _WILDCARDS or ours in _WILDCARDS:
            raise AddressTaken(
                f"somebody else listens on port {number} ({host}), where the tree did",
                "End that program, or fork the snapshot instead.",
            )
