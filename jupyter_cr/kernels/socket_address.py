"""Addresses of Unix sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["short_address"]

_PATH_LIMIT = 107
"""Bytes of a socket's path (unix(7)), without the final zero."""


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address of the same file that is not too long for a socket's."""
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
