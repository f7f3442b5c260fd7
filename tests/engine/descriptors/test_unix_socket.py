from __future__ import annotations

import array
import os
import select
import socket
import stat
from pathlib import Path

import pytest

from jupyter_cr.errors import AddressTaken, Unsupported
from tests.engine.descriptors.socket_harness import (
    collect,
    collect_and_close,
    open_sockets,
    read_all,
    read_exactly,
    rebuilt,
)

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
CONNECTED = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]
ORDERS = [[0, 1], [1, 0]]


def poll(sock: socket.socket) -> int:
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLRDHUP)
    return sum(event for _fd, event in poller.poll(0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("type_", TYPES)
def test_pair_goes_on_both_ways(type_: int, order: list[int]) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    with rebuilt(collect_and_close(a, b), order=order) as ([a, b], rebuilding):
        assert not rebuilding.warnings
        assert a.type == b.type == type_
        a.send(b"ping")
        assert b.recv(10) == b"ping"
        b.send(b"pong")
        assert a.recv(10) == b"pong"


def test_stream_keeps_unread_bytes_of_both_directions() -> None:
    a, b = socket.socketpair()
    for _ in range(5):
        a.send(b"forward ")
    b.send(b"back")
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert read_exactly(b, 40) == b"forward " * 5
        assert read_exactly(a, 4) == b"back"


@pytest.mark.parametrize("type_", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_messages_keep_their_boundaries(type_: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    messages = [b"one", b"", b"three" * 1000, b"4"]
    for message in messages:
        a.send(message)
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert [b.recv(1 << 16) for _ in messages] == messages
        b.setblocking(False)
        with pytest.raises(BlockingIOError):
            b.recv(1)


@pytest.mark.parametrize("type_", TYPES)
def test_collecting_leaves_everything_as_it_was(type_: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    with a, b:
        b.setsockopt(socket.SOL_SOCKET, 42, 1)
        before = open_sockets()
        for message in (b"abc", b"defg"):
            a.send(message)
        first, second = collect(a, b), collect(a, b)
        assert first == second
        assert open_sockets() == before
        assert b.getsockopt(socket.SOL_SOCKET, 42) == 1
        b.setsockopt(socket.SOL_SOCKET, 42, -1)
        assert b"".join((b.recv(3), b.recv(4))) == b"abcdefg"


def test_a_full_stream_comes_back_full() -> None:
    a, b = socket.socketpair()
    a.setblocking(False)
    data = os.urandom(1 << 22)
    sent = a.send(data)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    small = a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == small
        assert read_exactly(b, sent) == data[:sent]


def test_a_large_message_comes_back_whole() -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    data = os.urandom(200_000)
    a.send(data)
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert b.recv(1 << 20) == data


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("type_", CONNECTED)
def test_shutdown_stays(type_: int, how: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    a.send(b"last words")
    a.shutdown(how)
    polls = poll(a), poll(b)
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert (poll(a), poll(b)) == polls
        assert b.recv(100) == b"last words"
        if how != socket.SHUT_RD:
            assert b.recv(100) == b""
            with pytest.raises(BrokenPipeError):
                a.send(b"more")
        else:
            with pytest.raises(BrokenPipeError):
                b.send(b"more")


@pytest.mark.parametrize("type_", CONNECTED)
def test_closed_other_end_means_unread_data_then_the_end(type_: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    a.send(b"left behind")
    a.close()
    events = poll(b)
    with rebuilt(collect_and_close(b)) as ([b], rebuilding):
        assert not rebuilding.warnings
        assert poll(b) == events
        assert b.recv(100) == b"left behind"
        assert b.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            b.send(b"x")


def test_other_end_closed_with_unread_data_means_reset() -> None:
    a, b = socket.socketpair()
    b.send(b"never read")
    a.send(b"mine")
    a.close()
    files = collect(b)
    assert b.recv(10) == b"mine"
    with pytest.raises(ConnectionResetError):
        b.recv(10)
    b.close()
    with rebuilt(files) as ([b], _):
        assert b.recv(10) == b"mine"
        with pytest.raises(ConnectionResetError):
            b.recv(10)


@pytest.mark.parametrize("mode", ["restore", "fork"])
@pytest.mark.parametrize("type_", TYPES)
def test_outer_connection_looks_closed(type_: int, mode: str) -> None:
    outside, b = socket.socketpair(socket.AF_UNIX, type_)
    with outside:
        outside.send(b"news")
        files = collect_and_close(b)
        with rebuilt(files, mode) as ([b], rebuilding):  # type: ignore[arg-type]
            [warning] = rebuilding.warnings
            assert "outside the snapshot" in warning
            assert b.recv(100) == b"news"
            with pytest.raises((BrokenPipeError, ConnectionRefusedError)):
                b.send(b"x")


def test_outer_connection_is_kept_where_the_caller_still_has_it() -> None:
    outside, b = socket.socketpair()
    with outside:
        [file] = collect(b)
        inode = os.fstat(b.fileno()).st_ino
        held = os.dup(b.fileno())
        b.close()
        try:
            with rebuilt([file], outer={inode: held}) as ([b], rebuilding):
                assert not rebuilding.warnings
                b.send(b"still here")
                assert outside.recv(100) == b"still here"
        finally:
            os.close(held)


def listen(address: str | bytes, type_: int = socket.SOCK_STREAM) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, type_)
    listener.bind(address)
    listener.listen(7)
    return listener


def connect(
    address: str | bytes, type_: int = socket.SOCK_STREAM, timeout: float = 5
) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, type_)
    client.settimeout(timeout)
    client.connect(address)
    return client


@pytest.mark.parametrize("type_", CONNECTED)
def test_path_listener_is_at_its_path_again(tmp_path: Path, type_: int) -> None:
    path = tmp_path / "listener"
    listener = listen(str(path), type_)
    path.chmod(0o640)
    with rebuilt(collect_and_close(listener)) as ([listener], rebuilding):
        assert not rebuilding.warnings
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert listener.getsockname() == str(path)
        with connect(str(path), type_) as client:
            accepted, _ = listener.accept()
            with accepted:
                client.send(b"hello")
                assert accepted.recv(10) == b"hello"


def test_path_listener_gets_its_directory_again(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "listener"
    path.parent.mkdir()
    files = collect_and_close(listen(str(path)))
    path.unlink()
    path.parent.rmdir()
    with rebuilt(files), connect(str(path)):
        pass


def test_long_and_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("d" * 90)
    directory.mkdir()
    monkeypatch.chdir(directory)
    files = collect_and_close(listen("listener"))
    monkeypatch.chdir(tmp_path)
    with rebuilt(files):
        monkeypatch.chdir(directory)
        connect("listener").close()


def test_abstract_listener_has_its_name_again(tmp_path: Path) -> None:
    name = b"\0" + os.fsencode(tmp_path)[-60:]
    with rebuilt(collect_and_close(listen(name))) as ([listener], _):
        assert listener.getsockname() == name
        connect(name).close()


def test_removed_path_stays_removed(tmp_path: Path) -> None:
    path = tmp_path / "listener"
    listener = listen(str(path))
    path.unlink()
    path.write_text("somebody else's")
    with rebuilt(collect_and_close(listener)) as ([listener], _):
        assert path.read_text() == "somebody else's"
        connect(listener.getsockname()).close()


def test_taken_path_and_taken_name(tmp_path: Path) -> None:
    path = str(tmp_path / "listener")
    name = b"\0" + os.fsencode(tmp_path)[-60:]
    for address in (path, name):
        files = collect_and_close(listen(address))
        if address == path:
            os.unlink(path)
        with (
            listen(address),
            pytest.raises(AddressTaken, match="unix socket"),
            rebuilt(files),
        ):
            pass


def test_fork_leaves_the_names_to_the_original(tmp_path: Path) -> None:
    path = str(tmp_path / "listener")
    name = b"\0" + os.fsencode(tmp_path)[-60:]
    with listen(path) as first, listen(name) as second:
        files = collect(first, second)
        with rebuilt(files, "fork") as ([a, b], rebuilding):
            assert len(rebuilding.warnings) == 2
            assert path in rebuilding.warnings[0]
            for original, forked in ((first, a), (second, b)):
                connect(forked.getsockname()).close()
                forked.accept()[0].close()
                connect(original.getsockname()).close()
                original.accept()[0].close()


@pytest.mark.parametrize("mode", ["restore", "fork"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_accepted_connection(tmp_path: Path, order: list[int], mode: str) -> None:
    path = str(tmp_path / "listener")
    listener = listen(path)
    client = connect(path)
    server, _ = listener.accept()
    client.send(b"request")
    server.send(b"answer")
    files = collect_and_close(listener, client, server)
    with rebuilt(files, mode, order=order) as ([listener, client, server], _):  # type: ignore[arg-type]
        assert server.recv(100) == b"request"
        assert client.recv(100) == b"answer"
        connect(listener.getsockname()).close()


@pytest.mark.parametrize("mode", ["restore", "fork"])
@pytest.mark.parametrize("order", ORDERS)
def test_connection_not_accepted_yet(tmp_path: Path, order: list[int], mode: str) -> None:
    path = str(tmp_path / "listener")
    listener = listen(path)
    stranger, client = connect(path), connect(path)
    with stranger:
        files = collect_and_close(listener, client)
        with rebuilt(files, mode, order=order) as ([listener, client], rebuilding):  # type: ignore[arg-type]
            assert any("1 connection" in warning for warning in rebuilding.warnings)
            server, _ = listener.accept()
            with server:
                client.send(b"hello")
                assert server.recv(100) == b"hello"


def test_bytes_sent_before_accept_refuse(tmp_path: Path) -> None:
    with listen(str(tmp_path / "l")) as listener, connect(str(tmp_path / "l")) as client:
        client.send(b"too early")
        with pytest.raises(Unsupported, match="before it was accepted"):
            collect(listener, client)
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"too early"


def bound(address: str | bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    return sock


@pytest.mark.parametrize("mode", ["restore", "fork"])
def test_datagram_server_and_client(tmp_path: Path, mode: str) -> None:
    server, client = bound(str(tmp_path / "server")), bound(str(tmp_path / "client"))
    client.connect(str(tmp_path / "server"))
    client.send(b"one")
    client.send(b"two")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"three", str(tmp_path / "server"))
    files = collect_and_close(server, client)
    with rebuilt(files, mode) as ([server, client], _):  # type: ignore[arg-type]
        data, sender = server.recvfrom(100)
        assert (data, sender) == (b"one", client.getsockname())
        assert server.recv(100) == b"two"
        assert server.recvfrom(100) == (b"three", None)
        client.send(b"four")
        assert server.recv(100) == b"four"
        server.sendto(b"back", client.getsockname())
        assert client.recv(100) == b"back"


def test_datagrams_of_an_outer_server(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with bound(path) as server:
        server.settimeout(5)
        client = connect(path, socket.SOCK_DGRAM)
        files = collect_and_close(client)
        with rebuilt(files) as ([client], rebuilding):
            assert not rebuilding.warnings
            client.send(b"line")
            assert server.recv(100) == b"line"
    with rebuilt(files) as ([client], rebuilding):
        [warning] = rebuilding.warnings
        assert path in warning


@pytest.mark.parametrize("type_", TYPES)
def test_unconnected(type_: int) -> None:
    with rebuilt(collect_and_close(socket.socket(socket.AF_UNIX, type_))) as ([a], _):
        assert a.type == type_
        with pytest.raises(OSError, match="not connected"):
            a.getpeername()


@pytest.mark.parametrize("type_", TYPES)
def test_descriptors_in_flight_refuse(type_: int) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, type_)
    with a, b:
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(a, [b"take this"], [0, 1])
        with pytest.raises(Unsupported, match="SCM_RIGHTS"):
            collect(a, b)
        assert len(os.listdir("/proc/self/fd")) == before
        data, fds, _, _ = socket.recv_fds(b, 100, 2)
        assert data == b"take this"
        for fd in fds:
            os.close(fd)


def test_out_of_band_data_refuses() -> None:
    a, b = socket.socketpair()
    with a, b:
        try:
            a.send(b"!", socket.MSG_OOB)
        except OSError:
            pytest.skip("Linux without out-of-band data on unix sockets (before 5.15)")
        with pytest.raises(Unsupported, match="out-of-band"):
            collect(a, b)


def test_bytes_of_several_senders_with_credentials() -> None:
    a, b = socket.socketpair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    a.send(b"parent ")
    child = os.fork()
    if not child:
        a.send(b"child ")
        os._exit(0)
    os.waitpid(child, 0)
    a.send(b"parent")
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert b.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1
        b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        a.shutdown(socket.SHUT_WR)
        assert read_all(b) == b"parent child parent"


def test_options() -> None:
    a, b = socket.socketpair()
    timeout = array.array("q", [3, 500_000]).tobytes()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
    with rebuilt(collect_and_close(a, b)) as ([a, b], _):
        assert a.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == timeout
        assert a.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100_000
        assert b.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = open_sockets()
    pair = socket.socketpair()
    ended, gone = socket.socketpair()
    gone.close()
    files = collect_and_close(*pair, ended, listen(str(tmp_path / "l")))
    with rebuilt(files) as (socks, _):
        assert open_sockets() == before + len(socks)
    assert open_sockets() == before
    (tmp_path / "l").unlink()
    (tmp_path / "l").write_text("taken")
    with pytest.raises(AddressTaken), rebuilt(files):
        pass
    assert open_sockets() == before
