"""Which tree a snapshot is of, so that a restore knows which one to replace.

A tree that Linux started is known by its root's pid and start time. A tree that we
rebuilt has a seed process above it, whose command line says which tree it is:
restoring keeps the identity, forking gives a new one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from jupyter_cr.engine.freeze import FrozenTree
from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_pids

__all__ = ["SEED_NAME", "Identity", "find_tree", "identity_of"]

SEED_NAME = "jupyter-cr"
"""argv[0] of the processes that hold a rebuilt tree; argv[1] is the identity,
argv[2] the snapshot's name."""


class Identity(msgspec.Struct, frozen=True):
    """`text` is unique among all trees of all machines."""

    text: str
    root: int
    """The root's pid, as it sees it."""


def identity_of(tree: FrozenTree) -> Identity:
    """Of a frozen tree."""
    root = tree.processes[tree.root]
    return Identity(_text_of(tree.root), root.inner_pid)


def _text_of(pid: int) -> str:
    ancestor = read_stat(pid).ppid
    while ancestor > 1:
        command = _command(ancestor)
        if len(command) >= 2 and command[0] == SEED_NAME:
            return command[1]
        ancestor = read_stat(ancestor).ppid
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{read_stat(pid).starttime}:{pid}"


def find_tree(identity: Identity, apart_from: int) -> int | None:
    """The pid, as we see it, of the living root with that identity; but not of the one
    that is being built under process `apart_from`."""
    for pid in list_pids():
        try:
            if _inner_pid(pid) != identity.root or read_stat(pid).state == "Z":
                continue
            if _text_of(pid) == identity.text and not _is_under(pid, apart_from):
                return pid
        except (CheckpointRestoreError, OSError):
            continue
    return None


def _is_under(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = read_stat(pid).ppid
        if pid == ancestor:
            return True
    return False


def _inner_pid(pid: int) -> int:
    from jupyter_cr.tracer.proc.status import read_status

    return read_status(pid).ns_tgid[-1]


def _command(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode("utf-8", "surrogateescape").split("\0")[:-1]
