"""Record locks and flock(2): not a kind of open file, but state that files carry.

FLOCK and OFDLCK belong to the open file description, so they are taken where it is
made again. POSIX locks belong to the process, so the rebuilt process takes them
itself, once its descriptors are in place: closing any descriptor of that file there
afterwards would drop them (fcntl_locking(2)).

Linux lists with a descriptor what was locked through it by the process that is asked
(``show_fd_locks`` in fs/locks.c), hence one look per process that holds it.
"""

from __future__ import annotations

__all__ = ["Lock", "calls", "collect_locks", "rebuild_locks"]

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Place, Rebuilding, Tree
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer.calls import Call

_KINDS: dict[str, Literal["flock", "ofd", "posix"]] = {
    "FLOCK": "flock",
    "OFDLCK": "ofd",
    "POSIX": "posix",
}


class Lock(msgspec.Struct, frozen=True):
    """One lock that is held."""

    kind: Literal["flock", "ofd", "posix"]
    exclusive: bool
    start: int = 0
    """First byte."""
    length: int = 0
    """Bytes from there; 0 to the end of the file, however far that moves."""
    pid: int = 0
    """The process it belongs to, as inside the tree; only of ``posix``."""


def collect_locks(descriptor: Descriptor, tree: Tree) -> tuple[Lock, ...]:
    """All locks held through this open file, by any process of the tree.

    Raises:
        Unsupported: A lease (fcntl(F_SETLEASE)) or a lock of an unknown kind.
    """
    found: dict[Lock, None] = {}
    for pid, lines in _iter_lock_lines(descriptor, tree):
        for line in lines:
            lock = _parse(line, pid, descriptor)
            if lock is not None:
                found[lock] = None
    return tuple(found)


def rebuild_locks(fd: int, locks: Iterable[Lock], rebuilding: Rebuilding) -> None:
    """Takes again the locks that belong to the open file ``fd``.

    A fork goes on without those that the original still holds, with a warning.

    Raises:
        RestoreError: Somebody else holds a conflicting lock.
    """
    for lock in locks:
        if lock.kind == "posix":
            continue
        try:
            _take(fd, lock)
        except OSError as error:
            sentence = (
                f"{os.readlink(f'/proc/self/fd/{fd}')}: the lock held at the checkpoint "
                f"cannot be taken again, {_holder(fd)} holds it ({error.strerror})"
            )
            if rebuilding.mode != "fork":
                raise RestoreError(sentence, "End that process and try again.") from error
            rebuilding.warnings.append(sentence)


def calls(locks: Iterable[Lock], place: Place, rebuilding: Rebuilding) -> Iterator[Call]:
    """The fcntl(F_SETLK) calls by which ``place``'s process takes its POSIX locks.

    In a fork they may fail: the original may still hold them.
    """
    for lock in locks:
        if lock.kind == "posix" and lock.pid == place.pid:
            args = (place.fd, fcntl.F_SETLK, _struct_flock(lock))
            yield Call("fcntl", args, optional=rebuilding.mode == "fork")


def _iter_lock_lines(
    descriptor: Descriptor, tree: Tree
) -> Iterator[tuple[int, Iterable[str]]]:
    yield descriptor.places[0].pid, descriptor.fields("lock")
    seen = {descriptor.places[0].pid}
    for place in descriptor.places[1:]:
        if place.pid not in seen:
            seen.add(place.pid)
            pid = tree.pids.get(place.pid, place.pid)
            text = Path(f"/proc/{pid}/fdinfo/{place.fd}").read_text()
            lines = [line[5:] for line in text.splitlines() if line.startswith("lock:")]
            yield place.pid, lines


def _parse(line: str, pid: int, descriptor: Descriptor) -> Lock | None:
    words = line.split()
    if words[1] == "->":
        return None
    kind = _KINDS.get(words[1])
    if kind is None:
        raise descriptor.unsupported(
            f"holds a lock of kind {words[1]}, which cannot be taken again",
            "Release it (fcntl F_SETLEASE, F_UNLCK), or close the file.",
        )
    start = int(words[6])
    length = 0 if words[7] == "EOF" else int(words[7]) - start + 1
    return Lock(kind, words[3] == "WRITE", start, length, pid if kind == "posix" else 0)


def _take(fd: int, lock: Lock) -> None:
    if lock.kind == "flock":
        fcntl.flock(
            fd, (fcntl.LOCK_EX if lock.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
        )
    else:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _struct_flock(lock))


def _struct_flock(lock: Lock) -> bytes:
    kind = fcntl.F_WRLCK if lock.exclusive else fcntl.F_RDLCK
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, lock.start, lock.length, 0)


def _holder(fd: int) -> str:
    """Who /proc/locks (proc_locks(5)) says locked this file."""
    stat = os.fstat(fd)
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] != "->" and words[5] == device and int(words[4]) > 0:
            return f"process {words[4]}"
    return "another process"
