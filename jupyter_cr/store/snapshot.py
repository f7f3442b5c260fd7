"""What the store says of its snapshots."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "FOR_A_COMPARISON",
    "FOR_A_FORK",
    "FOR_LESSONS",
    "HIBERNATED",
    "TIMELINE",
    "Freed",
    "Pruned",
    "Snapshot",
    "State",
]

HIBERNATED = "hibernated"
"""`Snapshot.automatic` of one whose tree was ended, to go on when it is restored."""

TIMELINE = "timeline"
"""`Snapshot.automatic` of a point of a kernel's timeline, which is in memory only and goes
by itself."""

FOR_A_COMPARISON = "for a comparison"
"""`Snapshot.automatic` of one that goes as soon as it has been compared."""

FOR_A_FORK = "for a fork"
"""The same of one that goes as soon as forks have been made of it."""

FOR_LESSONS = "for lessons"
"""The same of one in memory only, from which all kernels of a lesson are forked, so that
they share its pages."""

State = Literal[
    "saving", "live", "memory", "warm", "durable", "corrupt", "future", "locked"
]
"""``saving``: being written; ``live``: being written, and its twins can be forked already;
``memory``: in its twins only, and gone with them;
``durable``: on disk; ``warm``: on disk, and its twins live; ``corrupt``: damaged;
``future``: written by a later release; ``locked``: encrypted, and its key not at hand."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of snapshots."""

    name: str
    id: str = ""
    """Of its directory; stays what it is when the name changes."""
    state: State
    saved: float = 1.0
    """How much of it is on disk, from 0 to 1."""
    created: str
    """UTC, ISO 8601; where its image cannot tell, when its directory last changed."""
    bytes: int
    """On disk: `own` and `shared`."""
    logical: int = 0
    """Bytes of memory that it holds."""
    own: int = 0
    """Bytes on disk of its image, and of the pages that it was the first to have."""
    shared: int = 0
    """Bytes on disk, about, of pages that were there before it."""
    named: bool = True
    """Whether somebody asked for its name, or it was made up."""
    parent: str = ""
    """Name of the snapshot that the kernel was at before; empty if of none."""
    tags: tuple[str, ...] = ()
    trusted: bool = True
    """Whether it was taken here, or its owner has said that it may be restored."""
    signer: str = ""
    """Public key (hexadecimal) of whoever has exported it, if it came from elsewhere."""
    note: str = ""
    kernel_id: str = ""
    kernel_name: str = ""
    path: str = ""
    """Of the notebook that the kernel worked for, as the server named it."""
    has_document: bool = False
    automatic: str = ""
    """Why it was taken without being asked for; empty if it was."""
    pid: int = 0
    comm: str = ""
    processes: int = 0
    downtime_ms: float | None = None
    cell: str = ""
    """Prompt and first line of the cell that was run last, or, with `[*]`, that ran; empty
    if that is not known, or encrypted."""
    problem: str = ""
    """What is wrong with a snapshot that cannot be used."""

    @property
    def is_point(self) -> bool:
        """Whether it is a point of a timeline, which goes by itself. One to which somebody
        has given a name is a snapshot as others are."""
        return self.automatic == TIMELINE


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """What a removal, or the collection of garbage, has given back."""

    bytes: int = 0
    """On disk."""
    names: tuple[str, ...] = ()
    """Snapshots that were removed, by name, or by id where they had none any more."""
    held: tuple[str, ...] = ()
    """Those of them that somebody still reads: they go with the last reader."""
    found: tuple[str, ...] = ()
    """Snapshots that the catalogue had not known of, and does now."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy has removed, or would remove."""

    policy: str
    removed: tuple[Snapshot, ...]
    kept: int
    """How many there are still."""
    bytes: int
    """That were given back, or would be."""
    dry_run: bool
