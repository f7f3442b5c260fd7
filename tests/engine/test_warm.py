"""Forks from twins: they share memory with the snapshot, and touch nobody else's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_cr.engine.twin import ParkedTwin, read_twins
from jupyter_cr.tracer.proc.status import read_status
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    COMMAND,
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
def warm(cr: CommandLine, original: Kernel) -> Iterator[str]:
    """The name of a warm snapshot of a kernel with 64 MiB of its own."""
    original.do(f"import os; x = 1; data = bytearray(os.urandom({MIB}) * 64)")
    name = f"{cr.prefix}-warm"
    assert cr("checkpoint", str(original.pid), "--name", name, "--warm")["state"] == "warm"
    try:
        yield name
    finally:
        cr.user.run(*_rm(cr, name), timeout=LIMIT)


def _rm(cr: CommandLine, name: str) -> list[str]:
    return [cr.user.python, *COMMAND, "rm", name]


def twins(cr: CommandLine, name: str) -> list[ParkedTwin]:
    return read_twins(cr.path(name))


def pss(pid: int) -> int:
    """Bytes that the process would free by ending, its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no Pss")


def test_forks_have_the_memory_and_diverge(
    cr: CommandLine, original: Kernel, warm: str
) -> None:
    before = original.value("hash(bytes(data))")
    forks = [cr.fork(warm) for _ in range(3)]
    for number, (pid, path) in enumerate(forks):
        front = Frontend.of(str(path))
        try:
            assert front.value("hash(bytes(data))") == before
            front.do(f"x = {number}; data[0:4096] = bytes(4096)")
            assert front.value("x") == str(number)
        finally:
            front.close()
        assert pss(pid) < 48 * MIB, "a fork does not share its 64 MiB"
    assert original.value("x, hash(bytes(data))") == f"(1, {before})"


def test_forks_at_once(cr: CommandLine, original: Kernel, warm: str) -> None:
    with ThreadPoolExecutor(4) as executor:
        forks = list(executor.map(lambda _: cr.fork(warm), range(4)))
    for _, path in forks:
        front = Frontend.of(str(path))
        try:
            assert front.value("x, len(data)") == f"(1, {64 * MIB})"
        finally:
            front.close()
    assert len(twins(cr, warm)) == 1


def test_children_and_shared_memory_come_along(cr: CommandLine, original: Kernel) -> None:
    original.do(
        "import mmap, os, subprocess\n"
        "shared = mmap.mmap(-1, 8192); shared[:5] = b'first'\n"
        "child = subprocess.Popen(['cat'], stdin=-1, stdout=-1)"
    )
    name = f"{cr.prefix}-warm"
    cr("checkpoint", str(original.pid), "--name", name, "--warm")
    try:
        original.do("shared[:5] = b'later'")
        _, path = cr.fork(name)
        front = Frontend.of(str(path))
        try:
            assert front.value("bytes(shared[:5])") == "b'first'"
            front.do(
                "shared[:5] = b'other'; child.stdin.write(b'echo'); child.stdin.close()"
            )
            assert front.value("child.stdout.read(), child.wait()") == "(b'echo', 0)"
        finally:
            front.close()
        assert original.value("bytes(shared[:5]), child.poll()") == "(b'later', None)"
    finally:
        cr.user.run(*_rm(cr, name), timeout=LIMIT)


def test_removing_the_snapshot_ends_its_twins(cr: CommandLine, warm: str) -> None:
    (twin,) = twins(cr, warm)
    assert cr.user.run(*_rm(cr, warm), timeout=LIMIT).returncode == 0
    wait_until(lambda: not twin.is_alive, "end of the twin")


def test_a_twin_survives_whoever_forks_it(cr: CommandLine, warm: str) -> None:
    """It must neither end nor run a single instruction of the kernel's."""
    (twin,) = twins(cr, warm)
    chance = random.Random(7)
    for _ in range(12):
        command = subprocess.Popen(
            cr.argv("fork", warm),
            cwd=cr.user.home,
            env=dict(cr.user.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.15, 0.6))
        os.killpg(command.pid, signal.SIGKILL)
        command.wait(LIMIT)
        assert twin.is_alive
        wait_until(lambda: _is_parked(twin), "the twin waits again")
    _, path = cr.fork(warm)
    front = Frontend.of(str(path))
    try:
        assert front.value("x") == "1"
    finally:
        front.close()


def _is_parked(twin: ParkedTwin) -> bool:
    """Asleep in pause(2), called from its workspace."""
    words = Path(f"/proc/{twin.pid}/syscall").read_text().split()
    if words[0] != "34":
        return False
    return twin.address <= int(words[-1], 16) < twin.address + 4096


