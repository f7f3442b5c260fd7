"""Snapshots of nothing in particular, and processes that one could take for twins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from jupyter_cr.engine.twin import ParkedTwin
from jupyter_cr.image import Document, Header, ImageWriter, Outcome
from jupyter_cr.image.records import KernelFacts, NotebookFacts, ProcessOutcome
from jupyter_cr.store import Store
from jupyter_cr.tracer.proc.stat import read_stat

CREATED = "2026-01-01T00:00:00.000000+00:00"


def header(
    name: str, created: str = CREATED, *, kernel_id: str = "", automatic: str = ""
) -> Header:
    return Header(
        name=name,
        note="a note",
        created=created,
        pid=77,
        comm="python3",
        kernel=KernelFacts(kernel_name="python3", kernel_id=kernel_id),
        notebook=NotebookFacts(path="a.ipynb" if kernel_id else ""),
        release="6.1",
        machine="x86_64",
        tool="0.1.0",
        automatic=automatic,
    )


SIZE = 8192
"""Bytes of memory in a snapshot, unless something else is said."""


def pack_of(directory: Path) -> Path:
    """Where the pages are that a snapshot was the first to have."""
    return directory.parent.parent / "packs" / f"{directory.name}.pack"


def fill(writer: ImageWriter, head: Header, pages: bytes | None = None) -> None:
    """Write all that a snapshot has; it is not committed."""
    if pages is None:
        pages = os.urandom(SIZE)
    writer.add(head)
    if head.kernel.kernel_id:
        writer.add(Document(content=b"{}"))
    writer.append(pages)
    processes = (ProcessOutcome(77, "python3", 3, 10, len(pages)),)
    writer.add(
        Outcome(downtime_ms=9.5, elapsed_ms=50, bytes=len(pages), processes=processes)
    )


def take(
    store: Store,
    name: str,
    created: str = CREATED,
    *,
    kernel_id: str = "",
    automatic: str = "",
    named: bool = True,
    parent: str | None = None,
    pages: bytes | None = None,
) -> Path:
    """Its directory."""
    with store.create(name, parent=parent, named=named) as writer:
        head = header(name, created, kernel_id=kernel_id, automatic=automatic)
        fill(writer, head, pages)
        writer.commit(durable=False)
    return store.path(name)


def directories(store: Store) -> list[Path]:
    """What is in ``snapshots``, whatever it is."""
    found = store.root / "snapshots"
    return sorted(found.iterdir()) if found.exists() else []


def twins_of(*pids: int) -> bytes:
    """What the engine would have noted, had these processes been twins."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    twins = [ParkedTwin(1, pid, read_stat(pid).starttime, 0, 4096, 64, 64) for pid in pids]
    return json.dumps({"boot": boot_id, "twins": [asdict(twin) for twin in twins]}).encode()


@contextmanager
def program(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python code in a process of its own, with pipes; killed at last."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str]) -> str:
    """The next one that a program prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")
