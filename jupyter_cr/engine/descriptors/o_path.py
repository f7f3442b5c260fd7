"""Descriptors opened with O_PATH: they name a place in the file tree, of any type."""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os
import stat

import msgspec

from jupyter_cr.engine.descriptors import path
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.errors import RestoreError


class Record(msgspec.Struct, frozen=True, tag="o_path"):
    path: bytes
    flags: int
    """O_PATH with O_DIRECTORY or O_NOFOLLOW where they were given."""
    file_type: int
    """S_IFMT of what is named there."""


def matches(descriptor: Descriptor) -> bool:
    """Whatever was opened with O_PATH; Linux allows hardly any call on it."""
    return bool(descriptor.flags & os.O_PATH)


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its path.

    Raises:
        Unsupported: The path does not lead to the same file any more.
    """
    return Record(
        path=path.checked_path(descriptor),
        flags=descriptor.flags & (os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW),
        file_type=stat.S_IFMT(descriptor.stat.st_mode),
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the path with O_PATH again.

    Raises:
        RestoreError: It is gone, or names something of another type.
    """
    with path.close_on_error(path.open_path(record.path, record.flags)) as fd:
        if stat.S_IFMT(os.fstat(fd).st_mode) != record.file_type:
            raise RestoreError(
                f"{os.fsdecode(record.path)} is of another type than at the checkpoint",
                "Put back what was there and try again.",
            )
        return fd
