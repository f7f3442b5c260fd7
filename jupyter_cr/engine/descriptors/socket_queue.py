"""Queues of sockets: read without taking anything out, and filled again.

Reading rests on MSG_PEEK and SO_PEEK_OFF (socket(7)): with an offset set, each peek
goes on where the last one ended. The offset is the socket's own, so it is put back.

Linux marks an empty datagram as peeked and never shows it to an offset again, so an
empty message is missing in the second snapshot of the same waiting queue.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jupyter_cr.engine.descriptors.base import Descriptor
from jupyter_cr.errors import RestoreError

__all__ = [
    "fill_messages",
    "fill_stream",
    "peek_messages",
    "peek_stream",
    "poll_events",
    "read_queued",
    "read_unsent",
    "refuse_urgent",
]

SIOCINQ = termios.FIONREAD
SIOCOUTQ = termios.TIOCOUTQ
SO_PEEK_OFF = 42
SO_SNDBUFFORCE = 32
_SOCKET = socket.SOL_SOCKET
_SCM_PIDFD = 4
_ANCILLARY_SIZE = 8192
_INET_MESSAGE_SIZE = 1 << 16
_UNIX_MESSAGE_SIZE = 1 << 22
_MESSAGE_OVERHEAD = 1 << 10
_FILL_SECONDS = 5.0
_FILL_STEP = 0.002


def read_queued(borrowed: socket.SocketType) -> int:
    """Bytes unread (SIOCINQ); of a datagram socket, those of the first message."""
    return _read_count(borrowed, SIOCINQ)


def read_unsent(borrowed: socket.SocketType) -> int:
    """Bytes that the other end has not acknowledged (SIOCOUTQ)."""
    return _read_count(borrowed, SIOCOUTQ)


def poll_events(borrowed: socket.SocketType) -> int:
    """What poll(2) reports at once, POLLRDHUP included. Takes no pending error away."""
    poller = select.poll()
    poller.register(borrowed, select.POLLIN | select.POLLRDHUP)
    events = poller.poll(0)
    return events[0][1] if events else 0


def refuse_urgent(descriptor: Descriptor, borrowed: socket.SocketType) -> None:
    """Raises Unsupported if out-of-band data waits: it cannot be sent to the same place
    of the stream again."""
    try:
        borrowed.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return
    raise descriptor.unsupported(
        "is a socket with unread out-of-band data",
        "Try again when the program has read it.",
    )


def peek_stream(descriptor: Descriptor, borrowed: socket.SocketType) -> bytes:
    """All unread bytes of a stream.

    Raises:
        Unsupported: file descriptors are in flight (SCM_RIGHTS), or the queue could not
            be read to its end.
    """
    size = read_queued(borrowed)
    if not size:
        # An empty queue must not be read: the read would take a pending error away.
        return b""
    if borrowed.family != socket.AF_UNIX:
        data = borrowed.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    else:
        data = _peek_unix_stream(descriptor, borrowed, size)
    if len(data) != size:
        raise descriptor.unsupported(
            f"is a socket of whose {size} unread bytes only {len(data)} can be seen",
            "Try again when the program has read them.",
        )
    return data


def peek_messages(
    descriptor: Descriptor, borrowed: socket.SocketType
) -> list[tuple[bytes, object]]:
    """All unread messages of a datagram or SOCK_SEQPACKET socket, each with what
    recvfrom(2) tells of its sender (None if the sender has no name).

    Raises:
        Unsupported: file descriptors are in flight (SCM_RIGHTS).
    """
    with _peek_offset(borrowed):
        return list(_iter_messages(descriptor, borrowed))


def fill_stream(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Sends `data` without anybody reading it; what does not fit into the receiver's
    queue waits in the sender's, where it was.

    Raises:
        RestoreError: Linux's buffers here are too small for it.
    """
    if not data:
        return
    with _grown(sender, len(data)), _wide_window(receiver, len(data)):
        view = memoryview(data)
        while view:
            view = view[_send(sender, view) :]


def fill_messages(
    sender: socket.socket, messages: Sequence[bytes], address: str | bytes | None = None
) -> None:
    """Sends messages to the socket that `sender` is connected to, or to an address.

    Raises:
        RestoreError: Linux's buffers here are too small for them.
    """
    if not messages:
        return
    with _grown(sender, sum(map(len, messages)) + _MESSAGE_OVERHEAD * len(messages)):
        for message in messages:
            _send(sender, message, address)


