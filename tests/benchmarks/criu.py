"""CRIU, where it is on PATH: the same kernel, dumped and restored."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.benchmarks.kernel import Client, CommandError

__all__ = ["dump_ms", "is_there", "restore_ms"]

_OPTIONS = ("--shell-job", "--tcp-established", "--ext-unix-sk", "--file-locks", "-v1")


def is_there() -> bool:
    return shutil.which("criu") is not None


def dump_ms(pid: int, images: Path, *, goes_on: bool) -> float:
    """Dump the tree, which goes on, or is ended.

    Raises:
        CommandError: with CRIU's last words.
    """
    images.mkdir()
    also = ("--leave-running",) if goes_on else ()
    began = time.perf_counter()
    _criu(images, "dump", "-t", str(pid), *also)
    return (time.perf_counter() - began) * 1e3


def restore_ms(images: Path, client: Client) -> tuple[float, float]:
    """CRIU's own time, and the time until the kernel answers.

    Raises:
        CommandError: with CRIU's last words.
    """
    began = time.perf_counter()
    _criu(images, "restore", "-d")
    took = time.perf_counter() - began
    client.first_reply()
    return took * 1e3, (time.perf_counter() - began) * 1e3


def _criu(images: Path, action: str, *words: str) -> None:
    log = images / f"{action}.log"
    result = subprocess.run(
        ["criu", action, "-D", str(images), "-o", log.name, *_OPTIONS, *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if result.returncode:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [line for line in lines if "Error" in line] or [result.stderr.strip()]
        raise CommandError(f"criu {action}: {errors[-1][:120]}")
