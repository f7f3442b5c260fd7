from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from jupyter_cr.engine.describe import (
    ProcessDescription,
    SnapshotDescription,
    describe_record,
    describe_snapshot,
)
from jupyter_cr.engine.descriptors import KINDS
from tests.engine.harness import SERVE, checkpointed, program

THINGS = (
    SERVE
    + """
import mmap, os, select, signal, socket, subprocess, tempfile, threading, time

big = bytearray(os.urandom(1 << 20) * 8)
shared = mmap.mmap(-1, 1 << 20)
shared[:5] = b"hello"
file = open(sys.argv[1], "w+")
file.write("0123456789"); file.flush(); file.seek(4)
gone = tempfile.TemporaryFile()
gone.write(b"abc"); gone.flush()
pipe = os.pipe()
os.write(pipe[1], b"unread")
event = os.eventfd(3) if hasattr(os, "eventfd") else None
epoll = select.epoll()
epoll.register(pipe[0], select.EPOLLIN)
pair = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
null = open("/dev/null")
directory = os.open("/", os.O_RDONLY)
path = os.open("/", os.O_PATH)
child = subprocess.Popen(["sleep", "1000"], stdout=null)
dead = subprocess.Popen(["true"])
while open(f"/proc/{dead.pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.01)
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
serve(globals())
"""
)


@pytest.fixture
def snapshot(tmp_path: Any) -> Iterator[tuple[int, SnapshotDescription]]:
    with (
        program(THINGS, str(tmp_path / "file")) as running,
        checkpointed(running.pid) as (_, writer),
    ):
        yield running.pid, describe_snapshot(writer)


def find(process: ProcessDescription, kind: str) -> list[str]:
    return [d.what for d in process.descriptors if d.kind == kind]


def test_a_tree(snapshot: tuple[int, SnapshotDescription], tmp_path: Any) -> None:
    pid, content = snapshot
    root, *others = content.processes
    assert (root.pid, root.ppid, root.state) == (pid, os.getpid(), "running")
    assert root.command[-1] == str(tmp_path / "file")
    assert len(root.threads) == 2
    assert {(p.name, p.state, p.ppid) for p in others} == {
        ("sleep", "running", pid),
        ("true", "zombie", pid),
    }
    assert find(root, "regular_file") == [f"{tmp_path}/file at 4 of 10"]
    # Where the tests run, standard error may be another.
    assert any(what.endswith("at 3 of 3") for what in find(root, "deleted_file"))
    assert any(
        what.endswith("write, 6 bytes unread") for what in find(root, "pipe")
    ) or any(what.endswith("read, 6 bytes unread") for what in find(root, "pipe"))
    assert find(root, "eventfd") in (["count 3"], [])
    assert find(root, "unix_socket") == ["stream, pair"] * 2
    (tcp,) = find(root, "tcp_socket")
    assert tcp.startswith("listener 127.0.0.1:")
    (udp,) = find(root, "udp_socket")
    assert udp.startswith("127.0.0.1:")
    assert "/dev/null" in find(root, "character_device")
    assert find(root, "directory") == ["/"]
    assert find(root, "o_path") == ["/ (d, O_PATH)"]
    reader = next(
        d.fd
        for d in root.descriptors
        if d.kind == "pipe" and d.what.endswith("unread") and ", read" in d.what
    )
    assert find(root, "epoll") == [f"watches {reader}"]
    numbers = [d.fd for d in root.descriptors]
    assert numbers == sorted(numbers)


def test_memory_adds_up(snapshot: tuple[int, SnapshotDescription]) -> None:
    _, content = snapshot
    root = content.processes[0]
    kinds = {memory.kind: memory for memory in root.memory}
    assert kinds.keys() == {"heap", "stack", "anonymous", "file", "shared"}
    assert kinds["anonymous"].stored >= 8 << 20
    assert kinds["shared"].virtual >= 1 << 20
    assert kinds["shared"].stored == 0
    assert all(m.stored <= m.virtual for p in content.processes for m in p.memory)
    (shared,) = content.shared
    assert (shared.size, shared.stored) == (1 << 20, 4096)
    own = sum(m.stored for p in content.processes for m in p.memory)
    assert content.stored == own + shared.stored


def test_it_can_be_printed_as_json(snapshot: tuple[int, SnapshotDescription]) -> None:
    _, content = snapshot
    again = msgspec.json.decode(msgspec.json.encode(content), type=SnapshotDescription)
    assert again == content


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.rpartition(".")[2])
def test_every_kind_is_described(kind: Any) -> None:
    default = describe_record.dispatch(object)
    assert describe_record.dispatch(kind.Record) is not default


def test_nothing_else_is_described() -> None:
    with pytest.raises(TypeError, match="no record of an open file"):
        describe_record(object())