def _send(
    sender: socket.socket, data: bytes | memoryview, address: str | bytes | None = None
) -> int:
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    deadline = time.monotonic() + _FILL_SECONDS
    while True:
        try:
            if address is not None:
                return sender.sendto(data, flags, address)
            return sender.send(data, flags)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RestoreError(
                    f"{len(data)} unread bytes do not fit into a rebuilt socket",
                    "Raise net.core.wmem_max and net.ipv4.tcp_wmem to what they were.",
                ) from error
        time.sleep(_FILL_STEP)


@contextmanager
def _grown(sender: socket.socket, size: int) -> Iterator[None]:
    """Room for `size` bytes in the sender's buffer, which is as large afterwards as it
    was: the program may have made it smaller since it sent."""
    before = sender.getsockopt(_SOCKET, socket.SO_SNDBUF)
    if size <= before // 4:
        yield
        return
    if sender.family == socket.AF_UNIX:
        _set_send_buffer(sender, size)
        if sender.getsockopt(_SOCKET, socket.SO_SNDBUF) < before:
            _set_send_buffer(sender, before // 2)
    yield
    if sender.family == socket.AF_UNIX:
        _set_send_buffer(sender, before // 2)


def _set_send_buffer(sender: socket.socket, size: int) -> None:
    try:
        sender.setsockopt(_SOCKET, SO_SNDBUFFORCE, size)
    except PermissionError:
        sender.setsockopt(_SOCKET, socket.SO_SNDBUF, size)


@contextmanager
def _wide_window(receiver: socket.socket, size: int) -> Iterator[None]:
    """A TCP receive window that `size` bytes fit into.

    Linux widens a window only while a program reads; SO_RCVLOWAT is the one way to have
    it wide at once without fixing the buffer's size (tcp_set_rcvlowat(), Linux 4.18).
    """
    if receiver.family == socket.AF_UNIX:
        yield
        return
    before = receiver.getsockopt(_SOCKET, socket.SO_RCVLOWAT)
    receiver.setsockopt(_SOCKET, socket.SO_RCVLOWAT, size)
    yield
    receiver.setsockopt(_SOCKET, socket.SO_RCVLOWAT, before)


def _read_count(borrowed: socket.SocketType, request: int) -> int:
    answer = fcntl.ioctl(borrowed.fileno(), request, bytes(4))
    return int(struct.unpack("i", answer)[0])


@contextmanager
def _peek_offset(borrowed: socket.SocketType) -> Iterator[None]:
    before = borrowed.getsockopt(_SOCKET, SO_PEEK_OFF)
    borrowed.setsockopt(_SOCKET, SO_PEEK_OFF, 0)
    try:
        yield
    finally:
        borrowed.setsockopt(_SOCKET, SO_PEEK_OFF, before)


def _peek_unix_stream(
    descriptor: Descriptor, borrowed: socket.SocketType, size: int
) -> bytes:
    # One peek ends where the sender's credentials change (SO_PASSCRED), so several.
    data = bytearray()
    with _peek_offset(borrowed):
        while len(data) < size:
            part, _sender = _peek(descriptor, borrowed, size - len(data))
            if not part:
                break
            data += part
    return bytes(data)


def _iter_messages(
    descriptor: Descriptor, borrowed: socket.SocketType
) -> Iterator[tuple[bytes, object]]:
    unix = borrowed.family == socket.AF_UNIX
    size = _UNIX_MESSAGE_SIZE if unix else _INET_MESSAGE_SIZE
    # After a shutdown SOCK_SEQPACKET answers with an empty message for ever.
    ends = borrowed.type == socket.SOCK_SEQPACKET and bool(
        poll_events(borrowed) & select.POLLRDHUP
    )
    while True:
        try:
            data, sender = _peek(descriptor, borrowed, size)
        except BlockingIOError:
            return
        if ends and not data:
            return
        yield data, sender


def _peek(
    descriptor: Descriptor, borrowed: socket.SocketType, size: int
) -> tuple[bytes, object]:
    data, ancillary, flags, sender = borrowed.recvmsg(
        size, _ANCILLARY_SIZE, socket.MSG_PEEK | socket.MSG_DONTWAIT
    )
    received = list(_iter_received(ancillary))
    for number in received:
        os.close(number)
    if received:
        raise descriptor.unsupported(
            "is a socket with file descriptors in flight (SCM_RIGHTS)",
            "Try again when the program has received them.",
        )
    if flags & socket.MSG_TRUNC and borrowed.type != socket.SOCK_STREAM:
        raise descriptor.unsupported(
            f"is a socket with an unread message larger than {size} bytes",
            "Try again when the program has received it.",
        )
    return data, sender or None


def _iter_received(ancillary: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
            yield from array.array("i", value[: len(value) & ~3])
