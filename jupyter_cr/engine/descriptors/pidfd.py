"""pidfd_open(2): descriptors of processes, and of threads (PIDFD_THREAD, Linux 6.9).

Those of the tree, living, or ended and still to be waited for. One of a process that has
been waited for names nobody any more, and any other such process is as good.
"""

from __future__ import annotations

__all__ = ["Record", "collect", "matches", "rebuild"]

import fcntl
import os
import signal
import struct

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.errors import CheckpointRestoreError, CorruptImage
from jupyter_cr.tracer.proc.status import read_status

_PIDFD_THREAD = os.O_EXCL
_GONE, _NOT_VISIBLE = -1, 0
# struct pidfd_info of Linux's pidfd.h.
_PIDFD_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("<2Q11Ii")
_INFO_EXIT = 1 << 3


class Record(msgspec.Struct, frozen=True, tag="pidfd"):
    pid: int
    """As inside the tree; of a thread its tid. 0 once it has been waited for."""
    flags: int
    """PIDFD_THREAD, or 0."""
    status: int = 0
    """As wait(2) gave it, of one that has been waited for (Linux 6.15)."""


def matches(descriptor: Descriptor) -> bool:
    return descriptor.link.startswith(("anon_inode:[pidfd]", "pidfd:"))


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Whom it names.

    Raises:
        Unsupported: a process that is not of the tree.
    """
    flags = descriptor.flags & _PIDFD_THREAD
    pid = int(descriptor.field("Pid") or _NOT_VISIBLE)
    if pid == _GONE:
        return Record(0, flags, _exit_status(descriptor.local))
    if not _is_of_tree(pid, descriptor, tree):
        raise descriptor.unsupported(
            f"is a pidfd of {_name(pid)}, which is not of the tree",
            "Close it before the checkpoint, and open it again afterwards.",
        )
    inner = (descriptor.field("NSpid") or str(pid)).split()[-1]
    return Record(int(inner), flags)


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens one of the rebuilt process.

    Raises:
        CorruptImage: there is no such process in the snapshot.
    """
    if not record.pid:
        return _open_gone(record)
    if record.pid not in rebuilding.pids:
        raise CorruptImage(
            f"the snapshot refers to process {record.pid} and does not hold it",
            "Use another snapshot.",
        )
    return os.pidfd_open(rebuilding.pids[record.pid], record.flags)


def _is_of_tree(pid: int, descriptor: Descriptor, tree: Tree) -> bool:
    if pid == _NOT_VISIBLE:
        return False
    members = {*tree.pids.values(), *tree.zombies.values()}
    try:
        return read_status(pid).tgid in members
    except CheckpointRestoreError:
        return False


def _name(pid: int) -> str:
    try:
        return f"process {pid} ({read_status(pid).name})"
    except CheckpointRestoreError:
        return "a process of another pid namespace"


def _exit_status(pidfd: int) -> int:
    """0 where Linux does not tell."""
    question = _INFO.pack(_INFO_EXIT, *[0] * 13)
    try:
        answer = _INFO.unpack(fcntl.ioctl(pidfd, _PIDFD_GET_INFO, question))
    except OSError:
        return 0
    return answer[-1] if answer[0] & _INFO_EXIT else 0


def _open_gone(record: Record) -> int:
    """A child of ours that ends in the same way."""
    status = record.status
    if os.WIFSIGNALED(status):
        command = f"ulimit -c 0; kill -{os.WTERMSIG(status)} $$"
    else:
        command = f"exit {os.WEXITSTATUS(status)}"
    default = [
        n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)
    ]
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f"{command}"], {}, setsigmask=[], setsigdef=default
    )
    try:
        return os.pidfd_open(pid, record.flags)
    finally:
        os.waitpid(pid, 0)
