"""What goes: snapshots that were removed, what killed processes have left, and what the
catalogue says that is not so."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import ATTENDED, UNFINISHED, Entry, disk_usage, examine
from jupyter_cr.store.layout import SNAPSHOTS
from jupyter_cr.store.lease import LEASE, Lease, is_held
from jupyter_cr.store.meta import write_meta
from jupyter_cr.store.packs import add_packs, collect_packs, idle_packs
from jupyter_cr.store.scan import adopt, iter_directories
from jupyter_cr.store.session import Session
from jupyter_cr.store.snapshot import Freed
from jupyter_cr.store.staging import stale_stagings
from jupyter_cr.store.twins import are_twins_alive, end_twins

__all__ = [
    "are_unattended",
    "clean",
    "collect",
    "delete",
    "delete_removed",
    "forget",
    "is_attended",
    "is_lost",
]


def delete(directory: Path) -> int | None:
    """Delete a snapshot, but for its pages, end its twins, and say how many bytes that
    gave back; None if somebody writes or reads it. One that is gone has given back nothing.

    Raises:
        StorageError: the store is not writable.
    """
    if not os.path.lexists(directory):
        return 0
    lease = Lease.seize(directory)
    if lease is None:
        return None if os.path.lexists(directory) else 0
    with lease, storage_errors(directory):
        size = disk_usage(*directory.iterdir())
        end_twins(directory)
        _delete_content(directory)
    return size


def _delete_content(directory: Path) -> None:
    """And the directory. Without a manifest, nobody takes the rest for a snapshot; and the
    lease is the last to go: whoever comes in between makes a new one, and goes on here."""
    (directory / MANIFEST).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LEASE:
                path.unlink(missing_ok=True)
        (directory / LEASE).unlink(missing_ok=True)
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def forget(session: Session, root: Path, entries: Iterable[Entry]) -> None:
    """Have the catalogue say of snapshots that they are removed. Their children become
    those of their parents, and kernels that were at them are at these."""
    orphaned = set()
    for entry in entries:
        # As it is by now: its own parent may have gone before it.
        parent = (session.get(entry.id) or entry).parent
        for child in session.children(entry.id):
            session.update(child.id, parent=parent)
            orphaned.add(child.id)
        session.move_positions(entry.id, parent)
        session.update(entry.id, name=None, state="removed")
    for id_ in orphaned:
        orphan = session.get(id_)
        if orphan is not None and orphan.state != "removed":
            # The catalogue has it; that a copy could not be made is no reason to stop.
            with suppress(StorageError):
                write_meta(root / SNAPSHOTS / id_, orphan.meta)


def delete_removed(
    catalogue: Catalogue, root: Path, entries: Iterable[Entry]
) -> tuple[int, list[str]]:
    """Delete what the catalogue says is removed.

    Returns:
        How many bytes that gave back, and ids of those that somebody still reads.

    Raises:
        StorageError: the store is not writable.
    """
    total = 0
    gone: list[str] = []
    held: list[str] = []
    packs: set[str] = set()

    def delete_rows(session: Session) -> None:
        packs.update(session.packs.used_by(gone))
        for id_ in gone:
            session.delete(id_)

    try:
        for entry in entries:
            directory = root / SNAPSHOTS / entry.id
            size = delete(directory)
            if size is None:
                held.append(entry.id)
                _mark_removed(catalogue, directory)
            else:
                total += size
                gone.append(entry.id)
    finally:
        if gone:
            catalogue.write(delete_rows)
    return total + collect_packs(catalogue, root, packs), held


def _mark_removed(catalogue: Catalogue, directory: Path) -> None:
    entry = catalogue.read(lambda session: session.get(directory.name))
    if entry is not None:
        with suppress(StorageError):
            write_meta(directory, entry.meta)


def are_unattended(root: Path, entries: Iterable[Entry]) -> bool:
    """Whether one of these has no writer any more."""
    return not all(is_attended(root / SNAPSHOTS / entry.id, entry) for entry in entries)


def is_attended(directory: Path, entry: Entry) -> bool:
    """Whether somebody writes a snapshot; one that is ``live`` is as good as that as long
    as somebody reads it, one that is in memory only as long as its twins live."""
    if entry.state == "memory":
        return are_twins_alive(directory)
    return is_held(directory, by_reader=entry.state == "live")


def is_lost(directory: Path, entry: Entry) -> bool:
    """Whether a snapshot was in memory only, and is there no more."""
    return entry.state == "memory" and not are_twins_alive(directory)


def clean(catalogue: Catalogue, root: Path) -> Freed:
    """Finish what was begun: clear what killed writers have left, unless all of it was
    there, and what was in memory only and has ended, and delete what was removed and is
    not read any more.

    Raises:
        StorageError: the store is not writable.
    """
    left = catalogue.read(lambda session: session.in_state(*ATTENDED, "removed"))
    removed: list[Entry] = []
    held: list[str] = []
    for entry in left:
        directory = root / SNAPSHOTS / entry.id
        # Looked at first, since seizing a lease takes patience: others look at it, too.
        if entry.state == "removed":
            if is_held(directory, by_reader=True):
                held.append(entry.id)
            else:
                removed.append(entry)
        elif not is_attended(directory, entry) and _settle(catalogue, root, entry):
            removed.append(entry)
    total, still_held = delete_removed(catalogue, root, removed)
    held += still_held
    names = tuple(entry.name or entry.id for entry in removed if entry.id not in held)
    return Freed(bytes=total, names=names, held=tuple(held))


def _settle(catalogue: Catalogue, root: Path, entry: Entry) -> bool:
    """Whether a snapshot is to be deleted: nobody writes it any more, and it is not whole;
    or it was in memory only, and is there no more."""
    directory = root / SNAPSHOTS / entry.id
    lease = Lease.seize(directory)
    if lease is None and os.path.lexists(directory):
        return False
    try:
        if entry.state != "memory" and (directory / MANIFEST).exists():
            catalogue.write(lambda session: _finish(session, root, entry.id, directory))
            return False
        catalogue.write(lambda session: _give_up(session, root, entry.id))
        return True
    finally:
        if lease is not None:
            lease.release()


def _give_up(session: Session, root: Path, id_: str) -> None:
    if (now := session.get(id_)) is not None and now.state in ATTENDED:
        forget(session, root, [now])


def _finish(session: Session, root: Path, id_: str, directory: Path) -> None:
    """Its writer died when all was there, and before it could say so."""
    now = session.get(id_)
    if now is None or now.state not in UNFINISHED:
        return
    found, usage = examine(directory)
    # What the catalogue knows better is left as it is.
    known = ("id", "name", "named", "parent", "tags")
    fields = {f: getattr(found, f) for f in Entry.__struct_fields__ if f not in known}
    add_packs(session, root, [id_])
    fields["shared"] = session.packs.use(id_, usage)
    session.update(id_, **fields)
    if found.kernel_id:
        session.set_position(found.kernel_id, id_)


def collect(catalogue: Catalogue, root: Path) -> Freed:
    """Find all that is not as it should be: damage to the catalogue, snapshots that it does
    not know, directories that are none, and what `clean` finds.

    Raises:
        StorageError: the store is not writable.
    """
    if not catalogue.is_sound():
        catalogue.rebuild()
    catalogue.tidy()
    freed = clean(catalogue, root)
    strays: list[Path] = []
    found: list[str] = []

    def compare(session: Session) -> None:
        strays.clear()
        found.clear()
        known = session.ids()
        # Nobody begins a snapshot meanwhile: that is a transaction, too.
        there = {directory.name: directory for directory in iter_directories(root)}
        for id_ in sorted(there.keys() - known):
            if (there[id_] / MANIFEST).exists():
                add_packs(session, root, [id_])
                with suppress(FileNotFoundError):
                    found.append(adopt(session, root, examine(there[id_])).name or id_)
            else:
                strays.append(there[id_])
        missing = [session.get(id_) for id_ in known - there.keys()]
        entries = [entry for entry in missing if entry is not None]
        forget(session, root, entries)
        for entry in entries:
            session.delete(entry.id)

    catalogue.write(compare)
    total = freed.bytes
    names = list(freed.names)
    for place in stale_stagings(root):
        total += disk_usage(*place.rglob("*"))
        shutil.rmtree(place, ignore_errors=True)
    for directory in strays:
        size = delete(directory)
        if size is not None:
            total += size
            names.append(directory.name)
    packs = catalogue.read(lambda session: idle_packs(session, root))
    total += collect_packs(catalogue, root, packs)
    return Freed(bytes=total, names=tuple(names), held=freed.held, found=tuple(found))
