"""Snapshots that are in memory only: their twins have all that they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_cr.engine.twin import read_twins
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    COMMAND,
    CommandError,
    CommandLine,
    Frontend,
    Kernel,
    command_line,
    kernel,
)

MIB = 1 << 20


@pytest.fixture
def cr(user: User) -> Iterator[CommandLine]:
    with command_line(user) as cr:
        yield cr


@pytest.fixture
def original(user: User) -> Iterator[Kernel]:
    with kernel(user) as found:
        yield found


@pytest.fixture
def in_memory(cr: CommandLine, original: Kernel) -> Iterator[str]:
    """The name of a snapshot of a kernel with a child, shared memory and 32 MiB."""
    original.do(
        "import mmap, os, subprocess\n"
        f"data = bytearray(os.urandom({MIB}) * 32); x = 1\n"
        "shared = mmap.mmap(-1, 1 << 20); shared[:5] = b'first'\n"
        "child = subprocess.Popen(['sh', '-c', 'word=kept; read line; echo $word $line'],\n"
        "                         stdin=-1, stdout=-1)"
    )
    name = f"{cr.prefix}-memory"
    taken = cr("checkpoint", str(original.pid), "--name", name, "--memory-only")
    assert taken["state"] == "memory"
    try:
        yield name
    finally:
        cr.user.run(cr.user.python, *COMMAND, "rm", name, timeout=LIMIT)


def state(cr: CommandLine, name: str) -> str | None:
    return next((s["state"] for s in cr("list") if s["name"] == name), None)


def spoil(original: Kernel) -> None:
    original.do(
        "data[:] = bytes(len(data)); x = 2; shared[:5] = b'later'; child.kill()\n"
        "child.wait()"
    )


def check(front: Frontend, before: str) -> None:
    """That it has all of it, and goes on."""
    assert front.value("x, hash(bytes(data)), bytes(shared[:5])") == before
    front.do("child.stdin.write(b'on\\n'); child.stdin.close()")
    assert front.value("child.stdout.read(), child.wait()") == r"(b'kept on\n', 0)"


def test_brought_back_and_forked(cr: CommandLine, original: Kernel, in_memory: str) -> None:
    before = original.value("x, hash(bytes(data)), bytes(shared[:5])")
    assert not cr.pack(in_memory).exists() or cr.pack(in_memory).stat().st_size < 2 * MIB
    spoil(original)
    _, path = cr.fork(in_memory)
    front = Frontend.of(str(path))
    try:
        check(front, before)
    finally:
        front.close()
    for _ in range(2):
        cr.restore(in_memory)
        check(original, before)


def test_ends_with_its_twins(cr: CommandLine, original: Kernel, in_memory: str) -> None:
    directory = cr.path(in_memory)
    root, *_ = read_twins(directory)
    os.kill(root.pid, signal.SIGKILL)
    wait_until(lambda: not root.is_alive)
    assert state(cr, in_memory) is None
    with pytest.raises(CommandError, match="is gone"):
        cr("restore", in_memory)
    cr("gc")
    assert not directory.exists()
    assert original.value("x") == "1"


def test_kept_on_disk(cr: CommandLine, original: Kernel, in_memory: str) -> None:
    before = original.value("x, hash(bytes(data)), bytes(shared[:5])")
    spoil(original)
    kept = f"{cr.prefix}-kept"
    cr("keep", in_memory, kept)
    assert state(cr, in_memory) == "memory"
    assert state(cr, kept) == "durable"
    cr("verify", kept)
    cr("rm", in_memory)
    cr.restore(kept)
    check(original, before)
    with pytest.raises(CommandError, match="on disk already"):
        cr("keep", kept, f"{cr.prefix}-again")


def test_is_not_carried_elsewhere(
    cr: CommandLine, original: Kernel, in_memory: str, tmp_path: Path
) -> None:
    for words in (
        ("export", in_memory, str(Path(cr.user.home) / "bundle")),
        ("push", in_memory, str(Path(cr.user.home) / "elsewhere")),
    ):
        with pytest.raises(CommandError, match="in memory only"):
            cr(*words)
    assert original.value("x") == "1"


def test_the_next_one_on_disk_takes_over_what_one_before_it_has(
    cr: CommandLine, original: Kernel
) -> None:
    """Those in memory only are passed by."""
    original.do(f"import os; data = bytearray(os.urandom({32 * MIB}))")
    names = [f"{cr.prefix}-{number}" for number in range(3)]
    how = ("--warm", "--memory-only", "--warm")
    try:
        for name, option in zip(names, how, strict=True):
            cr("checkpoint", str(original.pid), "--name", name, option)
            original.do("data[:8] = b'dirtied!'")
        assert cr.pack(names[2]).stat().st_size < 8 * MIB
        cr("verify", names[2])
    finally:
        cr.user.run(cr.user.python, *COMMAND, "rm", *names, timeout=LIMIT)
