"""A snapshot's live twins: what makes it warm, and must end with it.

The engine parks them, and notes them in a file beside the image; it alone knows what
that file says. Another one names the server that ends them when it stops: those that it
was asked to leave, and those of the command line, have no such keeper.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.lease import Lease

if TYPE_CHECKING:
    from jupyter_cr.engine.twin import ParkedTwin

__all__ = [
    "TwinLimits",
    "Warm",
    "are_twins_alive",
    "claim_twins",
    "end_twins",
    "evict_twins",
    "keep_twins",
    "measure_twins",
]

_TWINS = "twins"
_KEEPER = "keeper"
_DAMAGED = (OSError, ValueError, KeyError, TypeError)
"""What reading a file that somebody has cut or edited may end in."""


class TwinLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What twins may cost. None: as much as they like."""

    bytes: int | None = None
    """Of memory, of all together, see `measure_twins`."""
    count: int | None = None
    """Of snapshots that have any."""
    age: float | None = None
    """Of their snapshots, in seconds."""


class Warm(NamedTuple):
    """A snapshot with living twins."""

    directory: Path
    name: str
    pid: int
    """That its root had."""
    created: str


def are_twins_alive(directory: Path) -> bool:
    """Whether all twins of a snapshot are there; without any, or where the file cannot
    be understood, they are not."""
    return bool(_read(directory))


def _read(directory: Path) -> list[ParkedTwin]:
    if not os.path.exists(f"{directory}/{_TWINS}"):
        return []
    # Imported where needed: few snapshots are warm.
    from jupyter_cr.engine.twin import read_twins

    try:
        return read_twins(directory)
    except _DAMAGED:
        return []


def end_twins(directory: Path) -> None:
    """End the twins of a snapshot, if it has any."""
    if (directory / _TWINS).exists():
        from jupyter_cr.engine.twin import release_twins

        with suppress(*_DAMAGED):
            release_twins(directory)


def keep_twins(directory: Path) -> None:
    """Have this process be the keeper of a snapshot's twins.

    Raises:
        StorageError: disk full, or not writable.
    """
    write_whole(directory / _KEEPER, _name(os.getpid()).encode(), durable=False)


def claim_twins(directory: Path) -> bool:
    """Become the keeper of a snapshot's twins if theirs has died without ending them. Only
    one process may do so at once.

    Returns:
        Whether they are ours now, and have not been before.

    Raises:
        StorageError: disk full, or not writable.
    """
    try:
        keeper = (directory / _KEEPER).read_text(encoding="ascii")
        pid = int(keeper.rpartition(":")[2])
    except (OSError, ValueError):
        return False
    if keeper == _name(pid):
        return False
    keep_twins(directory)
    return True


def _name(pid: int) -> str:
    """Of a process, and of none before or after it; empty if there is none."""
    from jupyter_cr.errors import CheckpointRestoreError
    from jupyter_cr.tracer.proc.stat import read_stat

    try:
        stat = read_stat(pid)
    except CheckpointRestoreError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    # A zombie ends nothing any more.
    return f"{boot}:{stat.starttime}:{pid}" if stat.state != "Z" else ""


def evict_twins(snapshots: Iterable[Warm], limits: TwinLimits) -> Iterator[str]:
    """End twins until those that are left are within limits, and give the names of their
    snapshots. None goes that a fork is being made of.

    Args:
        snapshots: the first to go first.
    """
    left = list(snapshots)
    for warm in tuple(left):
        if not _are_beyond(left, limits, time.time() - _seconds(warm.created)):
            return
        lease = Lease.seize(warm.directory)
        if lease is not None:
            with lease:
                end_twins(warm.directory)
            left.remove(warm)
            yield warm.name


def _are_beyond(snapshots: Sequence[Warm], limits: TwinLimits, age: float) -> bool:
    return (
        (limits.count is not None and len(snapshots) > limits.count)
        or (limits.age is not None and age > limits.age)
        or (limits.bytes is not None and measure_twins(snapshots) > limits.bytes)
    )


def _seconds(created: str) -> float:
    """Since the epoch; 0 where it cannot be told."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


def measure_twins(snapshots: Iterable[Warm]) -> int:
    """Bytes of memory that twins take, all together: what would be free without them.

    A page that several of them share counts once. One that their kernel has, too, does not
    count: it would have it anyway. What is counted is therefore how much less the kernel
    and they have in proportion (Pss_Anon, proc_pid_smaps(5)) than the kernel has in all
    (Anonymous); it lies between what only one twin each has, and their own proportional
    shares, whoever else shares the pages.
    """
    twins: dict[int, ParkedTwin] = {}
    roots: dict[int, int] = {}
    for warm in snapshots:
        for twin in _read(warm.directory):
            twins[twin.pid] = twin
            roots[warm.pid] = max(twin.starttime, roots.get(warm.pid, 0))
    if not twins:
        return 0
    alone, shared = 0, 0
    for pid in twins:
        memory = _memory(pid)
        alone += memory["Private_Dirty"] + memory["Private_Clean"]
        shared += memory["Pss_Anon"] + memory["Pss_Shmem"]
    beyond = shared
    for root, newest in roots.items():
        if root not in twins and _has_begun_before(root, newest):
            memory = _memory(root)
            beyond += memory["Pss_Anon"] - memory["Anonymous"]
    return max(alone, min(beyond, shared))


def _has_begun_before(pid: int, starttime: int) -> bool:
    """Whether it is the process that was cloned, and not a later one with its pid."""
    from jupyter_cr.errors import CheckpointRestoreError
    from jupyter_cr.tracer.proc.stat import read_stat

    try:
        return read_stat(pid).starttime <= starttime
    except CheckpointRestoreError:
        return False


def _memory(pid: int) -> dict[str, int]:
    """In bytes, by the names of proc_pid_smaps(5); nothing of a process that has ended."""
    found = dict.fromkeys(
        ("Private_Dirty", "Private_Clean", "Pss_Anon", "Pss_Shmem", "Anonymous"), 0
    )
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        for line in text.splitlines()[1:]:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) << 10
    return found
