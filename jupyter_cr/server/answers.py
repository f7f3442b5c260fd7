"""What the service results in, and which snapshots it can be asked for; as ``openapi.yaml``
beside this file describes them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from jupyter_cr import operations
from jupyter_cr.image import RunningRequest
from jupyter_cr.store import Snapshot, State

__all__ = [
    "CheckpointAnswer",
    "ForkAnswer",
    "Page",
    "Query",
    "RestoreAnswer",
    "TwinsAnswer",
]


class CheckpointAnswer(operations.CheckpointResult, frozen=True, kw_only=True):
    """A snapshot of a kernel was taken."""

    kernel_id: str
    path: str = ""
    """Of the notebook that was saved with it."""
    warnings: tuple[str, ...] = ()


class RestoreAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel is what it was."""

    kernel_id: str
    snapshot: str
    pid: int
    """Of its process, as seen by the server."""
    connection_file: str
    kept: str | None = None
    """The snapshot of what ran before; None if nothing ran, or it was not to be kept."""
    path: str = ""
    """Of the notebook that was brought back, too."""
    elapsed_ms: float
    """Of the engine."""
    warnings: tuple[str, ...] = ()
    running: tuple[RunningRequest, ...] = ()
    """Requests of front ends that the kernel goes on with."""
    position: str = ""
    """The snapshot that the kernel is at now: this one, or the one that it was taken at if
    it had only been taken to hibernate."""


class ForkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A new kernel runs, beside whatever ran before."""

    snapshot: str
    kernel_id: str
    pid: int
    """Of its process, as seen by the server."""
    connection_file: str
    path: str = ""
    """Of its notebook; empty if it has none."""
    session_id: str = ""
    key_renewed: bool = False
    """Whether it has a session key of its own, and not the one of its original."""
    elapsed_ms: float
    warnings: tuple[str, ...] = ()
    running: tuple[RunningRequest, ...] = ()
    position: str = ""
    """The snapshot that the new kernel is at."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which snapshots are wanted: those to which all of it applies."""

    kernel_id: str = ""
    path: str = ""
    q: str = ""
    """Occurs in name, note, cell, path or kernel name, in upper or lower case."""
    state: State | Literal[""] = ""
    points: bool = False
    """With points of timelines, which are left out otherwise."""
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=0)] = 100
    """0: no limit."""

    @property
    def is_by_kernel(self) -> bool:
        """Whether nothing but kernel and notebook has to be looked at."""
        return not (self.q or self.state or self.points)

    def matches(self, snapshot: Snapshot) -> bool:
        """Whether all applies to it."""
        texts = (
            snapshot.name,
            snapshot.note,
            snapshot.cell,
            snapshot.path,
            snapshot.kernel_name,
        )
        return (
            self.kernel_id in ("", snapshot.kernel_id)
            and self.path in ("", snapshot.path)
            and self.state in ("", snapshot.state)
            and any(self.q.casefold() in text.casefold() for text in texts)
        )


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the snapshots, newest first."""

    snapshots: tuple[Snapshot, ...]
    total: int
    """Of those that match."""
    positions: dict[str, str] = {}
    """Id of each kernel that they were taken of, or that is at one of them -> the snapshot
    that it last was at."""


class TwinsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept in memory for quick forks."""

    snapshots: tuple[str, ...]
    """Names of those that are, newest first."""
    bytes: int
    """Of memory that would be free without."""
