"""What can be asked of the server: the same over HTTP and from a kernel's own socket."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from jupyter_cr.errors import UsageError
from jupyter_cr.operations import Progress
from jupyter_cr.server.service import SnapshotService

__all__ = [
    "OPERATIONS",
    "AdoptRequest",
    "Asked",
    "CheckpointRequest",
    "DiffRequest",
    "DiffSnapshotRequest",
    "ForkRequest",
    "ForkSnapshotRequest",
    "HibernateRequest",
    "ImportRequest",
    "KeepRequest",
    "OperationRequest",
    "ResetRequest",
    "RestoreRequest",
    "TimelineRequest",
    "TravelRequest",
    "UndoRequest",
    "UpdateRequest",
    "convert_fields",
    "decode_body",
]


class Asked(NamedTuple):
    """Of which kernel something is asked, and by whom.

    Attributes:
        progress: told how far it is.
        from_within: a process of the kernel has asked for it.
    """

    kernel_id: str
    progress: Progress
    from_within: bool = False


class OperationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An operation on a kernel."""

    @property
    def subject(self) -> str | None:
        """The name of the snapshot that is asked for; None if that is left open."""
        return None

    @abstractmethod
    async def run(self, service: SnapshotService, asked: Asked) -> object:
        """Do it.

        Raises:
            CheckpointRestoreError: as the service does.
        """


class CheckpointRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    name: str | None = None
    note: str = ""
    warm: bool = False
    memory_only: bool = False
    document: bool = True
    until: Literal["durable", "live"] = "durable"

    @property
    def subject(self) -> str | None:
        return self.name

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.checkpoint(
            asked.kernel_id,
            name=self.name,
            note=self.note,
            warm=self.warm,
            memory_only=self.memory_only,
            document=self.document,
            until=self.until,
            progress=asked.progress,
        )


class HibernateRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    note: str = ""

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.hibernate(
            asked.kernel_id, note=self.note, progress=asked.progress
        )


class RestoreRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    snapshot: str
    keep: bool = True
    document: bool = False
    lazy: bool = False
    queue: bool = False
    """Run what waits in the snapshot, also if a cell of the kernel itself asks for it."""

    @property
    def subject(self) -> str | None:
        return self.snapshot

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.restore(
            asked.kernel_id,
            self.snapshot,
            keep=self.keep,
            document=self.document,
            lazy=self.lazy,
            asked_within=asked.from_within and not self.queue,
            progress=asked.progress,
        )


class ResetRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    """Without a snapshot, to the one that the kernel was forked from."""

    snapshot: str = ""
    keep: bool = True
    document: bool = False

    @property
    def subject(self) -> str | None:
        return self.snapshot or None

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.reset(
            asked.kernel_id,
            self.snapshot,
            keep=self.keep,
            document=self.document,
            asked_within=asked.from_within,
            progress=asked.progress,
        )


class ForkRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    """Of a snapshot; without one, of the kernel as it is now."""

    snapshot: str | None = None
    path: str | None = None
    document: bool = True
    hold: bool = False
    """Leave the snapshot that the kernel is forked from to whoever asks."""

    @property
    def subject(self) -> str | None:
        return self.snapshot

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        if self.snapshot is None:
            return await service.fork_kernel(
                asked.kernel_id,
                path=self.path,
                document=self.document,
                hold=self.hold,
                progress=asked.progress,
            )
        return await service.fork(
            self.snapshot,
            path=self.path,
            document=self.document,
            asked_by=asked.kernel_id if asked.from_within else None,
            progress=asked.progress,
        )


class AdoptRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    """Have a fork take the place of the kernel."""

    fork: str
    keep: bool = True

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.adopt(
            asked.kernel_id, self.fork, keep=self.keep, progress=asked.progress
        )


class UndoRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        return await service.undo(
            asked.kernel_id,
            self.steps,
            asked_within=asked.from_within,
            progress=asked.progress,
        )


class DiffRequest(OperationRequest, frozen=True, forbid_unknown_fields=True):
    """Two snapshots; or one, and the kernel as it is now."""

    before: str
    after: str | None = None
    variables: bool = True

    @property
    def subject(self) -> str | None:
        return self.before

    async def run(self, service: SnapshotService, asked: Asked) -> object:
        if self.after is None:
            return await service.compare_now(
                asked.kernel_id,
                self.before,
                variables=self.variables,
                progress=asked.progress,
            )
        return await service.compare(self.before, self.after, variables=self.variables)


class DiffSnapshotRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How another one differs from the snapshot that the address names."""

    after: str
    variables: bool = True


class ForkSnapshotRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the snapshot that the address names."""

    path: str | None = None
    document: bool = True


class ImportRequest(msgspec.Struct, frozen=True):
    """Of a bundle, which is the body; this is the query."""

    name: str = ""
    """Of the snapshot here; empty: the one that it had, or one like it."""
    source: str = "the bundle"
    """What it is called, for messages."""


class UpdateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not given stays as it is."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    note: str | msgspec.UnsetType = msgspec.UNSET
    tags: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class TimelineRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether there is to be a point before each cell of the kernel."""

    is_on: bool


class TravelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To which point of its timeline the kernel is to go: so many back (negative) or
    forward, or the one of that name."""

    steps: Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)] = 0
    point: str = ""
    keep: bool = True
    document: dict[str, Any] | None = None


class KeepRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a point is called that is to stay."""

    name: str
    note: str = ""


OPERATIONS: Mapping[str, type[OperationRequest]] = {
    "checkpoint": CheckpointRequest,
    "hibernate": HibernateRequest,
    "restore": RestoreRequest,
    "reset": ResetRequest,
    "fork": ForkRequest,
    "adopt": AdoptRequest,
    "undo": UndoRequest,
    "diff": DiffRequest,
}

T = TypeVar("T")

_HINT = "jupyter-cr/openapi.yaml says what is understood."


def decode_body(body: bytes, type_: type[T]) -> T:
    """What the body of a request says; an empty one is an empty object.

    Raises:
        UsageError: it is no JSON, or not what is understood here.
    """
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The request's body is not understood: {error}.", _HINT
        ) from error


def convert_fields(fields: Mapping[str, Any], type_: type[T], *, strict: bool = True) -> T:
    """What the fields of a request say.

    Args:
        strict: numbers are numbers already, and not text, as in an address.

    Raises:
        UsageError: that is not what is understood here.
    """
    try:
        return msgspec.convert(fields, type_, strict=strict)
    except msgspec.MsgspecError as error:
        raise UsageError(f"The request is not understood: {error}.", _HINT) from error
