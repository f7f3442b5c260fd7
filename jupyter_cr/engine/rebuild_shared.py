"""Rebuild memory that several mappings share: one file in memory for each object."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from jupyter_cr.engine import shared_memory
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.descriptors.deleted_file import find_inode
from jupyter_cr.engine.streams import SnapshotReader
from jupyter_cr.errors import RestoreError

__all__ = ["fill_shared_memory", "rebuild_shared_memory"]


def rebuild_shared_memory(
    records: Iterable[shared_memory.Record], rebuilding: Rebuilding
) -> dict[object, int]:
    """Make the objects, still empty.

    Returns:
        (device, inode) as mappings show it -> our own descriptor, open for both
        reading and writing, closed with `rebuilding.stack`.

    A named object (a file in /dev/shm, say) is put back under its name by a restore; a
    fork has its own, without a name: it must not write into what the original uses.

    Raises:
        RestoreError: a named one cannot be written.
        CorruptImage: the snapshot lacks its content.
    """
    made: dict[object, int] = {}
    for record in records:
        key = (record.device, record.inode)
        if record.held:
            made[key] = find_inode(os.makedev(*record.device), record.inode, rebuilding)
            continue
        fd = _make(record, rebuilding)
        rebuilding.stack.callback(os.close, fd)
        made[key] = fd
    return made


def fill_shared_memory(
    records: Iterable[shared_memory.Record],
    made: Mapping[object, int],
    reader: SnapshotReader,
) -> None:
    """Give the objects their content. Only when nobody else uses them any more: a named
    one may be the very file that the tree to be replaced is working with.

    Raises:
        RestoreError: the file system is full.
        CorruptImage: the content is not as written.
    """
    for record in records:
        if not record.held:
            fd = made[record.device, record.inode]
            os.ftruncate(fd, 0 if record.path else record.size)
            os.ftruncate(fd, record.size)
            _fill(fd, record, reader)


def _make(record: shared_memory.Record, rebuilding: Rebuilding) -> int:
    if record.path and rebuilding.mode == "restore":
        return _open_named(record)
    fd = os.memfd_create(record.name, os.MFD_CLOEXEC)
    os.ftruncate(fd, record.size)
    if record.path:
        device = os.makedev(*record.device)
        rebuilding.memo["shared_memory", device, record.inode] = fd
        rebuilding.warnings.append(
            f"{record.path}: the fork has a copy of its own, without the name"
        )
    return fd


def _open_named(record: shared_memory.Record) -> int:
    try:
        return os.open(record.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, record.mode)
    except OSError as error:
        raise RestoreError(
            f"the shared memory {record.path} cannot be opened: {error.strerror}",
            "Remove the file if it is somebody else's.",
        ) from error


def _fill(fd: int, record: shared_memory.Record, reader: SnapshotReader) -> None:
    for at, length, offset in record.runs:
        for done in range(0, length, _PIECE):
            data = reader.read(offset + done, min(_PIECE, length - done))
            os.pwrite(fd, data, at + done)


_PIECE = 1 << 20
