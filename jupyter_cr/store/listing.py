"""Lines of lists: what the catalogue says of snapshots, and how they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from jupyter_cr.errors import StorageError
from jupyter_cr.image.page_map import Interval
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import (
    ATTENDED,
    MISSING,
    UNFINISHED,
    Entry,
    examine,
    fingerprint,
    own_usage,
)
from jupyter_cr.store.garbage import is_attended
from jupyter_cr.store.layout import SNAPSHOTS
from jupyter_cr.store.packs import add_packs
from jupyter_cr.store.session import Session
from jupyter_cr.store.snapshot import Snapshot, State
from jupyter_cr.store.twins import are_twins_alive

__all__ = ["parents_of", "show"]

Usage = Mapping[str, Sequence[Interval]]
"""Pages of packs, see `jupyter_cr.store.entry.Examined`."""
_OF_IMAGES = (
    "created",
    "note",
    "kernel_id",
    "kernel_name",
    "path",
    "has_document",
    "automatic",
    "pid",
    "comm",
    "logical",
    "processes",
    "downtime_ms",
    "cell",
)
"""Those that an image determines, and its meta."""
_FOUND_OUT = ("state", "problem", "own", "trusted", "fingerprint")
"""Fields of an `Entry` that say how its image is."""


def parents_of(session: Session, entries: Sequence[Entry]) -> dict[str, str]:
    """Names of the parents of snapshots, by id."""
    names = {entry.id: entry.name or "" for entry in entries}
    for entry in entries:
        if entry.parent and entry.parent not in names:
            names[entry.parent] = session.name_of(entry.parent)
    return names


def show(
    catalogue: Catalogue, root: Path, entries: Iterable[Entry], names: Mapping[str, str]
) -> list[Snapshot]:
    """Snapshots as they are now. Where an image is not what the catalogue knew, it is told.

    Args:
        names: of parents, by id.
    """
    shown, changed = [], []
    snapshots = root / SNAPSHOTS
    for entry in entries:
        directory = snapshots / entry.id
        if entry.state in ATTENDED and not is_attended(directory, entry):
            # Whoever wrote it is dead, or its twins are, and nobody has cleared it yet.
            continue
        if entry.state in UNFINISHED:
            entry = replace(entry, own=own_usage(directory))
        elif entry.state == "locked" or fingerprint(directory) != entry.fingerprint:
            fields, usage = _looked_at(entry, directory)
            if (found := replace(entry, **fields)) != entry:
                changed.append(_Changed(entry.id, fields, usage))
            entry = found
        shown.append(_snapshot(entry, names.get(entry.parent, ""), directory))
    if changed:
        # Where it can be written.
        with suppress(StorageError):
            catalogue.write(lambda session: _correct(session, root, changed))
    return shown


class _Changed(NamedTuple):
    """What has been found out about a snapshot: fields of its `Entry`, and no others, as
    somebody may be changing those."""

    id: str
    fields: dict[str, Any]
    usage: Usage


def _looked_at(entry: Entry, directory: Path) -> tuple[dict[str, Any], Usage]:
    try:
        found, usage = examine(directory)
    except FileNotFoundError:
        problem = f"Its directory {directory} is gone."
        gone = {"state": "corrupt", "problem": problem, "own": 0, "fingerprint": MISSING}
        return gone, {}
    # Of one that is locked, nothing has been known.
    wanted = (*_FOUND_OUT, *_OF_IMAGES) if entry.state == "locked" else _FOUND_OUT
    return {field: getattr(found, field) for field in wanted}, usage


def _correct(session: Session, root: Path, changed: Iterable[_Changed]) -> None:
    for id_, fields, usage in changed:
        if usage:
            unknown = [pack for pack in usage if not session.packs.has(pack)]
            add_packs(session, root, unknown)
            fields = {**fields, "shared": session.packs.use(id_, usage)}
        session.update(id_, **fields)


def _snapshot(entry: Entry, parent: str, directory: Path) -> Snapshot:
    state: State
    if entry.state == "durable":
        state = "warm" if are_twins_alive(directory) else "durable"
    else:
        assert entry.state != "removed"
        state = entry.state
    return Snapshot(
        name=entry.name or "",
        id=entry.id,
        state=state,
        saved=entry.saved,
        created=entry.created,
        bytes=entry.own + entry.shared,
        logical=entry.logical,
        own=entry.own,
        shared=entry.shared,
        named=entry.named,
        parent=parent,
        tags=entry.tags,
        trusted=entry.trusted,
        signer=entry.signer,
        note=entry.note,
        kernel_id=entry.kernel_id,
        kernel_name=entry.kernel_name,
        path=entry.path,
        has_document=entry.has_document,
        automatic=entry.automatic,
        pid=entry.pid,
        comm=entry.comm,
        processes=entry.processes,
        downtime_ms=entry.downtime_ms,
        cell=entry.cell,
        problem=entry.problem,
    )
