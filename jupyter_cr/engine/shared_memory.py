"""Memory that several mappings share: anonymous, memfd, and files of a tmpfs.

Copy-on-write does not help here: a twin would see what the tree goes on to write. So
the content is copied while the tree is frozen, once, whoever maps it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from jupyter_cr.engine.descriptors.base import Tree
from jupyter_cr.engine.freeze import FrozenProcess
from jupyter_cr.engine.state.address_space import Region
from jupyter_cr.engine.streams import SnapshotReader, SnapshotWriter
from jupyter_cr.errors import Unsupported

__all__ = [
    "Copy",
    "Record",
    "copy_shared_memory",
    "save_shared_memory",
    "save_stored_memory",
    "tmpfs_paths",
]

_BLOCK = 4096
_PIECE = 1 << 20
_DELETED = " (deleted)"
_TMPFS_MAGIC = 0x01021994


class Record(msgspec.Struct, frozen=True):
    """One object, the key of which is the device and inode that mappings show.

    `runs`: (offset in the object, length, offset in the snapshot's pages), bytes;
    what is between is zeros. `path` is empty if no name leads to it any more; then
    `name` is what it was called. `held`: an open file of the tree has the content.
    """

    device: tuple[int, int]
    inode: int
    size: int
    raw_path: bytes
    raw_name: bytes
    mode: int
    held: bool
    runs: tuple[tuple[int, int, int], ...]

    @property
    def path(self) -> str:
        """As `os` takes it; bytes that are no UTF-8 are lone surrogates (PEP 383)."""
        return os.fsdecode(self.raw_path)

    @property
    def name(self) -> str:
        """The same."""
        return os.fsdecode(self.raw_name)


@dataclass
class Copy:
    """An object's bytes as they were: pieces by offset."""

    region: Region
    size: int
    held: bool
    pieces: dict[int, mmap.mmap] = field(default_factory=dict)


def tmpfs_paths(paths: Iterable[str]) -> set[str]:
    """Those of the files that live in memory only (statfs(2))."""
    return {path for path in set(paths) if _is_on_tmpfs(path)}


def _is_on_tmpfs(path: str) -> bool:
    from jupyter_cr.tracer.libc import fstatfs_type

    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fstatfs_type(fd) == _TMPFS_MAGIC
    finally:
        os.close(fd)


def copy_shared_memory(
    regions: Iterable[tuple[FrozenProcess, Region]], tree: Tree
) -> list[Copy]:
    """Copy every shared object that the regions map.

    Raises:
        Unsupported: one cannot be read.
    """
    copies: dict[tuple[tuple[int, int], int], Copy] = {}
    for process, region in regions:
        if region.content != "shared":
            continue
        key = (region.device, region.inode)
        if key not in copies:
            device = os.makedev(*region.device)
            held = (
                region.path.endswith(_DELETED) and (device, region.inode) in tree.by_inode
            )
            copies[key] = Copy(region, 0, held)
        copy = copies[key]
        copy.size = max(copy.size, region.offset + region.size)
        if not copy.held:
            _copy_window(copy, process, region)
    return list(copies.values())


def _copy_window(copy: Copy, process: FrozenProcess, region: Region) -> None:
    assert process.memory is not None
    for start, end in _missing(copy, region.offset, region.offset + region.size):
        buffer = mmap.mmap(-1, end - start)
        address = region.start + start - region.offset
        try:
            length = os.preadv(process.memory.fd, [buffer], address)
        except OSError as error:
            raise Unsupported(
                f"process {process.pid}: shared memory at {address:#x} ({region.path}) "
                f"cannot be read: {error.strerror}",
                "The file behind it may have been cut short: have the program unmap it.",
            ) from error
        copy.pieces[start] = buffer
        if length < end - start:
            buffer.resize(max(_BLOCK, length))


def _missing(copy: Copy, start: int, end: int) -> list[tuple[int, int]]:
    """Parts of [start, end) that no piece has yet."""
    gaps = []
    for offset, piece in sorted(copy.pieces.items()):
        if offset >= end:
            break
        if offset > start:
            gaps.append((start, offset))
        start = max(start, offset + len(piece))
    if start < end:
        gaps.append((start, end))
    return gaps


def save_shared_memory(copies: Iterable[Copy], writer: SnapshotWriter) -> list[Record]:
    """Append the copies to the pages; zeros are left out.

    Raises:
        StorageError: the disk is full.
    """
    records = []
    for copy in copies:
        runs = []
        for start, piece in sorted(copy.pieces.items()):
            for at, length in _data_runs(piece):
                view = memoryview(piece)[at : at + length]
                runs.append((start + at, length, writer.append(view)))
                view.release()
            piece.close()
        records.append(_record_of(copy, tuple(runs)))
    return records


def save_stored_memory(
    record: Record, reader: SnapshotReader, writer: SnapshotWriter
) -> Record:
    """Append what another snapshot has of an object to the pages.

    Raises:
        CorruptImage: it is not as written.
        StorageError: the disk is full.
    """
    runs = []
    for start, length, offset in record.runs:
        for done in range(0, length, _PIECE):
            step = min(_PIECE, length - done)
            at = writer.append(reader.read(offset + done, step))
            runs.append((start + done, step, at))
    return msgspec.structs.replace(record, runs=tuple(runs))


def _data_runs(piece: mmap.mmap) -> list[tuple[int, int]]:
    """(offset, length) of what is not zero, in blocks."""
    zeros = bytes(_BLOCK)
    runs: list[tuple[int, int]] = []
    with memoryview(piece) as view:
        for at in range(0, len(view), _BLOCK):
            if view[at : at + _BLOCK] == zeros:
                continue
            if runs and runs[-1][0] + runs[-1][1] == at:
                runs[-1] = (runs[-1][0], at + _BLOCK - runs[-1][0])
            else:
                runs.append((at, _BLOCK))
    return [(at, min(length, len(piece) - at)) for at, length in runs]


def _record_of(copy: Copy, runs: tuple[tuple[int, int, int], ...]) -> Record:
    region = copy.region
    named = not region.path.endswith(_DELETED)
    mode, size = 0o600, copy.size
    if named:
        found = os.stat(region.path)
        mode, size = found.st_mode & 0o7777, found.st_size
    return Record(
        region.device,
        region.inode,
        size,
        region.raw_path if named else b"",
        os.path.basename(os.fsencode(region.path.removesuffix(_DELETED))),
        mode,
        copy.held,
        runs,
    )
