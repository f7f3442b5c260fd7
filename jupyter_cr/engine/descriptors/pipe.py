"""Pipes, with what was written and not yet read.

Both ends may be held in the tree; or one end, and the other was closed by everybody;
or one end, and the other leaves the tree. Of the last, the end is taken from whoever
still holds that pipe; a fork shares only what it writes, as what it read would be lost
to the original. Where nobody has it any more, readers find the unread bytes and then
the end of file, and what is written goes to /dev/null; both with a warning.
"""

from __future__ import annotations

__all__ = ["Content", "Record", "collect", "leaves_tree", "matches", "rebuild"]

import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import ACCESS, open_path
from jupyter_cr.errors import CorruptImage, RestoreError
from jupyter_cr.tracer import libc

_SIZE_HINT = (
    "Raise /proc/sys/fs/pipe-max-size or pipe-user-pages-soft (pipe(7)), or close pipes."
)


class Content(msgspec.Struct, frozen=True):
    """The buffer of a pipe."""

    size: int
    """Capacity in bytes, fcntl(F_GETPIPE_SZ)."""
    chunks: tuple[bytes, ...]
    """What is unread: one piece, or one for each packet."""
    packets: bool
    """Packet mode (O_DIRECT of pipe(2)): a read takes one chunk at the most."""


class Record(msgspec.Struct, frozen=True, tag="pipe"):
    ino: int
    access: int
    """O_RDONLY, O_WRONLY, or O_RDWR (of one opened through /proc)."""
    outer: bool
    """The other end is held outside the tree only."""
    boot_id: str
    """Of the Linux that ran: inode numbers mean nothing in another boot."""
    content: Content | None
    """With the first open file on this pipe only."""


@dataclass(frozen=True)
class _Ends:
    read: int
    write: int


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link.startswith("pipe:[")


def leaves_tree(descriptor: Descriptor, tree: Tree) -> bool:
    """Whether the pipe's other end is open, and by nobody in the tree."""
    accesses = {access_of(d) for d in same_inode(descriptor, tree)}
    if os.O_RDWR in accesses or len(accesses) > 1:
        return False
    poll = select.poll()
    poll.register(descriptor.local, 0)
    alone = select.POLLERR if os.O_WRONLY in accesses else select.POLLHUP
    return not any(events & alone for _, events in poll.poll(0))


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Which end it is, and once for each pipe its unread bytes and capacity.

    Raises:
        Unsupported: Limits on pipes leave no room to copy the unread bytes.
    """
    first = same_inode(descriptor, tree)[0] is descriptor
    return Record(
        ino=descriptor.stat.st_ino,
        access=access_of(descriptor),
        outer=leaves_tree(descriptor, tree),
        boot_id=_boot_id(),
        content=collect_content(descriptor, tree) if first else None,
    )


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens the recorded end of the pipe, new or still alive.

    Raises:
        RestoreError: Limits on pipes do not permit the capacity.
        CorruptImage: No record has the pipe's content.
    """
    if record.outer:
        if record.access == os.O_WRONLY or rebuilding.mode == "restore":
            fd = _open_outer(record, rebuilding)
            if fd is not None:
                return fd
        if record.access == os.O_WRONLY:
            rebuilding.warnings.append(
                f"pipe:[{record.ino}] led out of the tree and nobody reads it any more; "
                "what is written to it goes to /dev/null."
            )
            return open_path(b"/dev/null", os.O_WRONLY)
        _warn_of_lost_writer(record, rebuilding)
    ends = _ends(record.ino, rebuilding)
    return reopen(ends.write if record.access == os.O_WRONLY else ends.read, record.access)


def access_of(descriptor: Descriptor) -> int:
    """The access mode of a pipe's or FIFO's end."""
    return descriptor.flags & ACCESS


def same_inode(descriptor: Descriptor, tree: Tree) -> list[Descriptor]:
    """All ends of this pipe or FIFO that the tree holds."""
    return [
        d
        for d in tree.by_inode[descriptor.stat.st_dev, descriptor.stat.st_ino]
        if not d.flags & os.O_PATH
    ]