def test_a_restore_shares_memory_and_can_be_repeated(
    cr: CommandLine, original: Kernel, warm: str
) -> None:
    before = original.value("hash(bytes(data))")
    original.do("wiped = data[:] and bytes(16); x = 0")
    for number in range(4):
        original.do(f"data[0:4096] = bytes(4096); y = {number}; x = 2")
        pid = int(cr("restore", warm)["pid"])
        assert original.value("x, 'y' in globals()") == "(1, False)"
        assert original.value("hash(bytes(data))") == before
        assert pss(pid) < 60 * MIB, "it has a copy"
    fork, path = cr.fork(warm)
    front = Frontend.of(str(path))
    try:
        assert front.value("x, hash(bytes(data))") == f"(1, {before})"
    finally:
        front.close()
        os.kill(fork, signal.SIGKILL)
    assert twins(cr, warm)


def test_children_and_shared_memory_come_back(cr: CommandLine, original: Kernel) -> None:
    """The root is cloned from its twin, all else is read."""
    original.do(
        "import mmap, os, subprocess\n"
        "m = mmap.mmap(-1, 1 << 20); m[:5] = b'first'\n"
        "child = subprocess.Popen(['cat'], stdin=-1, stdout=-1)\n"
    )
    name = f"{cr.prefix}-tree"
    cr("checkpoint", str(original.pid), "--name", name, "--warm")
    try:
        original.do("child.kill(); child.wait(); m[:5] = b'other'; os.nice(0)")
        cr("restore", name)
        assert original.value("bytes(m[:5])") == "b'first'"
        original.do("child.stdin.write(b'hello\\n'); child.stdin.flush()")
        assert original.value("child.stdout.readline()") == r"b'hello\n'"
        assert original.value("child.kill() or child.wait()") == "-9"
    finally:
        cr.user.run(*_rm(cr, name), timeout=LIMIT)


@pytest.mark.long
def test_there_and_back_through_all_that_has_been(
    cr: CommandLine, original: Kernel
) -> None:
    """Snapshots of what was restored from snapshots of what was restored: each is warm,
    whichever of them the kernel is at, and none stays longer than it is wanted."""
    original.do(f"import os; data = bytearray(os.urandom({MIB}) * 64); x = 0")
    pid, content = original.pid, original.value("hash(bytes(data[8:]))")
    chance = random.Random(11)
    names: list[str] = []
    try:
        for number in range(8):
            original.do(f"x = {number}; data[:8] = b'%08d' % x")
            names.append(f"{cr.prefix}-{number}")
            cr("checkpoint", str(pid), "--name", names[-1], "--warm")
            original.do("x = -1; data[:] = bytes(len(data))")
            back = chance.randrange(len(names))
            pid = int(cr("restore", names[back])["pid"])
            assert original.value("x, bytes(data[:8])") == f"({back}, b'{back:08}')"
            assert original.value("hash(bytes(data[8:]))") == content
            assert pss(pid) < 60 * MIB, "it has a copy"
        fork, path = cr.fork(names[-1])
        front = Frontend.of(str(path))
        try:
            assert front.value("x") == "7"
        finally:
            front.close()
            os.kill(fork, signal.SIGKILL)
    finally:
        for name in names:
            cr.user.run(*_rm(cr, name), timeout=LIMIT)
    wait_until(lambda: len(cr.keepers()) <= 1 + 2 * _depth(pid), "keepers end")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_more_namespaces_within_each_other(cr: CommandLine, original: Kernel) -> None:
    """Linux permits 32: where there is none left, what is on disk is read."""
    original.do(f"import os; data = bytearray(os.urandom({MIB}) * 8); x = 0")
    pid, deepest = original.pid, 0
    for number in range(36):
        original.do(f"x = {number}")
        name = f"{cr.prefix}-{number}"
        cr("checkpoint", str(pid), "--name", name, "--warm")
        original.do("x = -1")
        pid = int(cr("restore", name)["pid"])
        assert original.value("x") == str(number)
        deepest = max(deepest, _depth(pid))
        assert cr.user.run(*_rm(cr, name), timeout=LIMIT).returncode == 0
    assert deepest > 25
    assert _depth(pid) < 10


def _depth(pid: int) -> int:
    """In how many pid namespaces it is, our own aside."""
    return len(read_status(pid).ns_tgid) - 1


def test_a_snapshot_outlives_the_kernel_that_was_restored(
    cr: CommandLine, original: Kernel, warm: str
) -> None:
    pid = int(cr("restore", warm)["pid"])
    original.do("x = 2")
    later = f"{cr.prefix}-later"
    cr("checkpoint", str(pid), "--name", later, "--warm")
    os.kill(pid, signal.SIGSEGV)
    wait_until(lambda: not _runs(pid), "the kernel's end")
    pid = int(cr("restore", later)["pid"])
    assert original.value("x") == "2"
    assert pss(pid) < 60 * MIB, "it has a copy"
    (twin,) = twins(cr, later)
    assert cr.user.run(*_rm(cr, later), timeout=LIMIT).returncode == 0
    wait_until(lambda: not twin.is_alive, "end of the twin")
    assert original.value("x") == "2"


def _runs(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}/stat").exists()
        and " Z " not in Path(f"/proc/{pid}/stat").read_text()
    )
