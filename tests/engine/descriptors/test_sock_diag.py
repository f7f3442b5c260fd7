from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from jupyter_cr.tracer.sock_diag import (
    State,
    TcpSocket,
    UnixSocket,
    tcp_sockets,
    unix_sockets,
)


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def find(sock: socket.socket) -> UnixSocket:
    [found] = [other for other in unix_sockets() if other.inode == inode(sock)]
    return found


def find_tcp(sock: socket.socket) -> TcpSocket:
    [found] = [other for other in tcp_sockets() if other.inode == inode(sock)]
    return found


@pytest.mark.parametrize(
    "type_", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
)
def test_pair_knows_its_other_end(type_: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    with a, b:
        a.send(b"12345")
        assert find(a).peer == inode(b)
        assert find(b).peer == inode(a)
        assert find(b).type == type_
        assert find(b).name is None
        assert find(b).receive_queue == 5
        assert find(a).send_queue > 0
        assert find(a).shutdown == 0
        a.shutdown(socket.SHUT_WR)
        assert find(a).shutdown == 2


def test_closed_other_end_is_no_peer() -> None:
    a, b = socket.socketpair()
    with a:
        b.close()
        assert find(a).peer == 0
        assert find(a).connected
    with socket.socket(socket.AF_UNIX) as fresh:
        assert not find(fresh).connected
        assert find(fresh).state == State.CLOSE


def test_listener_with_a_path(tmp_path: Path) -> None:
    path = tmp_path / "listener"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen(7)
        client.connect(str(path))
        found = find(listener)
        assert found.state == State.LISTEN
        assert found.name == os.fsencode(path)
        assert found.vfs == (path.stat().st_dev, path.stat().st_ino)
        assert found.send_queue == 7
        assert found.pending == (inode(client),)
        assert find(client).peer == 0
        assert find(client).connected
        client.close()
        assert find(listener).pending == (0,)


def test_abstract_names(tmp_path: Path) -> None:
    name = b"\0" + os.fsencode(tmp_path)[-40:] + b"\0with NUL\0"
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as automatic:
        named.bind(name)
        automatic.bind(b"")
        assert find(named).name == name
        assert find(named).vfs is None
        assert find(automatic).name == automatic.getsockname()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_connection(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(
                socket.create_server((host, 0), family=family, backlog=9)
            )
        except OSError:
            pytest.skip(f"{host} is not to be had here")
        client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        found = find_tcp(listener)
        assert found.state == State.LISTEN
        assert found.local == listener.getsockname()[:2]
        assert (found.receive_queue, found.send_queue) == (1, 9)
        server, _ = listener.accept()
        stack.enter_context(server)
        client.sendall(b"12345")
        found = find_tcp(server)
        assert found.state == State.ESTABLISHED
        assert found.remote == client.getsockname()[:2]
        assert found.receive_queue == 5
        assert found.uid == os.geteuid()
        assert found not in tcp_sockets(
            socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6
        )


def test_more_sockets_than_fit_into_one_answer() -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(200)]
        for a, b in pairs:
            stack.enter_context(a)
            stack.enter_context(b)
        peers = {other.inode: other.peer for other in unix_sockets()}
        for a, b in pairs:
            assert peers[inode(a)] == inode(b)
            assert peers[inode(b)] == inode(a)