def collect_content(descriptor: Descriptor, tree: Tree) -> Content:
    """Unread bytes of a pipe or FIFO, left where they are.

    Empty where the tree holds no end to read from: the bytes are somebody else's.

    Raises:
        Unsupported: Limits on pipes leave no room to copy them.
    """
    ends = same_inode(descriptor, tree)
    size = fcntl.fcntl(descriptor.local, fcntl.F_GETPIPE_SZ)
    packets = any(d.flags & os.O_DIRECT for d in ends if access_of(d) != os.O_RDONLY)
    reader = next((d for d in ends if access_of(d) != os.O_WRONLY), None)
    unread = unread_bytes(descriptor.local)
    if reader is None or not unread:
        return Content(size, (), packets)
    try:
        chunks = _copy_unread(reader.local, size, unread)
    except OSError as error:
        raise descriptor.unsupported(
            f"its {unread} unread bytes cannot be copied ({error.strerror})", _SIZE_HINT
        ) from error
    return Content(size, chunks, packets or len(chunks) > 1)


def fill(content: Content, write: int) -> None:
    """Gives a new pipe or FIFO its capacity and its unread bytes.

    Args:
        write: An end to write to, of its own open file description.

    Raises:
        RestoreError: Limits on pipes do not permit it.
    """
    try:
        if fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) != content.size:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, content.size)
        mode = os.O_DIRECT if content.packets else 0
        fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK | mode)
        for chunk in content.chunks:
            os.write(write, chunk)
    except OSError as error:
        raise RestoreError(
            f"a pipe of {content.size} bytes cannot be made again: {error.strerror}",
            _SIZE_HINT,
        ) from error


def reopen(fd: int, access: int) -> int:
    """A new open file description on the pipe of ``fd``; O_NONBLOCK is set.

    Raises:
        OSError: ENXIO to write where nobody reads, EACCES.
    """
    return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_CLOEXEC)


def unread_bytes(fd: int) -> int:
    """FIONREAD of a pipe or FIFO, through either end."""
    answer: tuple[int] = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return answer[0]


def _copy_unread(reader: int, size: int, unread: int) -> tuple[bytes, ...]:
    scratch_read, scratch_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # As many slots as the original has; tee(2) takes one for each, however full.
        fcntl.fcntl(scratch_write, fcntl.F_SETPIPE_SZ, size)
        left = libc.tee(reader, scratch_write, unread)
        if left != unread:
            raise OSError(f"tee(2) copied {left} of {unread}")
        chunks = []
        while left:
            chunks.append(os.read(scratch_read, left))
            left -= len(chunks[-1])
        return tuple(chunks)
    finally:
        os.close(scratch_read)
        os.close(scratch_write)


def _ends(ino: int, rebuilding: Rebuilding) -> _Ends:
    key = ("pipe", ino)
    if key not in rebuilding.memo:
        content = _find_content(ino, rebuilding)
        read, write = os.pipe2(os.O_CLOEXEC)
        rebuilding.stack.callback(os.close, read)
        rebuilding.stack.callback(os.close, write)
        fill(content, write)
        rebuilding.memo[key] = _Ends(read, write)
    ends: _Ends = rebuilding.memo[key]
    return ends


def _find_content(ino: int, rebuilding: Rebuilding) -> Content:
    for _, record in rebuilding.records(Record):
        if record.ino == ino and record.content is not None:
            content: Content = record.content
            return content
    raise CorruptImage(
        f"the snapshot refers to pipe:[{ino}] and does not hold its content",
        "Use another snapshot.",
    )


def _open_outer(record: Record, rebuilding: Rebuilding) -> int | None:
    fd = rebuilding.outer.get(record.ino)
    if fd is not None:
        return _take_outer(fd, record, rebuilding)
    if record.boot_id != _boot_id():
        return None
    for name in _iter_holders(record.ino):
        try:
            fd = os.open(name, record.access | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if _is_pipe(fd, record.ino):
            return fd
        # The holder closed it and opened something else in between.
        os.close(fd)
    return None


def _take_outer(fd: int, record: Record, rebuilding: Rebuilding) -> int | None:
    key = ("pipe", "outer", record.ino)
    if key not in rebuilding.memo and access_of_fd(fd) == record.access:
        rebuilding.memo[key] = True
        return os.dup(fd)
    try:
        return reopen(fd, record.access)
    except OSError:
        return None


def access_of_fd(fd: int) -> int:
    """The access mode of this process's descriptor."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & ACCESS


def _iter_holders(ino: int) -> Iterator[str]:
    """Names under /proc of descriptors on this pipe, of processes that we may look at."""
    link = f"pipe:[{ino}]"
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    name = f"/proc/{pid}/fd/{number}"
                    if os.readlink(name) == link:
                        yield name


def _is_pipe(fd: int, ino: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISFIFO(status.st_mode) and status.st_ino == ino


def _warn_of_lost_writer(record: Record, rebuilding: Rebuilding) -> None:
    rebuilding.warnings.append(
        f"pipe:[{record.ino}] came from outside the tree; its reader finds what was "
        "unread and then the end of file."
    )


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
