"""Room that is kept free, so that on a full disk something can be removed: before a
snapshot goes, the catalogue has to say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jupyter_cr.errors import StorageError, StoreBusy

__all__ = ["keep_room", "with_room"]

_RESERVE = "reserve"
_SIZE = 512 << 10
"""Bytes: a transaction that removes some hundred snapshots."""

T = TypeVar("T")


def keep_room(root: Path) -> None:
    """Have the reserve, where there is room for it."""
    path = root / _RESERVE
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(fd, 0, _SIZE)
    except OSError:
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def with_room(root: Path, work: Callable[[], T]) -> T:
    """Do what removes something; where there is no room for that, with the reserve's.

    Raises:
        StorageError: as `work` does.
    """
    try:
        return work()
    except StorageError as error:
        if isinstance(error, StoreBusy):
            raise
        try:
            (root / _RESERVE).unlink()
        except OSError:
            raise error from None
        return work()
