"""Whether a snapshot's live twins are still there: what makes it warm.

The engine leaves a file ``twins`` beside the image, in JSON::

    {"boot_id": "...", "processes": [{"pid": 123, "starttime": 456}, ...]}

``pid`` as this host's user sees it, ``starttime`` in clock ticks since boot (field 22
of proc_pid_stat(5)), ``boot_id`` from /proc/sys/kernel/random/boot_id.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["TWINS", "TwinProcess", "Twins", "are_twins_alive"]

TWINS = "twins"


class TwinProcess(msgspec.Struct, frozen=True):
    """One twin: a pid, and what tells it from a later process with the same."""

    pid: int
    starttime: int


class Twins(msgspec.Struct, frozen=True):
    """What the file says."""

    boot_id: str
    processes: tuple[TwinProcess, ...]


def are_twins_alive(directory: Path) -> bool:
    """Whether every twin that a snapshot was left with is alive.

    No file, or one that cannot be read, means that there are none.
    """
    try:
        twins = msgspec.json.decode((directory / TWINS).read_bytes(), type=Twins)
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, msgspec.MsgspecError):
        return False
    return twins.boot_id == boot_id and all(map(_is_alive, twins.processes))


def _is_alive(twin: TwinProcess) -> bool:
    try:
        stat = Path(f"/proc/{twin.pid}/stat").read_bytes()
    except OSError:
        return False
    # The name, field 2, is in parentheses and may hold anything: count after it.
    state, *fields = stat.rpartition(b")")[2].split()
    return state not in (b"Z", b"X") and int(fields[18]) == twin.starttime
