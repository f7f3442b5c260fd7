from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from jupyter_cr.engine.descriptors import tcp_socket
from jupyter_cr.errors import AddressTaken, Unsupported
from tests.engine.descriptors.socket_harness import (
    collect,
    collect_and_close,
    open_sockets,
    read_all,
    read_exactly,
    rebuilt,
    tree_of,
)

MODES = ["restore", "fork"]
ORDERS = [[0, 1, 2], [2, 1, 0], [1, 0, 2]]
RESET = struct.pack("ii", 1, 0)


def has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


FAMILIES = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6")),
]


def listen(host: str = "127.0.0.1", backlog: int = 5) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, 0))
    listener.listen(backlog)
    listener.settimeout(5)
    return listener


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address[:2], timeout=5)


def connection(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = connect(listener.getsockname())
    server, _ = listener.accept()
    server.settimeout(5)
    return client, server


def single_connection() -> tuple[socket.socket, socket.socket]:
    with listen() as listener:
        return connection(listener)


def poll(sock: socket.socket) -> int:
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLRDHUP)
    return sum(event for _fd, event in poller.poll(0))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("host", FAMILIES)
def test_listener_is_at_its_port_again(host: str) -> None:
    listener = listen(host, backlog=3)
    address = listener.getsockname()
    with rebuilt(collect_and_close(listener)) as ([listener], rebuilding):
        assert not rebuilding.warnings
        assert listener.getsockname() == address
        assert collect(listener)[0].record.backlog == 3
        client, server = connection(listener)
        with client, server:
            client.send(b"hello")
            assert server.recv(10) == b"hello"


def test_fork_has_new_ports_beside_the_original() -> None:
    with listen() as listener:
        files = collect(listener)
        recorded = listener.getsockname()[1]
        with (
            rebuilt(files, "fork") as ([first], rebuilding),
            rebuilt(files, "fork") as ([second], _),
        ):
            ports = {sock.getsockname()[1] for sock in (listener, first, second)}
            assert len(ports) == 3
            assert rebuilding.ports == {recorded: first.getsockname()[1]}
            for sock in (listener, first, second):
                with ExitStack() as stack:
                    for end in connection(sock):
                        stack.enter_context(end)


def test_fork_takes_the_port_that_the_caller_wants() -> None:
    with listen() as listener:
        files = collect(listener)
        [listening] = tcp_socket.listening_ports(files)
        assert listening.address.port == listener.getsockname()[1]
        assert listening.places == files[0].places
        with listen() as other:
            wanted = other.getsockname()[1]
        ports = {listening.address.port: wanted}
        with rebuilt(files, "fork", ports=ports) as ([forked], _):
            assert forked.getsockname() == ("127.0.0.1", wanted)


def test_taken_port_names_the_address() -> None:
    listener = listen()
    address = listener.getsockname()
    files = collect_and_close(listener)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
        other.listen()
        with pytest.raises(AddressTaken, match=f"127.0.0.1:{address[1]}"), rebuilt(files):
            pass


def test_port_that_is_let_go_soon_is_waited_for() -> None:
    listener = listen()
    files = collect(listener)
    timer = threading.Timer(0.2, listener.close)
    timer.start()
    with rebuilt(files):
        pass
    timer.join()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("host", FAMILIES)
def test_connection_with_bytes_under_way(host: str, order: list[int], mode: str) -> None:
    listener = listen(host)
    client, server = connection(listener)
    client.send(b"request")
    server.send(b"answer")
    port = listener.getsockname()[1]
    files = collect_and_close(listener, client, server)
    with rebuilt(files, mode, order=order) as ([listener, client, server], r):  # type: ignore[arg-type]
        assert not r.warnings
        assert server.recv(100) == b"request"
        assert client.recv(100) == b"answer"
        assert client.getpeername() == server.getsockname()
        assert server.getpeername() == client.getsockname()
        assert server.getsockname() == listener.getsockname()
        assert (listener.getsockname()[1] == port) is (mode == "restore")
        client.send(b"more")
        assert server.recv(100) == b"more"
        for end in connection(listener):
            end.close()


