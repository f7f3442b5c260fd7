"""The directories of a store, and a catalogue made from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from jupyter_cr.errors import StorageError
from jupyter_cr.image.writer import MANIFEST
from jupyter_cr.store.entry import Entry, examine, is_id, new_id
from jupyter_cr.store.lease import is_held
from jupyter_cr.store.meta import Meta, read_meta, write_meta
from jupyter_cr.store.session import Session

__all__ = ["SNAPSHOTS", "adopt", "fill", "is_empty", "iter_directories"]

SNAPSHOTS = "snapshots"


def iter_directories(root: Path) -> Iterator[Path]:
    """Of all snapshots, also those that are being written or deleted. What somebody else
    has put there, links among it, is left alone."""
    with (
        suppress(FileNotFoundError, NotADirectoryError),
        os.scandir(root / SNAPSHOTS) as entries,
    ):
        for entry in entries:
            if is_id(entry.name) and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def is_empty(root: Path) -> bool:
    """Whether there is nothing that a catalogue could tell of."""
    return not (root / SNAPSHOTS).is_dir() and not _find_old(root)


def fill(root: Path, session: Session, may_change: bool) -> None:
    """Tell an empty catalogue what the directories say.

    Args:
        may_change: bring snapshots of before there was a catalogue to their place.
    """
    if may_change:
        _move_old(root)
    entries = []
    for directory in iter_directories(root):
        with suppress(FileNotFoundError):
            entries.append(_found(directory))
    for entry in sorted(entries, key=lambda entry: (entry.created, entry.id)):
        adopt(session, entry)
    session.guess_positions()


def _found(directory: Path) -> Entry:
    entry = examine(directory)
    if read_meta(directory).removed:
        return msgspec.structs.replace(entry, state="removed", name=None)
    if is_held(directory) or not (directory / MANIFEST).exists():
        # Being written; or it was, and nobody does any more: then it is cleared.
        return msgspec.structs.replace(entry, state="saving", saved=0.0, problem="")
    return entry


def adopt(session: Session, entry: Entry) -> Entry:
    """Add a snapshot to the catalogue, under another name where its own is taken."""
    if entry.name is not None:
        name, number = entry.name, 1
        while session.find(name) is not None:
            number += 1
            name = f"{entry.name[:100]}-{number}"
        entry = msgspec.structs.replace(entry, name=name)
    session.insert(entry)
    return entry


def _find_old(root: Path) -> list[Path]:
    """Snapshots of before there was a catalogue, which were ``ROOT/NAME``."""
    found = []
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            path = Path(entry.path)
            if (
                entry.name[0] != "."
                and entry.name != SNAPSHOTS
                and entry.is_dir(follow_symlinks=False)
                and (path / MANIFEST).is_file()
            ):
                found.append(path)
    return found


def _move_old(root: Path) -> None:
    for path in _find_old(root):
        with suppress(OSError, StorageError):
            (root / SNAPSHOTS).mkdir(mode=0o700, exist_ok=True)
            note = None
            with suppress(OSError):
                note = (path / "note").read_text(encoding="utf-8", errors="replace")
            write_meta(path, Meta(name=path.name, note=note))
            path.rename(root / SNAPSHOTS / new_id())
