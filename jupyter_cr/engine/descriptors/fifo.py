"""Named pipes: opened again by their path, with unread bytes where the tree had them.

Anybody may open the other end, so a FIFO is shared with whoever uses the path at the
restore, as it was before; bytes are put back only where nobody does.
"""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import os
import select
import stat

import msgspec

from jupyter_cr.engine.descriptors import pipe
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import (
    check_access,
    checked_path,
    close_on_error,
    open_path,
)
from jupyter_cr.errors import RestoreError


class Record(msgspec.Struct, frozen=True, tag="fifo"):
    path: bytes
    access: int
    """O_RDONLY, O_WRONLY or O_RDWR."""
    hung_up: bool
    """A reader that had a writer, and has none now (POLLHUP)."""
    content: pipe.Content | None
    """With the first open file on this FIFO only."""


def matches(descriptor: Descriptor) -> bool:
    return stat.S_ISFIFO(descriptor.stat.st_mode) and descriptor.link.startswith("/")


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Its path, end, and once for each FIFO its unread bytes and capacity.

    Raises:
        Unsupported: It was removed or replaced, would not be permitted again, or
            limits on pipes leave no room to copy the unread bytes.
    """
    path = checked_path(descriptor)
    check_access(descriptor, path)
    first = pipe.same_inode(descriptor, tree)[0] is descriptor
    return Record(
        path=path,
        access=pipe.access_of(descriptor),
        hung_up=_is_hung_up(descriptor),
        content=pipe.collect_content(descriptor, tree) if first else None,
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the recorded end, without waiting for the other.

    Raises:
        RestoreError: The path is gone, no FIFO, or not permitted.
    """
    _hold(record, rebuilding)
    with close_on_error(open_path(record.path, record.access | os.O_NONBLOCK)) as fd:
        if record.hung_up and record.access == os.O_RDONLY:
            # Only a writer that came and went makes a reader hung up (fs/pipe.c).
            os.close(pipe.reopen(fd, os.O_WRONLY))
        return fd


def _is_hung_up(descriptor: Descriptor) -> bool:
    poll = select.poll()
    poll.register(descriptor.local, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _hold(record: Record, rebuilding: Rebuilding) -> None:
    """Keeps an end to read from until the tree is complete, so that ends to write to
    can be opened first and unread bytes stay."""
    key = ("fifo", record.path)
    if key in rebuilding.memo:
        return
    used = _has_reader(record.path)
    reader = open_path(record.path, os.O_RDONLY | os.O_NONBLOCK)
    rebuilding.stack.callback(os.close, reader)
    if not stat.S_ISFIFO(os.fstat(reader).st_mode):
        raise RestoreError(
            f"{os.fsdecode(record.path)} was a FIFO at the checkpoint and is none now",
            "Put it back (mkfifo) and try again.",
        )
    content = _find_content(record, rebuilding)
    if used or pipe.unread_bytes(reader):
        if content is not None and content.chunks:
            rebuilding.warnings.append(
                f"{os.fsdecode(record.path)} is used by somebody else; its unread bytes "
                "are not put back."
            )
    elif content is not None:
        writer = pipe.reopen(reader, os.O_WRONLY)
        try:
            pipe.fill(content, writer)
        finally:
            os.close(writer)
    rebuilding.memo[key] = True


def _has_reader(path: bytes) -> bool:
    """Whether anybody reads it now; fifo(7): ENXIO where nobody does."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _find_content(record: Record, rebuilding: Rebuilding) -> pipe.Content | None:
    for _, other in rebuilding.records(Record):
        if other.path == record.path and other.content is not None:
            content: pipe.Content = other.content
            return content
    return None
