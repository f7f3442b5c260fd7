"""How much memory is left, for this process and those that it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["available_memory"]

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory(root: Path = _CGROUPS) -> int:
    """Bytes that can be taken without anything being swapped out or killed: of the
    machine, and of every control group (version 2) that this process is in.

    Sources: proc_meminfo(5), cgroup-v2 ("memory.current", "inactive_file").
    """
    return min(
        int(psutil.virtual_memory().available),
        *_iter_available(root, _group()),
        # So that there is always something to take the minimum of.
        1 << 63,
    )


def _group() -> str:
    """Path of our group, as seen in its control group namespace."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                return line[4:]
    return ""


def _iter_available(root: Path, group: str) -> Iterator[int]:
    for directory in (root / group, *(root / group).parents):
        if not directory.is_relative_to(root):
            return
        with suppress(OSError, ValueError, KeyError):
            limit = int((directory / "memory.max").read_text())
            used = int((directory / "memory.current").read_text())
            lines = (directory / "memory.stat").read_text().splitlines()
            reclaimable = int(dict(line.split() for line in lines)["inactive_file"])
            yield max(0, limit - used + reclaimable)
