"""How much memory is left."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from jupyter_cr.server.memory import available_memory

MIB = 1 << 20


def group(directory: Path, limit: str, used: int, inactive_file: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    stat = f"anon 1\nfile 2\ninactive_file {inactive_file}\n"
    (directory / "memory.stat").write_text(stat)


def test_of_this_machine() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total


def test_of_the_narrowest_group(tmp_path: Path) -> None:
    """In files like Linux's; the group is the one that this process is in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not names:
        pytest.skip("there are no control groups of version 2")
    own = tmp_path / names[0]
    group(tmp_path, "max", 900 * MIB, 0)
    group(own / ".", str(64 * MIB), 60 * MIB, 10 * MIB)
    assert available_memory(tmp_path) == 14 * MIB
    group(own / ".", str(64 * MIB), 80 * MIB, 0)
    assert available_memory(tmp_path) == 0


def test_without_groups(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 64 * MIB
