"""Files that commands write and read, standard input among them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import UsageError

__all__ = ["new_file", "open_file"]


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file for its owner only, that is there when all of it is; one of that name is not
    replaced.

    Raises:
        UsageError: there is one.
        StorageError: it cannot be written.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists.", "Choose another name, or remove it first.")
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    with storage_errors(path):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        fd = os.open(partial, flags, 0o600)
    try:
        with open(fd, "wb") as file:
            yield file
        with storage_errors(path):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def open_file(name: str) -> Iterator[BinaryIO]:
    """A file to be read, or standard input.

    Args:
        name: a path, or ``-``.

    Raises:
        UsageError: it cannot be read.
    """
    if name == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(name, "rb"))
        except OSError as error:
            raise UsageError(
                f"{name} cannot be read: {error.strerror}.", "Look at its name."
            ) from error
        yield file
