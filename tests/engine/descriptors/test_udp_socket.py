from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress

import pytest

from jupyter_cr.engine.descriptors import other_socket, udp_socket
from jupyter_cr.errors import AddressTaken, Unsupported
from tests.engine.descriptors.socket_harness import (
    collect,
    collect_and_close,
    open_sockets,
    rebuilt,
    tree_of,
)

MODES = ["restore", "fork"]
GROUP = "239.255.77.7"


def has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


HOSTS = [
    "127.0.0.1",
    "0.0.0.0",
    pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6")),
]


def bound(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((host, 0))
    return sock


def reachable(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return ("127.0.0.1" if host == "0.0.0.0" else host), port


@pytest.mark.parametrize("host", HOSTS)
def test_bound_socket_is_at_its_port_again(host: str) -> None:
    sock = bound(host)
    address = sock.getsockname()
    with rebuilt(collect_and_close(sock)) as ([sock], rebuilding):
        assert not rebuilding.warnings
        assert sock.getsockname() == address
        sock.sendto(b"self", reachable(sock))
        assert sock.recv(10) == b"self"


def test_fork_has_a_new_port_beside_the_original() -> None:
    with bound() as sock:
        port = sock.getsockname()[1]
        with rebuilt(collect(sock), "fork") as ([forked], rebuilding):
            assert forked.getsockname()[1] != port
            assert rebuilding.ports == {port: forked.getsockname()[1]}


def test_taken_port_names_the_address() -> None:
    with bound() as sock:
        files = collect(sock)
        port = sock.getsockname()[1]
        with pytest.raises(AddressTaken, match=f"127.0.0.1:{port}"), rebuilt(files):
            pass


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", HOSTS)
def test_peers_of_one_tree(host: str, mode: str, order: list[int]) -> None:
    a, b = bound(host), bound(host)
    a.connect(reachable(b))
    b.connect(reachable(a))
    messages = [b"one", b"", b"three" * 1000]
    for message in messages:
        a.send(message)
    with rebuilt(collect_and_close(a, b), mode, order=order) as ([a, b], rebuilding):  # type: ignore[arg-type]
        assert not rebuilding.warnings
        received = [b.recvfrom(1 << 16) for _ in messages]
        assert [data for data, _ in received] == messages
        assert {sender[:2] for _, sender in received} == {a.getsockname()[:2]}
        b.send(b"back")
        assert a.recv(10) == b"back"
        assert a.getpeername() == b.getsockname()


def test_datagram_of_a_sender_that_is_gone_keeps_its_address() -> None:
    sock = bound()
    with bound() as sender:
        address = sender.getsockname()
        sender.sendto(b"bye", sock.getsockname())
    with rebuilt(collect_and_close(sock)) as ([sock], rebuilding):
        assert not rebuilding.warnings
        assert sock.recvfrom(10) == (b"bye", address)


def test_datagram_of_an_address_in_use_is_dropped_with_a_warning() -> None:
    sock = bound()
    with bound() as sender:
        sender.sendto(b"hello", sock.getsockname())
        with rebuilt(collect_and_close(sock)) as ([sock], rebuilding):
            [warning] = rebuilding.warnings
            assert "1 unread datagram" in warning
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(10)
            sender.sendto(b"again", sock.getsockname())
            sock.settimeout(5)
            assert sock.recv(10) == b"again"


def test_outer_peer_stays_connected() -> None:
    with bound() as outside:
        sock = bound()
        sock.connect(outside.getsockname())
        with rebuilt(collect_and_close(sock)) as ([sock], _):
            assert sock.getpeername() == outside.getsockname()
            sock.send(b"x")
            assert outside.recvfrom(10) == (b"x", sock.getsockname())


def test_collecting_leaves_everything_as_it_was() -> None:
    with bound() as a, bound() as b:
        before = open_sockets()
        b.setsockopt(socket.SOL_SOCKET, 42, 1)
        for message in (b"abc", b"defg"):
            a.sendto(message, b.getsockname())
        assert collect(a, b) == collect(a, b)
        assert open_sockets() == before
        assert b.getsockopt(socket.SOL_SOCKET, 42) == 1
        b.setsockopt(socket.SOL_SOCKET, 42, -1)
        assert [b.recv(10), b.recv(10)] == [b"abc", b"defg"]


def test_pending_error_stays_for_the_program() -> None:
    with bound() as gone:
        address = gone.getsockname()
    with bound() as sock:
        sock.connect(address)
        sock.send(b"x")
        poller = select.poll()
        poller.register(sock, 0)
        deadline = time.monotonic() + 10
        while not poller.poll(100):
            assert time.monotonic() < deadline
        collect(sock)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


def test_unbound_socket_and_options() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    options = [
        (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3),
        (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0),
        (socket.IPPROTO_IP, 11, 1),
        (socket.IPPROTO_IP, 8, 1),
    ]
    for level, option, value in options:
        sock.setsockopt(level, option, value)
    with rebuilt(collect_and_close(sock)) as ([sock], rebuilding):
        assert not rebuilding.warnings
        assert sock.getsockname() == ("0.0.0.0", 0)
        for level, option, value in options:
            assert sock.getsockopt(level, option) == value


def test_multicast_group_is_joined_again() -> None:
    sock = bound("0.0.0.0")
    request = struct.pack(
        "=4s4si", socket.inet_aton(GROUP), socket.inet_aton("127.0.0.1"), 0
    )
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    files = collect_and_close(sock, socket.socket(type=socket.SOCK_DGRAM))
    assert [m.group for m in files[0].record.groups] == [GROUP]
    assert files[1].record.groups == ()
    with rebuilt(files) as ([sock, _], rebuilding):
        assert not rebuilding.warnings
        with pytest.raises(OSError, match="in use"):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
def test_ipv6_multicast_group_is_joined_again() -> None:
    sock = bound("::")
    request = socket.inet_pton(socket.AF_INET6, "ff12::77:7") + struct.pack(
        "@I", socket.if_nametoindex("lo")
    )
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    with rebuilt(collect_and_close(sock)) as ([sock], rebuilding):
        assert not rebuilding.warnings
        with pytest.raises(OSError, match="in use"):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def test_nothing_is_left_open() -> None:
    before = open_sockets()
    a, b = bound(), bound()
    a.sendto(b"x", b.getsockname())
    files = collect_and_close(a, b)
    with rebuilt(files) as (socks, _):
        assert open_sockets() == before + len(socks)
    assert open_sockets() == before


@pytest.mark.parametrize(
    ("family", "type_", "protocol", "name"),
    [
        (socket.AF_NETLINK, socket.SOCK_RAW, 0, "AF_NETLINK SOCK_RAW"),
        (socket.AF_INET, socket.SOCK_STREAM, 262, "AF_INET SOCK_STREAM MPTCP"),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, "AF_INET SOCK_RAW ICMP"),
        (socket.AF_PACKET, socket.SOCK_RAW, 0, "AF_PACKET"),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0, "AF_VSOCK"),
        (socket.AF_ALG, socket.SOCK_SEQPACKET, 0, "AF_ALG"),
    ],
)
def test_other_sockets_are_refused_by_name(
    family: int, type_: int, protocol: int, name: str
) -> None:
    try:
        sock = socket.socket(family, type_, protocol)
    except OSError as error:
        pytest.skip(f"cannot be made here: {error}")
    with sock, tree_of(sock) as tree:
        [descriptor] = tree.descriptors
        assert not udp_socket.matches(descriptor)
        assert other_socket.matches(descriptor)
        error = other_socket.refusal(descriptor)
        assert isinstance(error, Unsupported)
        assert name in error.message
        assert f"process {os.getpid()}, descriptor {sock.fileno()}" in error.message
        assert error.hint
