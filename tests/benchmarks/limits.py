"""The limits, each measured in a process of its own with warm memory.

Memory of a virtual machine may be cold: the first touch of a page that the guest had
given back to its host costs ten times a warm one. So as much as is needed is touched and
freed before each timed run, ours as well as the limit's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.kernel import ROOT

__all__ = ["fork_code", "plain_pread_ms", "plain_write_ms", "warm_memory"]

_TOUCH = """
import mmap, os, sys, time

def touch(size):
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[::4096] = b"x" * len(range(0, size, 4096))
    return memory
"""

_WRITE = """
path, size = sys.argv[1], int(sys.argv[2])
piece = touch(32 << 20)
touch(size).close()
fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
try:
    began = time.perf_counter()
    at = 0
    while at < size:
        at += os.pwrite(fd, memoryview(piece)[: min(len(piece), size - at)], at)
    if sys.argv[3:]:
        os.fsync(fd)
    print((time.perf_counter() - began) * 1e3)
finally:
    os.unlink(path)
"""

_PREAD = """
path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
touch(size).close()
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
view = memoryview(memory)
began = time.perf_counter()
at = 0
while at < size:
    at += os.preadv(fd, [view[at : at + (32 << 20)]], at)
print((time.perf_counter() - began) * 1e3)
"""


def _run(code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", _TOUCH + code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=True,
    )
    return result.stdout


def warm_memory(size: int) -> None:
    """Touch and free `size` bytes."""
    _run("touch(int(sys.argv[1])).close()", str(size))


def plain_write_ms(directory: Path, size: int, *, durable: bool = False) -> float:
    """Write `size` bytes to a new file, in pieces of 32 MiB; and fsync(2) it, if it is to
    be `durable`."""
    words = ["durable"] if durable else []
    return float(_run(_WRITE, str(directory / "plain"), str(size), *words))


def plain_pread_ms(path: Path) -> float:
    """Read a file into fresh memory, of huge pages where Linux has any to give."""
    return float(_run(_PREAD, str(path)))


def fork_code() -> str:
    """To be run in the kernel: prints milliseconds of os.fork() alone."""
    return """
def _bench_fork():
    import os, time
    began = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0)
    took = time.perf_counter() - began
    os.waitpid(pid, 0)
    return took * 1e3
print(_bench_fork())
"""
