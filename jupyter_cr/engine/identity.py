"""Which tree a snapshot is of, so that a restore knows which one to replace.

A tree that Linux started is known by its root's pid and start time. A tree that we
rebuilt has a seed process above it, whose command line says which tree it is:
restoring keeps the identity, forking gives a new one.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jupyter_cr.engine.freeze import FrozenTree
from jupyter_cr.errors import CheckpointRestoreError, RestoreError
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.status import read_status
from jupyter_cr.tracer.proc.tasks import list_children, list_pids

__all__ = [
    "ASKED_WITHIN",
    "SEED_NAME",
    "Identity",
    "find_tree",
    "hold",
    "identity_of",
    "identity_text",
]

SEED_NAME = "jupyter-cr"
"""argv[0] of the processes that hold a rebuilt tree; argv[1] is the identity,
argv[2] the snapshot's name, argv[3] whether it was a restore or a fork, argv[4] whether
the tree had asked for it itself: programs in the tree may want to know, and read it as
pid 1's."""

ASKED_WITHIN = "within"


class Identity(msgspec.Struct, frozen=True):
    """`text` is unique among all trees of all machines."""

    text: str
    root: int
    """The root's pid, as it sees it."""


def identity_of(tree: FrozenTree) -> Identity:
    """Of a frozen tree."""
    root = tree.processes[tree.root]
    return Identity(identity_text(tree.root), root.inner_pid)


def identity_text(pid: int) -> str:
    """The `Identity.text` of the tree whose root, as we see it, is `pid`.

    Raises:
        NoSuchProcess: there is none.
    """
    ancestor = read_stat(pid).ppid
    while ancestor > 1:
        command = _command(ancestor)
        if len(command) >= 2 and command[0] == SEED_NAME:
            return command[1]
        ancestor = read_stat(ancestor).ppid
    return f"{_boot_id()}:{read_stat(pid).starttime}:{pid}"


@contextlib.contextmanager
def hold(identity: Identity) -> Iterator[None]:
    """Be the only one that replaces that tree. The lock is a name that Linux frees with
    us, however we end (unix(7), abstract sockets).

    Raises:
        RestoreError: somebody else is at it.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0jupyter-cr restores {identity.text}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise RestoreError(
                "the tree is being restored by another process", "Wait until that is done."
            ) from error
        yield


def find_tree(identity: Identity, apart_from: int) -> int | None:
    """The pid, as we see it, of the living root with that identity; but not of the one
    that is being built under process `apart_from`."""
    if (original := _find_original(identity)) is not None:
        return original
    for pid in list_pids():
        if _command(pid)[:2] == [SEED_NAME, identity.text]:
            with contextlib.suppress(CheckpointRestoreError):
                if not _is_under(pid, apart_from):
                    for child in list_children(pid):
                        if _is_root(child, identity):
                            return child
    return None


def _find_original(identity: Identity) -> int | None:
    """The tree that Linux started, if it is still that."""
    boot, _, rest = identity.text.partition(":")
    starttime, _, pid = rest.partition(":")
    if boot != _boot_id() or not pid:
        return None
    try:
        stat = read_stat(int(pid))
    except CheckpointRestoreError:
        return None
    return int(pid) if str(stat.starttime) == starttime and stat.state != "Z" else None


def _is_root(pid: int, identity: Identity) -> bool:
    status = read_status(pid)
    return (
        status.ns_tgid[-1] == identity.root
        and status.state != "Z"
        and _command(pid)[:1] != [SEED_NAME]
    )


def _is_under(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = read_stat(pid).ppid
    return False


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _command(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode("utf-8", "surrogateescape").split("\0")[:-1]
