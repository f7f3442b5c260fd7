"""Pseudoterminals whose master side is in the tree: what `pexpect` and IPython's ``!``
run programs on (pty(7)).

Of one whose master side is elsewhere, the tree has a terminal like any other.

A pseudoterminal that is made again has another number: the original, whose it is, may
still be there. What ttyname(3) says follows; a path that was remembered before does not.
(A devpts of its own would keep the number, and hide the terminals outside.) Whose
controlling terminal it is, `jupyter_cr.engine.controlling_terminals` sees to.
"""

from __future__ import annotations

__all__ = [
    "Record",
    "State",
    "collect",
    "is_inside",
    "matches",
    "open_slave",
    "rebuild",
]

import errno
import os
import select
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import msgspec

from jupyter_cr.engine.descriptors import owner, pty_queue, terminal
from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.path import ACCESS, REOPEN
from jupyter_cr.engine.descriptors.pty_queue import Unread
from jupyter_cr.errors import CorruptImage
from jupyter_cr.tracer import tty
from jupyter_cr.tracer.proc.stat import read_stat

_READ_ON = "Let it be read, or end the program that runs in this terminal, and try again."
_CLOSE = "End the program that runs in this terminal, or close it."

Key = tuple[int, int]
"""Device and inode of the slave side: several instances of devpts number alike."""


class State(msgspec.Struct, frozen=True):
    """What both sides share."""

    settings: tty.Settings
    window_size: tuple[int, int, int, int]
    packet_mode: bool
    locked: bool
    exclusive: bool
    """Of the slave side."""
    closed: bool
    """All have closed the slave side, or it was hung up."""
    unread: Unread
    session: int = 0
    """Whose controlling terminal it is; 0 if of none."""
    foreground: int = 0
    """The process group; 0: the session leader's."""
    without: tuple[int, ...] = ()
    """Processes of the session that have no controlling terminal all the same."""


class Record(msgspec.Struct, frozen=True, tag="pseudoterminal"):
    side: Literal["master", "slave", "hung up"]
    """The last: a slave side that leads nowhere any more."""
    key: Key
    path: bytes
    flags: int
    state: State | None = None
    """With the master side."""


@dataclass(frozen=True)
class _Pair:
    master: int
    slave: int
    """-1 where all have closed it."""


def matches(descriptor: Descriptor) -> bool:
    """Either side; and ``/dev/tty``, which may be a slave side."""
    rdev = descriptor.stat.st_rdev
    return stat.S_ISCHR(descriptor.stat.st_mode) and (
        rdev in (tty.PTMX, _DEV_TTY) or os.major(rdev) in tty.PTS_MAJORS
    )


_DEV_TTY = os.makedev(5, 0)


def is_inside(descriptor: Descriptor, tree: Tree) -> bool:
    """Whether it is a side of a pseudoterminal whose master side is in the tree."""
    return matches(descriptor) and (
        descriptor.stat.st_rdev == tty.PTMX or _find_master(descriptor, tree) is not None
    )


def collect(descriptor: Descriptor, tree: Tree) -> Record | terminal.Record:
    """Which side of which one it is, and with the master side all else.

    Raises:
        Unsupported: its unread bytes cannot be had, or its like cannot be made.
    """
    path, flags = os.fsencode(descriptor.link), descriptor.flags & REOPEN
    if descriptor.stat.st_rdev == tty.PTMX:
        key = _peer_key(descriptor)
        return Record("master", key, path, flags, _collect_state(descriptor, tree))
    if (master := _find_master(descriptor, tree)) is not None:
        return Record("slave", _peer_key(master), path, flags)
    if _is_hung_up(descriptor):
        return Record("hung up", (0, 0), path, flags)
    return terminal.collect(descriptor, tree)


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Opens its side of the pseudoterminal, which is made with the first.

    Raises:
        CorruptImage: no record has its state.
    """
    if record.side == "hung up":
        return _open_hung_up(record.flags)
    pair = _pair(record.key, rebuilding)
    if record.side == "master":
        return os.dup(pair.master)
    return tty.open_peer(pair.master, record.flags)


def open_slave(record: Record, rebuilding: Rebuilding) -> int:
    """The slave side of a rebuilt pseudoterminal, to read and write; it is closed with
    the rebuilding.

    Raises:
        CorruptImage: no record has its state.
    """
    return _pair(record.key, rebuilding).slave


def _collect_state(master: Descriptor, tree: Tree) -> State:
    fd = master.local
    slaves = _find_slaves(master, tree)
    closed = _has_event(fd, select.POLLHUP)
    _refuse(master, held=bool(slaves) or closed)
    settings = tty.read_settings(fd)
    slave = slaves[0] if slaves else None
    session = tty.session_of(fd)
    try:
        unread = pty_queue.copy_unread(fd, slave.local if slave else None, settings)
    except pty_queue.NotTaken as error:
        raise master.unsupported(f"is a pseudoterminal: {error}", _READ_ON) from error
    return State(
        settings=settings,
        window_size=tty.read_window_size(fd),
        packet_mode=tty.is_packet_mode(fd),
        locked=tty.is_locked(fd),
        exclusive=slave is not None and tty.is_exclusive(slave.local),
        closed=closed,
        unread=unread,
        session=_inner_session(master, session, tree) if session else 0,
        foreground=owner.inner_group(tty.foreground_of(fd), tree) if session else 0,
        without=tuple(_iter_without(session, tree)) if session else (),
    )


def _refuse(master: Descriptor, *, held: bool) -> None:
    """What there is no way to see, or to make."""
    fd = master.local
    what = ""
    if not held:
        what = "its other side has not been opened yet, or is held outside the tree only"
    elif master.flags & ACCESS != os.O_RDWR:
        what = "it was opened in one direction only"
    elif tty.line_discipline(fd) or tty.read_settings(fd).line:
        what = "it has a line discipline of its own (TIOCSETD)"
    elif tty.read_settings(fd).lflag & tty.EXTPROC:
        what = "its lines are edited by the other side (EXTPROC)"
    elif tty.has_locked_settings(fd):
        what = "its settings are locked (TIOCSLCKTRMIOS)"
    elif _has_event(fd, select.POLLPRI):
        what = "it has a status to be read (packet mode)"
    if what:
        raise master.unsupported(f"is a pseudoterminal: {what}", _CLOSE)


def _inner_session(master: Descriptor, session: int, tree: Tree) -> int:
    for inner, outer in tree.pids.items():
        if outer == session:
            return inner
    raise master.unsupported(
        f"is the terminal of session {session}, whose leader is not of the tree", _CLOSE
    )


def _iter_without(session: int, tree: Tree) -> Iterator[int]:
    for inner, outer in tree.pids.items():
        found = read_stat(outer)
        if found.session == session and not found.tty_nr:
            yield inner


def _masters(tree: Tree) -> Mapping[Key, Descriptor]:
    found: Mapping[Key, Descriptor] | None = tree.memo.get("pseudoterminal")
    if found is None:
        found = {
            _peer_key(d): d
            for d in tree.descriptors
            if stat.S_ISCHR(d.stat.st_mode)
            and d.stat.st_rdev == tty.PTMX
            and not d.flags & os.O_PATH
        }
        tree.memo["pseudoterminal"] = found
    return found


def _peer_key(master: Descriptor) -> Key:
    try:
        peer = tty.open_peer(master.local, os.O_PATH)
    except OSError as error:
        raise master.unsupported(
            f"is a pseudoterminal whose other side cannot be found ({error.strerror})",
            _CLOSE,
        ) from error
    try:
        status = os.fstat(peer)
    finally:
        os.close(peer)
    return status.st_dev, status.st_ino


def _find_master(slave: Descriptor, tree: Tree) -> Descriptor | None:
    """None as well of one that has been hung up."""
    number = tty.terminal_number(slave.local)
    if number is None:
        return None
    if slave.stat.st_rdev != _DEV_TTY:
        return _masters(tree).get((slave.stat.st_dev, slave.stat.st_ino))
    same = (m for m in _masters(tree).values() if tty.terminal_number(m.local) == number)
    return next(same, None)


def _find_slaves(master: Descriptor, tree: Tree) -> list[Descriptor]:
    others = (d for d in tree.descriptors if d is not master and matches(d))
    return [
        d
        for d in others
        if not d.flags & os.O_PATH
        and d.stat.st_rdev != tty.PTMX
        and _find_master(d, tree) is master
    ]


def _is_hung_up(descriptor: Descriptor) -> bool:
    try:
        tty.read_settings(descriptor.local)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def _has_event(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(events & event for _, events in poll.poll(0))


def _open_hung_up(flags: int) -> int:
    master = tty.open_pseudoterminal()
    try:
        return tty.open_peer(master, flags)
    finally:
        os.close(master)


def _pair(key: Key, rebuilding: Rebuilding) -> _Pair:
    name = ("pseudoterminal", key)
    if name not in rebuilding.memo:
        rebuilding.memo[name] = _make(_find_state(key, rebuilding), rebuilding.stack)
    pair: _Pair = rebuilding.memo[name]
    return pair


def _find_state(key: Key, rebuilding: Rebuilding) -> State:
    for _, record in rebuilding.records(Record):
        if record.side == "master" and record.key == key and record.state is not None:
            state: State = record.state
            return state
    raise CorruptImage(
        "the snapshot refers to a pseudoterminal and does not hold its state",
        "Use another snapshot.",
    )


def _make(state: State, stack: ExitStack) -> _Pair:
    master = tty.open_pseudoterminal()
    stack.callback(os.close, master)
    slave = tty.open_peer(master, os.O_RDWR | os.O_NONBLOCK)
    with ExitStack() as closing:
        closing.callback(os.close, slave)
        tty.write_window_size(master, state.window_size)
        pty_queue.put_unread(master, slave, state.unread, state.settings)
        if state.closed:
            slave = -1
        else:
            stack.push(closing.pop_all())
    # Last of all, when the tree has opened it as often as it had.
    stack.callback(_finish, master, slave, state)
    return _Pair(master, slave)


def _finish(master: int, slave: int, state: State) -> None:
    tty.set_packet_mode(master, state.packet_mode)
    tty.set_locked(master, state.locked)
    if state.exclusive:
        tty.set_exclusive(slave, True)
