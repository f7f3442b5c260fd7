"""Trees of which it is known where they will listen, as of kernels."""

from __future__ import annotations

import socket

import pytest

from jupyter_cr.engine import checkpoint as checkpoint_module
from jupyter_cr.engine.checkpoint import checkpoint_tree
from jupyter_cr.engine.descriptors.tcp_socket import port_numbers
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.engine.preflight import require_listeners
from jupyter_cr.errors import RestoreError, TargetError
from tests.engine.harness import MemoryWriter, program

STARTS = """
import socket, sys, time
print("ready", flush=True)
sys.stdin.readline()
listeners = []
for port in map(int, sys.argv[1:]):
    time.sleep(0.3)
    listeners.append(socket.create_server(("127.0.0.1", port)))
print("listens", flush=True)
print(sum(map(int, sys.stdin)))
"""


def free_ports(count: int) -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        ports = []
        for held in (one, other)[:count]:
            held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
    return ports


def recorded(writer: MemoryWriter) -> frozenset[int]:
    (table,) = writer.records(FileTable)
    return port_numbers(table.files)


def test_it_is_waited_for() -> None:
    ports = free_ports(2)
    with program(STARTS, *map(str, ports)) as running, MemoryWriter() as writer:
        running.tell()
        checkpoint_tree(running.pid, writer, listens_on=frozenset(ports))
        assert set(ports) <= recorded(writer)
        running.expect("listens")


def test_one_that_does_not_listen_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "_START", 0.3)
    (port,) = free_ports(1)
    with program(STARTS, str(port)) as running:
        with MemoryWriter() as writer:
            with pytest.raises(
                TargetError, match=f"{running.pid} .* port {port}"
            ) as refused:
                checkpoint_tree(running.pid, writer, listens_on=frozenset({port}))
            assert "when it has started" in refused.value.hint
            assert not writer.added
        running.tell()
        running.expect("listens")
        with MemoryWriter() as writer:
            checkpoint_tree(running.pid, writer, listens_on=frozenset({port}))
            assert recorded(writer) == {port}


def test_a_snapshot_of_one_that_did_not_listen_is_not_forked() -> None:
    (port,) = free_ports(1)
    with program(STARTS, str(port)) as running, MemoryWriter() as writer:
        checkpoint_tree(running.pid, writer)
        (table,) = writer.records(FileTable)
        require_listeners(table.files, frozenset())
        with pytest.raises(RestoreError, match="did not listen"):
            require_listeners(table.files, frozenset({port}))