@pytest.mark.parametrize("mode", MODES)
def test_several_connections_of_a_wildcard_listener(mode: str) -> None:
    listener = listen("0.0.0.0")
    port = listener.getsockname()[1]
    pairs = []
    for number in range(5):
        client = connect(("127.0.0.1", port))
        server, _ = listener.accept()
        client.send(b"%d" % number)
        pairs.append((client, server))
    files = collect_and_close(*(pairs[0] + pairs[1]), listener, *sum(pairs[2:], ()))
    with rebuilt(files, mode) as (socks, _):  # type: ignore[arg-type]
        servers = [socks[n] for n in (1, 3, 6, 8, 10)]
        assert [server.recv(10) for server in servers] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
@pytest.mark.parametrize("mode", MODES)
def test_ipv4_client_of_an_ipv6_listener(mode: str) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    client = connect(("127.0.0.1", listener.getsockname()[1]))
    server, _ = listener.accept()
    client.send(b"mapped")
    with rebuilt(collect_and_close(client, server, listener), mode) as (socks, _):  # type: ignore[arg-type]
        client, server, listener = socks
        assert client.family == socket.AF_INET
        assert server.recv(10) == b"mapped"
        assert server.getsockname()[0] == "::ffff:127.0.0.1"
        connect(("127.0.0.1", listener.getsockname()[1])).close()


@pytest.mark.parametrize("mode", MODES)
def test_connection_without_its_listener(mode: str) -> None:
    files = collect_and_close(*single_connection())
    with rebuilt(files, mode) as ([client, server], _):  # type: ignore[arg-type]
        client.send(b"x")
        assert server.recv(10) == b"x"


def test_collecting_leaves_everything_as_it_was() -> None:
    client, server = single_connection()
    with client, server:
        client.send(b"request")
        server.send(b"answer")
        before = open_sockets()
        assert collect(client, server) == collect(client, server)
        assert open_sockets() == before
        assert server.recv(100) == b"request"
        assert client.recv(100) == b"answer"


def test_queue_larger_than_a_new_window() -> None:
    client, server = single_connection()
    data = os.urandom(2_500_000)
    # Reading widens the window, as in a program that has been at it for a while.
    for _ in range(4):
        thread = threading.Thread(target=client.sendall, args=(data,))
        thread.start()
        read_exactly(server, len(data))
        thread.join()
    client.setblocking(False)
    sent = client.send(data)
    refusals, files = [], []
    try:
        files = collect(client, server)
    except Unsupported as error:
        refusals.append(error)
    # How much of it has room with the receiver is up to Linux's tuning.
    assert files or ("CAP_NET_ADMIN" in refusals[0].hint and not _is_privileged())
    assert read_exactly(server, sent) == data[:sent]
    client.close()
    server.close()
    if files:
        with rebuilt(files) as ([client, server], _):
            assert read_exactly(server, sent) == data[:sent]


def _is_privileged() -> bool:
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, 19, 1)
        except PermissionError:
            return False
        sock.setsockopt(socket.IPPROTO_TCP, 19, -1)
        return True


@pytest.mark.parametrize("ended", [False, True])
def test_bytes_that_the_receiver_has_no_room_for(ended: bool) -> None:
    client, server = single_connection()
    data = os.urandom(1 << 23)
    client.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += client.send(data[sent:])
    if ended:
        client.shutdown(socket.SHUT_WR)
    reuse = client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert sent > 0
    if _is_privileged():
        files = collect(client, server)
    else:
        with pytest.raises(Unsupported, match="under way"):
            collect(client, server)
        files = []
    # The original goes on as if nothing had been.
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == reuse
    assert read_exactly(server, sent) == data[:sent]
    if ended:
        assert server.recv(1) == b""
    server.close()
    client.close()
    if files:
        with rebuilt(files) as ([client, server], _):
            assert read_exactly(server, sent) == data[:sent]
            if ended:
                assert server.recv(1) == b""
            else:
                client.send(b"more")
                assert server.recv(10) == b"more"


@pytest.mark.parametrize("mode", MODES)
def test_half_closed_connection(mode: str) -> None:
    client, server = single_connection()
    client.send(b"all I have")
    client.shutdown(socket.SHUT_WR)
    with rebuilt(collect_and_close(client, server), mode) as ([client, server], _):  # type: ignore[arg-type]
        assert read_all(server) == b"all I have"
        server.send(b"thanks")
        assert client.recv(10) == b"thanks"
        with pytest.raises(BrokenPipeError):
            client.send(b"x")


