"""Takes sockets of the test process through collect, the image's bytes, and rebuild."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from jupyter_cr.engine.descriptors import tcp_socket, udp_socket, unix_socket
from jupyter_cr.engine.descriptors.base import (
    Descriptor,
    Mode,
    OpenFile,
    Place,
    Rebuilding,
    Tree,
)

SocketRecord = tcp_socket.Record | udp_socket.Record | unix_socket.Record
KIND_OF = {
    tcp_socket.Record: tcp_socket,
    udp_socket.Record: udp_socket,
    unix_socket.Record: unix_socket,
}


class SocketFile(OpenFile, frozen=True, kw_only=True):
    record: SocketRecord


def describe(sock: socket.socket) -> Descriptor:
    """The socket as the engine would see it."""
    fd = sock.fileno()
    return Descriptor(
        local=os.dup(fd),
        places=(Place(os.getpid(), fd),),
        link=os.readlink(f"/proc/self/fd/{fd}"),
        flags=fcntl.fcntl(fd, fcntl.F_GETFL),
        fdinfo="",
        stat=os.fstat(fd),
    )


@contextmanager
def tree_of(*socks: socket.socket) -> Iterator[Tree]:
    """A tree that holds these sockets only."""
    tree = Tree([describe(sock) for sock in socks])
    try:
        yield tree
    finally:
        for descriptor in tree.descriptors:
            os.close(descriptor.local)


def collect(*socks: socket.socket) -> list[SocketFile]:
    """What the image holds of these sockets, read back from its bytes."""
    with tree_of(*socks) as tree:
        files = [
            SocketFile(
                id=number,
                places=descriptor.places,
                flags=descriptor.flags,
                record=_collect_one(descriptor, tree),
            )
            for number, descriptor in enumerate(tree.descriptors)
        ]
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(files), type=list[SocketFile])
    assert decoded == files
    return decoded


def _collect_one(descriptor: Descriptor, tree: Tree) -> SocketRecord:
    matching = [kind for kind in KIND_OF.values() if kind.matches(descriptor)]
    assert len(matching) == 1
    return matching[0].collect(descriptor, tree)


def collect_and_close(*socks: socket.socket) -> list[SocketFile]:
    """Collects, and then ends the originals as a restore does."""
    files = collect(*socks)
    for sock in socks:
        sock.close()
    return files


@contextmanager
def rebuilt(
    files: list[SocketFile],
    mode: Mode = "restore",
    *,
    order: list[int] | None = None,
    ports: dict[int, int] | None = None,
    outer: dict[int, int] | None = None,
) -> Iterator[tuple[list[socket.socket], Rebuilding]]:
    """The rebuilt sockets, in the files' order whatever the order of making."""
    rebuilding = Rebuilding(mode=mode, files=files, ports=ports or {}, outer=outer or {})
    made: dict[int, socket.socket] = {}
    try:
        with rebuilding.stack:
            for number in order or range(len(files)):
                record = files[number].record
                fd = KIND_OF[type(record)].rebuild(record, rebuilding)
                made[number] = socket.socket(fileno=fd)
                made[number].settimeout(5)
        yield [made[number] for number in range(len(files))], rebuilding
    finally:
        for sock in made.values():
            sock.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    data = b""
    while part := sock.recv(1 << 20):
        data += part
    return data


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"the stream ended after {len(data)} of {size} bytes"
        data += part
    return data


def open_sockets() -> int:
    """How many sockets this process holds."""
    return sum(
        os.path.realpath(f"/proc/self/fd/{fd}").rpartition("/")[2].startswith("socket:")
        for fd in os.listdir("/proc/self/fd")
    )
