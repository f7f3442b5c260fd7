"""What the kinds that are opened again by their path have in common.

Paths are bytes: a file name on Linux need not be UTF-8.
"""

from __future__ import annotations

__all__ = [
    "ACCESS",
    "O_LARGEFILE",
    "O_TMPFILE_BIT",
    "REOPEN",
    "check_access",
    "checked_path",
    "close_on_error",
    "open_path",
]

import os
from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_cr.engine.descriptors.base import Descriptor
from jupyter_cr.errors import RestoreError

ACCESS = os.O_ACCMODE
"""The bits of F_GETFL that hold the access mode; 3 is Linux's "ioctl only"."""

O_LARGEFILE = 0o100000
"""As Linux shows it on x86-64; Python has 0 there, as glibc never needs to pass it."""

O_TMPFILE_BIT = os.O_TMPFILE & ~os.O_DIRECTORY
"""O_TMPFILE contains O_DIRECTORY."""

REOPEN = (
    ACCESS
    | os.O_APPEND
    | os.O_NONBLOCK
    | os.O_DIRECT
    | os.O_SYNC
    | os.O_DSYNC
    | os.O_DIRECTORY
    | O_LARGEFILE
)
"""Flags of F_GETFL that open(2) gets again. Not among them: O_TMPFILE (stays visible
after linkat(2)), O_NOFOLLOW (links are resolved), O_ASYNC and O_NOATIME (set later)."""


def checked_path(descriptor: Descriptor) -> bytes:
    """The path under which exactly this file can be opened again.

    Raises:
        Unsupported: The path is gone, or names another file by now.
    """
    path = os.fsencode(descriptor.link)
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise descriptor.unsupported(
            f"its path can no longer be reached ({error.strerror}), though the file "
            f"still has {descriptor.stat.st_nlink} name(s)",
            "Close it, or move the file back to this path.",
        ) from error
    if (found.st_dev, found.st_ino) != (descriptor.stat.st_dev, descriptor.stat.st_ino):
        raise descriptor.unsupported(
            "its path names another file by now",
            "Close it, or give the open file its name back.",
        )
    return path


def check_access(descriptor: Descriptor, path: bytes) -> None:
    """Refuses what was opened with rights that the present user or mode denies.

    Raises:
        Unsupported: open(2) with the same access mode would fail.
    """
    access = descriptor.flags & ACCESS
    needed = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(access, os.R_OK | os.W_OK)
    if not os.access(path, needed, effective_ids=True):
        raise descriptor.unsupported(
            "its permissions would not let this user open it again",
            "Change the file's mode (chmod), or close it.",
        )


def open_path(path: bytes, flags: int) -> int:
    """open(2) of a recorded path; close-on-exec, never a controlling terminal.

    Raises:
        RestoreError: With the path and what to do.
    """
    try:
        return os.open(path, flags | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RestoreError(
            f"{os.fsdecode(path)} was open at the checkpoint and is gone",
            "Put it back under this path and try again.",
        ) from error
    except OSError as error:
        raise RestoreError(
            f"{os.fsdecode(path)} was open at the checkpoint and cannot be opened "
            f"again: {error.strerror}",
            "Make it accessible to this user and try again.",
        ) from error


@contextmanager
def close_on_error(fd: int) -> Iterator[int]:
    """Gives ``fd`` away, unless the block fails."""
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise
