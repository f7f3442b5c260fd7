"""Unix sockets: socket pairs, named sockets, and connections that leave the tree.

Streams come back with their unread bytes, SOCK_DGRAM and SOCK_SEQPACKET with their
unread messages. All unix sockets of a tree are made together: named ones are bound
first, then connections are made, then queues are filled, then ends are shut down.

What cannot be kept: a connection with both ends in the tree becomes a socketpair(2), so
getsockname(2) and getpeername(2) tell no name, and SO_PEERCRED tells of the process
that rebuilt it. A stream that leaves the tree (D-Bus, a supervisor) comes back as closed
by its other end, after its unread bytes, unless the caller of a restore still has the
open file itself (`Rebuilding.outer`).

In a fork all names still belong to the original. A named socket of a fork gets a name of
Linux's choice (autobind, unix(7)) that only the fork's own sockets use, and a warning.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import msgspec

from jupyter_cr.engine.descriptors.base import Descriptor, Rebuilding, Tree
from jupyter_cr.engine.descriptors.socket_options import (
    SocketOption,
    borrow,
    claim,
    collect_options,
    keep,
    rebuild_options,
    rebuild_options_before_bind,
    socket_kind,
)
from jupyter_cr.engine.descriptors.socket_queue import (
    fill_messages,
    fill_stream,
    peek_messages,
    peek_stream,
    poll_events,
    read_queued,
    refuse_urgent,
)
from jupyter_cr.errors import AddressTaken, EngineError, RestoreError
from jupyter_cr.tracer.sock_diag import State, UnixSocket

__all__ = ["Record", "collect", "matches", "rebuild"]

_NAME = "unix_socket"
_RETRY_SECONDS = 2.0
_RETRY_STEP = 0.02
_PATH_SIZE = 108
_NO_READING, _NO_WRITING = 1, 2
_SOCKET_TYPES = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)

Role = Literal["unconnected", "listener", "pair", "waiting", "ended", "outer", "named"]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An unread message, and its sender's name if it has one."""

    data: bytes
    sender: bytes | None = None


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket is bound to."""

    address: bytes
    """As getsockname(2) tells; abstract names begin with NUL."""
    path: bytes | None = None
    """Absolute path of the socket's file; None for abstract names."""
    exists: bool = True
    """Whether the path still leads to this socket."""
    mode: int = 0o777
    owner: tuple[int, int] | None = None
    """uid and gid of the file."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=_NAME):
    """A unix socket."""

    inode: int
    socket_type: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    role: Role
    """``pair``: connected with another socket of the tree, both ways. ``named``: a
    datagram socket that sends to a named one, in the tree or not. ``waiting``:
    connected to a listener of the tree that has not accepted yet. ``ended``: the other
    end has been closed. ``outer``: the other end is not in the tree."""
    name: Name | None = None
    peer: int = 0
    """Inode of the other end, of the listener for ``waiting``; 0 if there is none."""
    peer_name: bytes | None = None
    backlog: int = 0
    pending: int = 0
    """Of a listener: connections that nobody has accepted."""
    unread: tuple[Message, ...] = ()
    """Of a stream: at most one, with all bytes."""
    error: bool = False
    """Of an ended stream: whether ECONNRESET waits behind the unread bytes."""
    shutdown: int = 0
    """Bit 1: no more reading; bit 2: no more writing."""
    options: tuple[SocketOption, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return _NAME, self.inode

    @property
    def title(self) -> str:
        """For messages to the user."""
        name = self.name.address if self.name else self.peer_name
        return f"unix socket {_printable(name)}" if name else "unix socket without a name"


def matches(descriptor: Descriptor) -> bool:
    kind = socket_kind(descriptor)
    return kind is not None and kind.family == socket.AF_UNIX and kind.type in _SOCKET_TYPES


# Collecting


def collect(descriptor: Descriptor, tree: Tree) -> Record:
    """Reads a unix socket through its duplicate and sock_diag(7).

    Raises:
        Unsupported: descriptors are in flight, out-of-band data waits, an accept queue
            holds bytes, a filter is attached, or it is of another network namespace.
    """
    inode = descriptor.stat.st_ino
    info = tree.unix_sockets.get(inode)
    if info is None:
        raise descriptor.unsupported(
            "is a unix socket of another network namespace",
            "Checkpoint from inside that namespace, or close the socket first.",
        )
    with borrow(descriptor) as borrowed:
        common = Record(
            inode=inode,
            socket_type=info.type,
            role="unconnected",
            name=_collect_name(descriptor, info, tree),
            shutdown=info.shutdown,
            options=collect_options(descriptor, borrowed),
        )
        if info.state == State.LISTEN:
            return msgspec.structs.replace(
                common, role="listener", backlog=info.send_queue, pending=len(info.pending)
            )
        role, peer = _find_role(descriptor, info, tree)
        return msgspec.structs.replace(
            common,
            role=role,
            peer=peer,
            peer_name=_read_peer_name(borrowed),
            error=bool(poll_events(borrowed) & select.POLLERR),
            unread=tuple(_iter_unread(descriptor, borrowed, info)),
        )


def _find_role(descriptor: Descriptor, info: UnixSocket, tree: Tree) -> tuple[Role, int]:
    if info.peer:
        return _find_connected_role(descriptor, info, tree)
    if not info.connected:
        return "unconnected", 0
    for listener in tree.unix_sockets.values():
        if info.inode in listener.pending:
            return _find_pending_role(descriptor, info, listener, tree)
    return "ended", 0


def _find_connected_role(
    descriptor: Descriptor, info: UnixSocket, tree: Tree
) -> tuple[Role, int]:
    peer = tree.unix_sockets.get(info.peer)
    if info.peer not in tree.unix_inodes or peer is None:
        return ("named" if _sends_to_name(info, peer) else "outer"), info.peer
    if peer.peer == info.inode:
        if peer is info:
            raise descriptor.unsupported(
                "is a unix socket that is connected to itself", "Close it first."
            )
        return "pair", info.peer
    if _sends_to_name(info, peer):
        return "named", info.peer
    raise descriptor.unsupported(
        "is a unix datagram socket whose other end sends to a third one",
        "Close it first, or send to named sockets only.",
    )


def _sends_to_name(info: UnixSocket, peer: UnixSocket | None) -> bool:
    return info.type == socket.SOCK_DGRAM and peer is not None and peer.name is not None


def _find_pending_role(
    descriptor: Descriptor, info: UnixSocket, listener: UnixSocket, tree: Tree
) -> tuple[Role, int]:
    if listener.inode not in tree.unix_inodes:
        return "outer", 0
    if info.send_queue:
        raise descriptor.unsupported(
            "is a unix socket that has sent before it was accepted: nothing can read "
            "those bytes",
            "Try again when the listener has accepted the connection.",
        )
    return "waiting", listener.inode


def _read_peer_name(borrowed: socket.SocketType) -> bytes | None:
    try:
        return _name_bytes(borrowed.getpeername())
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNRESET):
            return None
        raise


def _name_bytes(address: object) -> bytes | None:
    """An address as Python gives it: str for paths, bytes for abstract names."""
    if isinstance(address, str):
        return os.fsencode(address) or None
    return bytes(address) if isinstance(address, bytes) and address else None


def _iter_unread(
    descriptor: Descriptor, borrowed: socket.SocketType, info: UnixSocket
) -> Iterator[Message]:
    if info.type != socket.SOCK_DGRAM and not info.connected:
        return
    if borrowed.type == socket.SOCK_STREAM:
        refuse_urgent(descriptor, borrowed)
        data = peek_stream(descriptor, borrowed)
        if data:
            yield Message(data)
        return
    if poll_events(borrowed) & select.POLLERR:
        # Reading would take the error away, which stands before all messages.
        if read_queued(borrowed):
            raise descriptor.unsupported(
                "is a unix socket with unread messages behind an error",
                "Try again when the program has seen the error.",
            )
        return
    for data, sender in peek_messages(descriptor, borrowed):
        yield Message(data, _name_bytes(sender))


def _collect_name(descriptor: Descriptor, info: UnixSocket, tree: Tree) -> Name | None:
    if info.name is None:
        return None
    if info.name.startswith(b"\0"):
        return Name(address=info.name)
    pid = descriptor.places[0].pid
    cwd = os.readlink(f"/proc/{tree.pids.get(pid, pid)}/cwd")
    path = os.path.join(os.fsencode(cwd), info.name)
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Name(address=info.name, path=path, exists=False)
    return Name(
        address=info.name,
        path=path,
        exists=info.vfs == (found.st_dev, found.st_ino),
        mode=stat.S_IMODE(found.st_mode),
        owner=(found.st_uid, found.st_gid),
    )


# Rebuilding


def rebuild(record: Record, rebuilding: Rebuilding) -> int:
    """Makes a unix socket again; the first one makes them all.

    Raises:
        AddressTaken: somebody else uses the name.
        RestoreError: this machine cannot take the socket now.
    """
    if record.key not in rebuilding.memo:
        _rebuild_all(rebuilding)
    return claim(rebuilding, record.key)


def _rebuild_all(rebuilding: Rebuilding) -> None:
    records = [record for _file, record in rebuilding.records(Record)]
    by_inode = {record.inode: record for record in records}
    made: dict[int, socket.socket] = {}
    for record in records:
        if record.inode not in made:
            made.update(_make(record, by_inode, rebuilding))
    for record in records:
        _fill(record, by_inode, made, rebuilding)
    for record in records:
        _finish(record, made, rebuilding)


def _make(
    record: Record, by_inode: dict[int, Record], rebuilding: Rebuilding
) -> dict[int, socket.socket]:
    """Makes one socket, and its other end if that is in the tree."""
    if record.role == "outer" and record.inode in rebuilding.outer:
        held = socket.socket(fileno=os.dup(rebuilding.outer[record.inode]))
        keep(rebuilding, record.key, held)
        return {}
    if record.role in ("pair", "ended", "outer"):
        return _make_pair(record, by_inode, rebuilding)
    rebuilt = socket.socket(socket.AF_UNIX, record.socket_type)
    keep(rebuilding, record.key, rebuilt)
    rebuild_options_before_bind(rebuilt, record.options, rebuilding.warnings)
    if record.name is not None:
        _bind(rebuilt, record, rebuilding)
    if record.role == "listener":
        rebuilt.listen(record.backlog)
    return {record.inode: rebuilt}


def _make_pair(
    record: Record, by_inode: dict[int, Record], rebuilding: Rebuilding
) -> dict[int, socket.socket]:
    """Two connected sockets. An end that is not in the tree has the negative inode of
    the record, until `_finish` closes it."""
    rebuilt, peer = socket.socketpair(socket.AF_UNIX, record.socket_type)
    keep(rebuilding, record.key, rebuilt)
    ends = [(record, rebuilt)]
    if record.role == "pair":
        if record.peer not in by_inode:
            peer.close()
            raise EngineError(f"The image lacks the other end of a {record.title}")
        other = by_inode[record.peer]
        keep(rebuilding, other.key, peer)
        ends.append((other, peer))
        made = {record.inode: rebuilt, record.peer: peer}
    else:
        rebuilding.stack.callback(peer.close)
        made = {record.inode: rebuilt, -record.inode: peer}
    for end, sock in ends:
        rebuild_options_before_bind(sock, end.options, rebuilding.warnings)
        # An accepted stream socket has its listener's name, which is not its own.
        if end.name is not None and end.socket_type == socket.SOCK_DGRAM:
            _bind(sock, end, rebuilding)
    return made


def _fill(
    record: Record,
    by_inode: dict[int, Record],
    made: dict[int, socket.socket],
    rebuilding: Rebuilding,
) -> None:
    rebuilt = made.get(record.inode)
    if rebuilt is None:
        return
    peer = made.get(-record.inode if record.role != "pair" else record.peer)
    if record.role == "waiting":
        rebuilt.connect(made[record.peer].getsockname())
    elif peer is None:
        _fill_named(record, by_inode, made, rebuilding)
    elif record.socket_type == socket.SOCK_STREAM:
        fill_stream(peer, rebuilt, b"".join(message.data for message in record.unread))
    else:
        fill_messages(peer, [message.data for message in record.unread])


def _fill_named(
    record: Record,
    by_inode: dict[int, Record],
    made: dict[int, socket.socket],
    rebuilding: Rebuilding,
) -> None:
    """Sends the unread messages of a datagram socket from their senders, as far as
    those are in the tree, else from a socket without a name."""
    target = made[record.inode].getsockname()
    senders = {
        other.name.address: made[inode]
        for inode, other in by_inode.items()
        if other.name is not None
        and inode in made
        and other.socket_type == socket.SOCK_DGRAM
    }
    strangers = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        for message in record.unread if target else ():
            sender = senders.get(message.sender) if message.sender else nameless
            strangers += sender is None
            fill_messages(sender or nameless, [message.data], target)
    if strangers:
        rebuilding.warnings.append(
            f"{strangers} unread message(s) of the {record.title} do not tell their "
            "senders any more, as those are outside the snapshot."
        )


def _finish(record: Record, made: dict[int, socket.socket], rebuilding: Rebuilding) -> None:
    rebuilt = made.get(record.inode)
    if rebuilt is None:
        return
    if -record.inode in made:
        _close_peer(record, rebuilt, made[-record.inode], rebuilding)
    elif record.role == "named":
        _connect_to_name(record, rebuilt, made, rebuilding)
    elif record.role == "listener":
        _warn_dropped(record, made, rebuilding)
    if record.shutdown & _NO_READING and -record.inode not in made:
        rebuilt.shutdown(socket.SHUT_RD)
    if record.shutdown & _NO_WRITING and -record.inode not in made:
        rebuilt.shutdown(socket.SHUT_WR)
    rebuild_options(rebuilt, record.options, rebuilding.warnings)


_OURS = re.compile(rb"(\0|.*/)jupyter-cr/.*", re.DOTALL)
"""Names of those whom a program asks for a snapshot of itself
(`jupyter_cr.glue.channel`): it knows what the end of that connection means."""


def _close_peer(
    record: Record, rebuilt: socket.socket, peer: socket.socket, rebuilding: Rebuilding
) -> None:
    if record.error and record.socket_type != socket.SOCK_DGRAM:
        # Closing an end with unread data gives the other one ECONNRESET.
        rebuilt.send(b"\0")
    peer.close()
    if record.role == "outer" and not _OURS.fullmatch(record.peer_name or b""):
        rebuilding.warnings.append(
            f"The other end of a {record.title} is outside the snapshot; the program "
            "sees it as closed."
        )


def _connect_to_name(
    record: Record,
    rebuilt: socket.socket,
    made: dict[int, socket.socket],
    rebuilding: Rebuilding,
) -> None:
    peer = made.get(record.peer)
    address = peer.getsockname() if peer is not None else record.peer_name
    try:
        rebuilt.connect(address or b"")
    except OSError as error:
        rebuilding.warnings.append(
            f"A unix datagram socket could not be connected to "
            f"{_printable(record.peer_name or b'')} again: {error.strerror}."
        )


def _warn_dropped(
    record: Record, made: dict[int, socket.socket], rebuilding: Rebuilding
) -> None:
    waiting = sum(
        other.role == "waiting" and other.peer == record.inode
        for _file, other in rebuilding.records(Record)
    )
    if record.pending > waiting:
        rebuilding.warnings.append(
            f"{record.pending - waiting} connection(s) to the {record.title} that the "
            "program had not accepted yet were dropped."
        )


# Names


def _bind(rebuilt: socket.socket, record: Record, rebuilding: Rebuilding) -> None:
    assert record.name is not None
    if rebuilding.mode == "fork":
        rebuilt.bind(b"")
        if not _is_automatic(record.name.address):
            rebuilding.warnings.append(
                f"The {record.title} belongs to the original; nobody outside reaches the "
                "fork's."
            )
    elif record.name.path is None:
        _bind_unless_taken(rebuilt, record, record.name.address)
    elif record.name.exists:
        _bind_path(rebuilt, record, record.name, os.fsdecode(record.name.path), rebuilding)
    else:
        # Its file is gone: nobody could reach it, and nobody shall.
        rebuilt.bind(b"")


def _bind_path(
    rebuilt: socket.socket, record: Record, name: Name, path: str, rebuilding: Rebuilding
) -> None:
    directory, base = os.path.split(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        address = path
        if len(os.fsencode(path)) >= _PATH_SIZE:
            number = os.open(directory, os.O_PATH | os.O_DIRECTORY)
            rebuilding.stack.callback(os.close, number)
            address = f"/proc/self/fd/{number}/{base}"
        _bind_unless_taken(rebuilt, record, os.fsencode(address))
        os.chmod(path, name.mode)
    except OSError as error:
        raise RestoreError(
            f"The {record.title} could not be bound to {path}: {error.strerror}",
            "Make its directory again, writable for you.",
        ) from error
    if name.owner is not None:
        with suppress(PermissionError):
            os.chown(path, *name.owner)


def _bind_unless_taken(rebuilt: socket.socket, record: Record, address: bytes) -> None:
    """Binds; waits two seconds for a tree that has just ended to let go of the name, and
    takes the place of a socket file that nobody listens at any more."""
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            rebuilt.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if _is_stale(address, record.socket_type):
                os.unlink(address)
                continue
            if time.monotonic() > deadline:
                raise AddressTaken(
                    f"The name of the {record.title} is used by something else",
                    "End the program that has it, or remove the file, and restore again; "
                    "or fork the snapshot.",
                ) from error
        else:
            return
        time.sleep(_RETRY_STEP)


def _is_stale(address: bytes, type_: int) -> bool:
    if address.startswith(b"\0") or not stat.S_ISSOCK(os.lstat(address).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, type_) as visitor:
        visitor.setblocking(False)
        return visitor.connect_ex(address) == errno.ECONNREFUSED


def _is_automatic(address: bytes) -> bool:
    """Whether Linux chose the name (autobind, unix(7)): five hexadecimal digits."""
    return len(address) == 6 and address[:1] == b"\0"


def _printable(name: bytes) -> str:
    return os.fsdecode(name).replace("\0", "@")
