"""Who gets SIGIO: fcntl(F_SETOWN_EX) and F_SETSIG, state that any open file carries."""

from __future__ import annotations

__all__ = ["calls", "collect_owner", "collect_signal", "inner_group", "rebuild_signal"]

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from jupyter_cr.engine.descriptors.base import Descriptor, OpenFile, Place, Tree
from jupyter_cr.tracer.calls import Call

_F_SETOWN_EX = 15
_F_GETOWN_EX = 16
_F_OWNER_TID, _F_OWNER_PID, _F_OWNER_PGRP = range(3)
_OWNER = struct.Struct("ii")


def collect_owner(descriptor: Descriptor, tree: Tree) -> tuple[int, int]:
    """(type, pid as inside the tree) as in fcntl(2)'s struct f_owner_ex.

    (0, 0) where there is none, or one outside the tree: its pid may be another's by the
    time of the restore.
    """
    if descriptor.flags & os.O_PATH:
        return 0, 0
    answer = fcntl.fcntl(descriptor.local, _F_GETOWN_EX, bytes(_OWNER.size))
    kind, pid = _OWNER.unpack(answer)
    inner = _inner_number(kind, pid, tree) if pid else 0
    return (kind, inner) if inner else (0, 0)


def inner_group(group: int, tree: Tree) -> int:
    """A process group as the tree numbers it; 0 if none of the tree is in it."""
    return _inner_number(_F_OWNER_PGRP, group, tree) if group else 0


def collect_signal(descriptor: Descriptor) -> int:
    """fcntl(F_GETSIG): the signal sent instead of SIGIO, or 0."""
    if descriptor.flags & os.O_PATH:
        return 0
    return fcntl.fcntl(descriptor.local, fcntl.F_GETSIG)


def rebuild_signal(fd: int, signal: int) -> None:
    """fcntl(F_SETSIG), where one was set."""
    if signal:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal)


def calls(file: OpenFile, place: Place) -> Iterator[Call]:
    """fcntl(F_SETOWN_EX) by the first process that holds the file: only there do pids
    mean what they meant."""
    if file.owner[1] and place == file.places[0]:
        yield Call(
            "fcntl",
            (place.fd, _F_SETOWN_EX, _OWNER.pack(*file.owner)),
            # A group whose leader is outside the tree may not be there again.
            optional=file.owner[0] == _F_OWNER_PGRP,
        )


def _inner_number(kind: int, number: int, tree: Tree) -> int:
    """A process, thread or group as its own pid namespace numbers it; 0 if it is not
    of the tree."""
    for pid in _outer_pids(tree):
        if kind == _F_OWNER_PID and pid == number:
            return _last_word(f"/proc/{pid}/status", "NSpid")
        if kind == _F_OWNER_TID and os.path.exists(f"/proc/{pid}/task/{number}"):
            return _last_word(f"/proc/{pid}/task/{number}/status", "NSpid")
        if kind == _F_OWNER_PGRP and _group(pid) == number:
            return _last_word(f"/proc/{pid}/status", "NSpgid")
    return 0


def _outer_pids(tree: Tree) -> set[int]:
    held = {place.pid for d in tree.descriptors for place in d.places}
    known = {*tree.pids.values(), *tree.zombies.values()}
    return {tree.pids.get(pid, pid) for pid in held} | known


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _last_word(path: str, field: str) -> int:
    """The innermost number of an ``NS...`` line of proc_pid_status(5)."""
    lines = Path(path).read_text().splitlines()
    line = next(line for line in lines if line.startswith(field + ":"))
    return int(line.split()[-1])
