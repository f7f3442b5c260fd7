"""Real programs to checkpoint, and a snapshot kept in memory to look at."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import psutil

from jupyter_cr.engine import pages
from jupyter_cr.engine.checkpoint import CheckpointOutcome, checkpoint_tree
from jupyter_cr.engine.state import process
from jupyter_cr.engine.streams import PAGE

ROOT = Path(__file__).resolve().parents[2]
ORDINARY_UID = 20001
LIMIT = 60.0
"""Seconds that anything may take before a test gives up."""

R = TypeVar("R", bound=msgspec.Struct)


class MemoryWriter:
    """A `SnapshotWriter` that keeps everything in memory. A context manager."""

    base = None

    def __init__(self) -> None:
        self.pages = bytearray()
        self.added: list[msgspec.Struct] = []

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """It goes with its last user."""

    def add(self, record: msgspec.Struct) -> None:
        self.added.append(record)

    def append(self, data: bytes | memoryview) -> int:
        offset = len(self.pages)
        self.pages += data
        self.pages += bytes(-len(data) % PAGE)
        return offset

    def append_unchanged(self, offset: int, length: int) -> int:
        raise AssertionError(f"{length} bytes at {offset} of no earlier snapshot")

    def publish(self) -> None:
        raise AssertionError("a snapshot without twins has been published")

    def attach(self, name: str, content: bytes) -> None:
        raise AssertionError(f"{name} attached to a snapshot that is in memory only")

    def commit(self, durable: bool = True) -> None:
        """Nobody else looks at it."""

    def records(self, cls: type[R]) -> list[R]:
        return [record for record in self.added if isinstance(record, cls)]

    def process(self, pid: int) -> process.Record:
        """The record of the process with that (innermost) pid."""
        return next(r for r in self.records(process.Record) if r.pid == pid)

    def stored(self, pid: int, address: int, size: int) -> bytes | None:
        """Bytes that the snapshot has for a range of private memory; None if it does
        not store all of it."""
        (record,) = (r for r in self.records(pages.Record) if r.pid == pid)
        found = b""
        for start, length, offset in record.runs:
            at = address + len(found)
            if start <= at < start + length:
                take = min(size - len(found), start + length - at)
                found += self.pages[offset + at - start :][:take]
        return found if len(found) == size else None


@contextmanager
def checkpointed(pid: int) -> Iterator[tuple[CheckpointOutcome, MemoryWriter]]:
    """A snapshot of the tree of process `pid`."""
    with MemoryWriter() as writer:
        yield checkpoint_tree(pid, writer), writer


def checkpoint(pid: int, times: int = 1) -> None:
    """Checkpoint the tree of process `pid` and forget the snapshot."""
    for _ in range(times):
        with checkpointed(pid):
            pass


def wait_until(condition: Callable[[], object], what: str = "condition") -> None:
    """Poll; a test fails after `LIMIT` seconds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT} s"
        time.sleep(0.005)


class Program:
    """A running program that talks in lines: what it prints, and what it is told."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def line(self, limit: float = LIMIT) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + limit
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([fd], [], [], max(0, left))
            assert ready, f"nothing printed for {limit} s: {self.describe()}"
            data = os.read(fd, 65536)
            assert data, f"it ended with {self.process.wait(LIMIT)}: {self._buffer!r}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def has_line(self) -> bool:
        """Whether it has printed something that has not been looked at."""
        assert self.process.stdout is not None
        return bool(self._buffer or select.select([self.process.stdout], [], [], 0)[0])

    def expect(self, line: str) -> None:
        found = self.line()
        assert found == line, f"printed {found!r}, not {line!r}"

    def ask(self, line: str) -> str:
        """Tell it something, and give its answer."""
        self.tell(line)
        return self.line()

    def describe(self) -> str:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text()[:80]
        return "gone"

    def end(self) -> None:
        """Kill it with all its descendants and whoever is left of its session."""
        family = [self.pid]
        with suppress(psutil.Error):
            family += [p.pid for p in psutil.Process(self.pid).children(recursive=True)]
        family += session_of(self.pid)
        for pid in dict.fromkeys(family):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def session_of(leader: int) -> list[int]:
    """All processes of the session that `leader` leads."""
    found = []
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


@contextmanager
def program(code: str, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Program]:
    """A Python program, which prints ``ready`` when it is; killed at the end."""
    running = Program([*prefix, sys.executable, "-c", code, *arguments])
    try:
        running.expect("ready")
        yield running
    finally:
        running.end()


SERVE = """
import sys
def serve(scope):
    '''Evaluate lines, print what they give.'''
    print("ready", flush=True)
    for line in sys.stdin:
        print(eval(line, scope), flush=True)
"""
"""Goes before a program that ends in ``serve(globals())``."""


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _hidden(path: Path) -> Path | None:
    """The first directory on the way to `path` that other users may not pass."""
    for parent in [*reversed(path.parents), path]:
        if parent.is_dir() and not parent.stat().st_mode & 0o001:
            return parent
    return None


_SHOW = """
set -e
mount -t tmpfs -o mode=755 none /mnt
hidden=$1 count=$2; shift 2
i=0
for path in "$@"; do
    i=$((i + 1)); [ $i -gt $count ] && break
    mkdir /mnt/$i; mount --bind "$path" /mnt/$i
done
for directory in $hidden; do mount -t tmpfs -o mode=755 none "$directory"; done
i=0
while [ $i -lt $count ]; do
    i=$((i + 1)); mkdir -p "$1"; mount --bind /mnt/$i "$1"; shift
done
exec "$@"
"""


def as_user(argv: Sequence[str]) -> list[str]:
    """The command, to be run as an ordinary user without any capability.

    When run by root, whose home may hold the interpreter and be closed to others: in a
    mount namespace of its own, what is needed is shown where it is. When not run by
    root, the command itself.
    """
    if os.geteuid():
        return list(argv)
    needed = {Path(p).resolve() for p in (sys.base_prefix, sys.prefix, ROOT)}
    hidden = {path: _hidden(path) for path in needed}
    shown = [str(path) for path in sorted(needed) if hidden[path] is not None]
    closed = " ".join(sorted({str(d) for d in hidden.values() if d is not None}))
    become = [
        "setpriv",
        f"--reuid={ORDINARY_UID}",
        f"--regid={ORDINARY_UID}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    if not shown:
        return [*become, *argv]
    show = ["unshare", "--mount", "sh", "-c", _SHOW, "sh", closed, str(len(shown)), *shown]
    return [*show, *become, *argv]


def can_become_user() -> bool:
    """Whether `as_user` works here."""
    if any(shutil.which(tool) is None for tool in ("setpriv", "unshare", "mount")):
        return False
    probe = as_user([sys.executable, "-c", "import msgspec"])
    return subprocess.run(probe, capture_output=True, timeout=LIMIT).returncode == 0