def test_reading_shut_down() -> None:
    client, server = single_connection()
    client.shutdown(socket.SHUT_RD)
    with rebuilt(collect_and_close(client, server)) as ([client, server], _):
        assert client.recv(10) == b""
        client.send(b"still sending")
        assert server.recv(100) == b"still sending"


def test_closed_other_end_means_unread_bytes_then_the_end() -> None:
    client, server = single_connection()
    client.send(b"left behind")
    client.close()
    wait_until(lambda: poll(server) & select.POLLRDHUP)
    events = poll(server)
    with rebuilt(collect_and_close(server)) as ([server], rebuilding):
        assert not rebuilding.warnings
        assert poll(server) == events
        assert read_all(server) == b"left behind"


def test_both_ends_shut_down() -> None:
    client, server = single_connection()
    client.send(b"a")
    client.shutdown(socket.SHUT_WR)
    server.shutdown(socket.SHUT_WR)
    wait_until(lambda: poll(client) & select.POLLHUP and poll(server) & select.POLLHUP)
    with rebuilt(collect_and_close(client, server)) as ([client, server], _):
        assert read_all(server) == b"a"
        assert read_all(client) == b""
        with pytest.raises(BrokenPipeError):
            server.send(b"x")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", FAMILIES)
def test_outer_connection_comes_back_reset(host: str, mode: str) -> None:
    with listen(host) as outside:
        client, server = connection(outside)
        with server:
            server.send(b"unread")
            files = collect_and_close(client)
            with rebuilt(files, mode) as ([client], rebuilding):  # type: ignore[arg-type]
                assert not rebuilding.warnings
                assert poll(client) & (select.POLLERR | select.POLLHUP | select.POLLIN)
                with pytest.raises(ConnectionResetError):
                    client.recv(10)


def test_reset_connection_stays_reset() -> None:
    client, server = single_connection()
    client.send(b"before")
    wait_until(lambda: poll(server) & select.POLLIN)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    wait_until(lambda: poll(server) & select.POLLERR)
    files = collect(server)
    before = _drain(server)
    server.close()
    with rebuilt(files) as ([server], _):
        assert _drain(server) == before


def _drain(sock: socket.socket) -> list[object]:
    seen: list[object] = []
    for _ in range(3):
        try:
            seen.append(sock.recv(100))
        except OSError as error:
            seen.append(error.errno)
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_connection_not_accepted_yet(order: list[int], mode: str) -> None:
    listener = listen()
    client, stranger = (connect(listener.getsockname()) for _ in range(2))
    with stranger:
        files = collect_and_close(listener, client)
        with rebuilt(files, mode, order=order) as ([listener, client], rebuilding):  # type: ignore[arg-type]
            [warning] = rebuilding.warnings
            assert "1 connection" in warning
            server, _ = listener.accept()
            with server:
                client.send(b"hello")
                assert server.recv(10) == b"hello"


def test_bytes_sent_before_accept_mean_a_reset() -> None:
    listener = listen()
    client = connect(listener.getsockname())
    client.send(b"too early")
    with rebuilt(collect_and_close(listener, client)) as ([_, client], rebuilding):
        assert rebuilding.warnings
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_unconnected_and_bound() -> None:
    fresh, taken = socket.socket(), socket.socket()
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with rebuilt(collect_and_close(fresh, taken)) as ([fresh, taken], _):
        assert fresh.getsockname() == ("0.0.0.0", 0)
        assert taken.getsockname() == ("127.0.0.1", port)
        taken.listen()
        fresh.connect(taken.getsockname())


def test_connecting_socket_comes_back_reset() -> None:
    with listen(backlog=0) as full, ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        waiting = collect(client)
        assert waiting[0].record.role == "reset"
        with rebuilt(waiting) as ([client], _):
            assert poll(client) & select.POLLERR


@contextmanager
def options_set(sock: socket.socket) -> Iterator[list[tuple[int, int, int]]]:
    tcp, sol = socket.IPPROTO_TCP, socket.SOL_SOCKET
    options = [
        (sol, socket.SO_KEEPALIVE, 1),
        (sol, socket.SO_REUSEPORT, 1),
        (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
        (sol, socket.SO_PRIORITY, 3),
        (tcp, socket.TCP_NODELAY, 1),
        (tcp, socket.TCP_KEEPIDLE, 77),
        (tcp, socket.TCP_KEEPINTVL, 11),
        (tcp, socket.TCP_KEEPCNT, 4),
        (tcp, socket.TCP_USER_TIMEOUT, 4321),
    ]
    for level, option, value in options:
        sock.setsockopt(level, option, value)
    yield options


@pytest.mark.parametrize("role", ["listener", "connection", "reset"])
def test_options(role: str) -> None:
    listener = listen()
    client, server = connection(listener)
    subject = {"listener": listener, "connection": client, "reset": client}[role]
    subject.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 9))
    subject.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 60_000)
    with options_set(subject) as options:
        others = [server] if role == "connection" else []
        files = collect_and_close(subject, *others)
    if role == "reset":
        server.close()
    if role != "listener":
        listener.close()
    with rebuilt(files) as ([subject, *others], rebuilding):
        assert not rebuilding.warnings
        for level, option, value in options:
            assert subject.getsockopt(level, option) == value
        linger = subject.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert linger == struct.pack("ii", 1, 9)
        assert subject.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 120_000
        reuse = subject.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert reuse == (role == "listener")
        if others:
            assert others[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    client.close()
    server.close()


def test_buffers_that_linux_tunes_are_not_fixed() -> None:
    client, server = single_connection()
    with client, server:
        client.send(b"x")
        for file in collect(client, server):
            names = {option.name for option in file.record.options}
            assert not names & {"SO_SNDBUF", "SO_RCVBUF", "SO_RCVLOWAT"}


def test_urgent_data_refuses() -> None:
    client, server = single_connection()
    with client, server:
        server.settimeout(None)
        client.send(b"!", socket.MSG_OOB)
        wait_until(lambda: _urgent(server))
        with pytest.raises(Unsupported, match="out-of-band"):
            collect(client, server)


def _urgent(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_OOB | socket.MSG_PEEK))
    except OSError:
        return False


def test_filter_refuses() -> None:
    program = struct.pack("=HBBI", 6, 0, 0, 0xFFFF) * 9
    buffer = ctypes.create_string_buffer(program)
    with listen() as listener:
        attached = struct.pack("HxxxxxxP", 9, ctypes.addressof(buffer))
        try:
            listener.setsockopt(socket.SOL_SOCKET, 26, attached)
        except PermissionError:
            pytest.skip("this user may not attach filters here")
        with pytest.raises(Unsupported, match="filter"):
            collect(listener)


def test_two_listeners_of_one_port() -> None:
    first = socket.socket()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("127.0.0.1", 0))
    first.listen()
    second = socket.socket()
    second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    second.bind(first.getsockname())
    second.listen()
    files = collect_and_close(first, second)
    for mode in MODES:
        with rebuilt(files, mode) as ([a, b], _):  # type: ignore[arg-type]
            assert a.getsockname() == b.getsockname()


def test_rebuilt_sockets_can_be_collected_again() -> None:
    listener = listen()
    client, server = connection(listener)
    client.send(b"x")
    files = collect_and_close(listener, client, server)
    for _ in range(5):
        with rebuilt(files) as (socks, _):
            files = collect(*socks)
    with rebuilt(files) as ([_listener, _client, server], _):
        assert server.recv(10) == b"x"


def test_matches_only_tcp() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp, tree_of(udp) as tree:
        assert not tcp_socket.matches(tree.descriptors[0])
    with listen() as listener, tree_of(listener) as tree:
        assert tcp_socket.matches(tree.descriptors[0])


def test_nothing_is_left_open() -> None:
    before = open_sockets()
    listener = listen()
    files = collect_and_close(listener, *connection(listener), connect_and_drop(listener))
    with rebuilt(files) as (socks, _):
        assert open_sockets() == before + len(socks)
    assert open_sockets() == before


def connect_and_drop(listener: socket.socket) -> socket.socket:
    client, server = connection(listener)
    client.close()
    return server
