"""Lines of lists: what the catalogue says of snapshots, and how they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from jupyter_cr.errors import StorageError
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import (
    MISSING,
    UNFINISHED,
    Entry,
    Examined,
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
        if entry.state in UNFINISHED:
            if not is_attended(directory, entry):
                # Whoever wrote it is dead, and nobody has cleared it yet.
                continue
            entry = replace(entry, own=own_usage(directory))
        elif entry.state == "locked" or fingerprint(directory) != entry.fingerprint:
            found = _looked_at(entry, directory)
            if found.entry != entry:
                changed.append(found)
            entry = found.entry
        shown.append(_snapshot(entry, names.get(entry.parent, ""), directory))
    if changed:
        # Where it can be written.
        with suppress(StorageError):
            catalogue.write(lambda session: _correct(session, root, changed))
    return shown


def _looked_at(entry: Entry, directory: Path) -> Examined:
    try:
        found, usage = examine(directory)
    except FileNotFoundError:
        problem = f"Its directory {directory} is gone."
        gone = replace(entry, state="corrupt", problem=problem, own=0, fingerprint=MISSING)
        return Examined(gone, {})
    fields = {field: getattr(found, field) for field in _FOUND_OUT}
    if entry.state == "locked":
        # Nothing has been known of it.
        fields = {field: getattr(found, field) for field in (*_FOUND_OUT, *_OF_IMAGES)}
    return Examined(replace(entry, **fields), usage)


def _correct(session: Session, root: Path, changed: Iterable[Examined]) -> None:
    for entry, usage in changed:
        fields = {field: getattr(entry, field) for field in (*_FOUND_OUT, *_OF_IMAGES)}
        if usage:
            unknown = [pack for pack in usage if not session.packs.has(pack)]
            add_packs(session, root, unknown)
            fields["shared"] = session.packs.use(entry.id, usage)
        session.update(entry.id, **fields)


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
        problem=entry.problem,
    )
