"""Twins: what makes a snapshot warm, what they cost, and how they go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from msgspec.structs import replace

from jupyter_cr.store import Store, TwinLimits
from jupyter_cr.store.twins import are_twins_alive
from tests.store.harness import header, program, take, twins_of, wait_for_line

MIB = 1 << 20


def test_a_snapshot_with_living_twins_is_warm(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    directory = take(store, "one")
    (directory / "twins").write_bytes(twins_of(sleeper.pid))
    assert store.state("one") == "warm"
    sleeper.kill()
    # A zombie is no twin any more.
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert store.state("one") == "durable"


def test_twins_are_told_from_later_processes(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    file = tmp_path / "twins"
    assert not are_twins_alive(tmp_path)
    sound = twins_of(sleeper.pid, os.getpid())
    file.write_bytes(sound)
    assert are_twins_alive(tmp_path)
    later = json.loads(sound)
    later["twins"][0]["starttime"] += 1
    other_boot = json.loads(sound) | {"boot": "another"}
    damaged = (b"", b"{", b"[]", b"\xff", b'{"boot": 1}', sound.replace(b'"pid"', b'"p"'))
    for content in (json.dumps(later).encode(), json.dumps(other_boot).encode(), *damaged):
        file.write_bytes(content)
        assert not are_twins_alive(tmp_path)


def test_twins_end_with_their_snapshot(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    (take(store, "one") / "twins").write_bytes(twins_of(sleeper.pid))
    store.remove(["one"])
    assert sleeper.wait(timeout=10) == -signal.SIGKILL


def test_a_damaged_note_of_twins_does_not_keep_a_snapshot(store: Store) -> None:
    (take(store, "one") / "twins").write_bytes(b"{")
    assert store.state("one") == "durable"
    assert store.twins_cost() == 0
    store.remove(["one"])
    assert store.names() == []


CLONES = """
import mmap, os, signal, sys
held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write(os.urandom(1 << 20) * 64)
def clone():
    pid = os.fork()
    if not pid:
        signal.pause()
    return pid
def change(start, count):
    for page in range(start << 8, start + count << 8):
        held[page << 12] ^= 1
print(os.getpid(), flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Kernel:
    """A process that forks when it is told to, as the engine would have it do."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = int(wait_for_line(process))
        self.clones: list[int] = []

    def do(self, code: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        return wait_for_line(self.process)

    def clone(self) -> int:
        self.clones.append(int(self.do("clone()")))
        return self.clones[-1]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with program(CLONES) as process:
        kernel = Kernel(process)
        yield kernel
        for pid in kernel.clones:
            os.kill(pid, signal.SIGKILL)


def take_warm(store: Store, name: str, kernel: Kernel, day: int = 1) -> None:
    with store.create(name) as writer:
        head = header(name, f"2026-01-0{day}T00:00:00+00:00")
        writer.add(replace(head, pid=kernel.pid))
        writer.commit(durable=False)
    (store.path(name) / "twins").write_bytes(twins_of(kernel.clone()))


def test_what_twins_cost(store: Store, kernel: Kernel) -> None:
    """Only what their kernel has not, and each page once."""
    take_warm(store, "one", kernel)
    least = store.twins_cost()
    assert least < 8 * MIB, "an interpreter's own pages"
    kernel.do("change(0, 10)")
    assert 10 * MIB <= store.twins_cost() <= least + 14 * MIB
    take_warm(store, "two", kernel)
    two = store.twins_cost()
    assert 10 * MIB <= two <= 2 * least + 14 * MIB, "the second one has what the kernel has"
    # Both have what it was before, and share it.
    kernel.do("change(20, 20)")
    assert two + 19 * MIB <= store.twins_cost() <= two + 24 * MIB
    # The kernel ends: nobody else has any of it.
    kernel.process.kill()
    kernel.process.wait()
    assert 73 * MIB <= store.twins_cost() <= 95 * MIB


@contextmanager
def warm_ones(store: Store, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    with ExitStack() as stack:
        twins = []
        for number in range(count):
            twin = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(twin.kill)
            directory = take(store, str(number), f"2026-01-0{number + 1}T00:00:00+00:00")
            (directory / "twins").write_bytes(twins_of(twin.pid))
            twins.append(twin)
        yield twins


def states(store: Store) -> list[str]:
    return [snapshot.state for snapshot in store.list()]


def test_the_oldest_go_first(store: Store) -> None:
    with warm_ones(store, 4) as twins:
        assert store.evict_twins(TwinLimits()) == ()
        assert store.evict_twins(TwinLimits(count=3)) == ("0",)
        assert twins[0].wait(timeout=10) == -signal.SIGKILL
        assert store.evict_twins(TwinLimits(count=3)) == ()
        assert states(store) == ["durable", "warm", "warm", "warm"]
        assert store.evict_twins(TwinLimits(age=1e12)) == ()
        assert store.evict_twins(TwinLimits(bytes=1 << 40)) == ()
        assert store.evict_twins(TwinLimits(bytes=0)) == ("1", "2", "3")
        assert store.twins_cost() == 0
        with store.open("0") as reader:
            reader.verify_pages()


def test_those_that_are_too_old_go(store: Store) -> None:
    with warm_ones(store, 3):
        now = datetime.now(timezone.utc)
        age = (now - datetime(2026, 1, 2, 12, tzinfo=timezone.utc)).total_seconds()
        assert store.evict_twins(TwinLimits(age=age)) == ("0", "1")


def test_those_that_a_fork_is_made_of_stay(store: Store) -> None:
    with warm_ones(store, 3), store.open("0"):
        assert store.evict_twins(TwinLimits(count=1)) == ("1", "2")
        assert states(store) == ["warm", "durable", "durable"]


def test_those_of_what_is_being_saved_stay(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    with store.create("one") as writer:
        writer.add(header("one"))
        writer.attach("twins", twins_of(sleeper.pid))
        writer.publish()
        assert store.evict_twins(TwinLimits(count=0)) == ()
        assert store.state("one") == "live"
        writer.commit(durable=False)
    assert store.state("one") == "warm"
    assert store.evict_twins(TwinLimits(count=0)) == ("one",)
