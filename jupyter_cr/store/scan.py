"""The directories of a store, and a catalogue made from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store.entry import Entry, Examined, examine, is_id
from jupyter_cr.store.layout import SNAPSHOTS
from jupyter_cr.store.meta import read_meta
from jupyter_cr.store.packs import add_packs, names_on_disk
from jupyter_cr.store.session import Session

__all__ = ["adopt", "fill", "is_empty", "iter_directories"]


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
    return not (root / SNAPSHOTS).is_dir()


def fill(root: Path, session: Session) -> None:
    """Tell an empty catalogue what the directories say."""
    add_packs(session, root)
    found = []
    for directory in iter_directories(root):
        with suppress(FileNotFoundError):
            found.append(_found(directory))
    for one in sorted(found, key=lambda one: (one.entry.created, one.entry.id)):
        adopt(session, root, one)
    session.guess_positions()


def _found(directory: Path) -> Examined:
    entry, usage = examine(directory)
    if read_meta(directory).removed:
        entry = msgspec.structs.replace(entry, state="removed", name=None)
    elif not (directory / MANIFEST).exists():
        # Being written; or it was, and nobody does any more: then it is cleared. Whose
        # lease is held tells nothing: it may be by whoever only looks at it.
        entry = msgspec.structs.replace(entry, state="saving", saved=0.0, problem="")
    return Examined(entry, usage)


def adopt(session: Session, root: Path, found: Examined) -> Entry:
    """Add a snapshot to the catalogue, under another name where its own is taken."""
    entry, usage = found
    if entry.name is not None:
        name, number = entry.name, 1
        while session.find(name) is not None:
            number += 1
            name = f"{entry.name[:100]}-{number}"
        entry = msgspec.structs.replace(entry, name=name)
    shared = session.packs.use(entry.id, usage)
    session.insert(msgspec.structs.replace(entry, shared=shared))
    if entry.state in ("saving", "future", "locked"):
        # There is no telling what it needs.
        session.packs.claim(entry.id, names_on_disk(root))
    return entry
