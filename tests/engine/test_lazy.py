"""Lazy restore: pages come when they are asked for, and all come in the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_cr.tracer.capabilities import probe_capabilities
from tests.conftest import User
from tests.engine.harness import LIMIT, wait_until
from tests.engine.kernels import (
    CommandError,
    CommandLine,
    Kernel,
    command_line,
    is_alive,
    kernel,
)

MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(
        not probe_capabilities().get("userfaultfd").ok, reason="userfaultfd is refused"
    ),
    # Only root may serve the faults that Linux itself makes.
    pytest.mark.parametrize("user", ["root"], indirect=True),
]


@pytest.fixture
def cr(user: User) -> Iterator[CommandLine]:
    with command_line(user) as cr:
        yield cr


@pytest.fixture
def original(user: User) -> Iterator[Kernel]:
    with kernel(user) as found:
        yield found


@pytest.fixture
def snapshot(cr: CommandLine, original: Kernel) -> str:
    """Of a kernel with 192 MiB in numpy's hands, and 64 MiB in a growing bytearray."""
    original.do(
        f"import os, mmap, numpy as np, zlib\n"
        f"a = np.arange({24 * MIB}, dtype='f8'); total = a.sum()\n"
        f"b = bytearray(os.urandom({MIB}) * 64); crc = zlib.crc32(b)\n"
        f"m = mmap.mmap(-1, {32 * MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        f"m[:] = os.urandom({MIB}) * 32"
    )
    return cr.checkpoint(original.pid)


def pagers(snapshot: str) -> list[psutil.Process]:
    """The processes that bring pages of a snapshot: ours, in sessions of their own."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "pid"])
        if {"--lazy", snapshot} <= set(process.info["cmdline"] or [])
        and os.getsid(process.pid) == process.pid
    ]


def huge_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no AnonHugePages")


def test_everything_is_there(cr: CommandLine, original: Kernel, snapshot: str) -> None:
    before = huge_bytes(original.pid)
    original.do("a[:] = 0; b[:] = bytes(len(b))")
    pid = int(cr("restore", snapshot, "--lazy")["pid"])
    assert (
        original.value("a[-1], a.sum() == total")
        == f"(np.float64({24 * MIB - 1}.0), np.True_)"
    )
    assert original.value("zlib.crc32(b) == crc") == "True"
    wait_until(lambda: not pagers(snapshot), "end of the pager")
    assert original.value("a.sum() == total, zlib.crc32(b) == crc") == "(np.True_, True)"
    assert huge_bytes(pid) >= before // 2, "huge pages are small ones now"


def test_memory_that_moves_goes_or_is_inherited(
    cr: CommandLine, original: Kernel, snapshot: str
) -> None:
    cr("restore", snapshot, "--lazy")
    original.do(
        "b.extend(bytes(80 << 20))\n"
        "m.madvise(mmap.MADV_DONTNEED, 0, 16 << 20)\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(w, b'ok' if a.sum() == total else b'no'); os._exit(0)\n"
        "answer = os.read(r, 2); os.wait()"
    )
    assert original.value("answer, zlib.crc32(b[:64 << 20]) == crc") == "(b'ok', True)"
    assert original.value("any(m[:16 << 20]), any(m[16 << 20:])") == "(False, True)"
    wait_until(lambda: not pagers(snapshot), "end of the pager")


def test_a_dead_pager_is_a_clear_death(
    cr: CommandLine, original: Kernel, snapshot: str
) -> None:
    # Without a new key the command returns at once, and most pages are still to come.
    pid, path = cr.fork(snapshot, "--lazy", "--keep-key")
    for pager in pagers(snapshot):
        os.kill(pager.pid, signal.SIGSTOP)
    if not (stopped := pagers(snapshot)):
        pytest.skip("all pages had come before the pager could be stopped")
    for pager in stopped:
        os.kill(pager.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "end of the fork")
    assert path is not None
    assert original.value("a.sum() == total") == "np.True_"


def damage(cr: CommandLine, snapshot: str, part: float) -> None:
    """Flip a bit at that part of the pages."""
    path = cr.pack(snapshot)
    at = int(path.stat().st_size * part)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_a_fork_with_a_damaged_page_is_ended(
    cr: CommandLine, original: Kernel, snapshot: str
) -> None:
    damage(cr, snapshot, 0.5)
    pid, _ = cr.fork(snapshot, "--lazy")
    wait_until(lambda: not is_alive(pid), "end of the fork")
    assert original.value("a.sum() == total") == "np.True_"


def test_damage_in_what_comes_first_is_refused(
    cr: CommandLine, original: Kernel, snapshot: str
) -> None:
    damage(cr, snapshot, 0.999)
    with pytest.raises(CommandError, match="does not match its checksum"):
        cr("restore", snapshot, "--lazy")
    assert original.value("a.sum() == total") == "np.True_"


def test_waiting_for_a_lazy_one_is_refused(cr: CommandLine, snapshot: str) -> None:
    done = cr.user.run(*cr.argv("restore", snapshot, "--lazy", "--wait"), timeout=LIMIT)
    assert done.returncode == 2
    assert "--wait and --lazy" in done.stderr
