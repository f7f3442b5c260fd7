"""The packs of a store: found by those who write, and deleted when nobody needs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import ImageError, StorageError
from jupyter_cr.image.pack import SUFFIXES, Pack, drop_blocks, pack_files
from jupyter_cr.image.page_map import Interval
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import UNFINISHED, disk_usage
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import PACKS
from jupyter_cr.store.session import Session

__all__ = [
    "FoundPacks",
    "add_packs",
    "collect_packs",
    "idle_packs",
    "names_on_disk",
]

_MOST = 3
"""Packs that are looked into for one segment of pages."""


class FoundPacks:
    """Finds packs for one snapshot that is being written, and claims them; a
    `jupyter_cr.image.page_writer.KnownPages`."""

    def __init__(self, catalogue: Catalogue, id_: str) -> None:
        self._catalogue = catalogue
        self._id = id_
        self._claimed: set[str] = set()

    def candidates(self, samples: Sequence[bytes]) -> Sequence[str]:
        def find(session: Session) -> list[str]:
            return session.packs.find(samples, _MOST)

        def claim(session: Session) -> list[str]:
            # Not what was found before: that may have been hidden since.
            found = find(session)
            session.packs.claim(self._id, found)
            return found

        # Without them, pages are stored again, and that is all.
        with suppress(StorageError):
            found = self._catalogue.read(find)
            if not self._claimed.issuperset(found):
                found = self._catalogue.write(claim, patient=False)
                self._claimed.update(found)
            return found
        return ()


def add_packs(session: Session, root: Path, names: Iterable[str] | None = None) -> None:
    """Tell the catalogue of packs.

    Args:
        names: None for all that there are. One that is damaged is not told of.
    """
    for name in names_on_disk(root) if names is None else names:
        with suppress(ImageError), Pack(root / PACKS, name, store_cipher()) as pack:
            pages, stored = pack.kept
            session.packs.add(name, pages=pages, stored=stored, samples=pack.samples())


def names_on_disk(root: Path) -> list[str]:
    """Of all packs that there are, known or not."""
    with suppress(FileNotFoundError):
        return sorted(
            {path.stem for path in (root / PACKS).iterdir() if path.suffix in SUFFIXES}
        )
    return []


def idle_packs(session: Session, root: Path) -> list[str]:
    """Packs of which something can go: those that the catalogue does not know, and nobody
    is writing; those of which something was to go when whoever did that was killed; and
    those that snapshots do not need all of."""
    writing = {entry.id for entry in session.in_state(*UNFINISHED)}
    known = set(session.packs.names())
    strays = [n for n in names_on_disk(root) if n not in known and n not in writing]
    return [*strays, *filter(session.packs.is_idle, known)]


def collect_packs(catalogue: Catalogue, root: Path, names: Iterable[str]) -> int:
    """Delete those of the packs that nobody needs, and of the others the blocks that
    nobody needs; safe while others write.

    Returns:
        Bytes given back.

    Raises:
        StorageError: the store is not writable.
    """
    wanted = sorted(names)
    plan: list[tuple[str, list[Interval]]] = []

    def decide(session: Session) -> None:
        plan.clear()
        for name in wanted:
            entry = session.get(name)
            if entry is not None and entry.state in UNFINISHED:
                # Begun since it was looked for: nobody knows of it yet.
                continue
            needed = session.packs.needed(name)
            if needed is not None:
                session.packs.hide(name)
                plan.append((name, needed))

    if not wanted:
        return 0
    catalogue.write(decide)
    freed = 0
    for name, needed in plan:
        if needed:
            freed += _drop(catalogue, root, name, needed)
        else:
            freed += _delete(catalogue, root, name)
    return freed


def _delete(catalogue: Catalogue, root: Path, name: str) -> int:
    data, index = pack_files(root / PACKS, name)
    size = disk_usage(data, index)
    for path in (index, data):
        with storage_errors(path):
            path.unlink(missing_ok=True)
    catalogue.write(lambda session: session.packs.delete(name))
    return size


def _drop(catalogue: Catalogue, root: Path, name: str, needed: list[Interval]) -> int:
    freed = 0
    # On a full disk, or where it is damaged, it stays as it is.
    with suppress(ImageError, StorageError):
        freed = drop_blocks(root / PACKS, name, needed, store_cipher())

    def tell(session: Session) -> None:
        add_packs(session, root, [name])

    with suppress(StorageError):
        catalogue.write(tell)
    return freed
