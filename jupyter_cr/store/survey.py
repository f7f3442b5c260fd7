"""What is in a store elsewhere, as one listing of its files shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jupyter_cr.image.pack import SUFFIXES
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store.entry import is_id
from jupyter_cr.store.layout import PACKS, SNAPSHOTS
from jupyter_cr.store.meta import newest_meta
from jupyter_cr.store.trust import SIGNATURE

__all__ = ["GOING", "PENDING", "Survey", "pack_names"]

PENDING = "pending"
"""A manifest of a snapshot that is not there yet: its writer says what it will need."""

GOING = ".going-"
"""Between a pack's name and a token: somebody is about to delete the pack."""

_MIRRORED = (MANIFEST, PENDING, SIGNATURE)


@dataclass(frozen=True)
class Survey:
    """Files by name, relative to the store, and what they are.

    Attributes:
        sizes: of all files, in bytes.
        snapshots: id -> names of its files there.
        packs: those of which both files are there.
        parts: pack -> names of its files, whether or not all are there.
        going: pack -> names of the marks by which it is to be deleted.
        strays: files that are on their way to their names, or were.
    """

    sizes: Mapping[str, int]
    snapshots: dict[str, set[str]] = field(default_factory=dict)
    packs: set[str] = field(default_factory=set)
    parts: dict[str, list[str]] = field(default_factory=dict)
    going: dict[str, list[str]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Survey:
        """From a listing; what somebody else has put there is left alone."""
        survey = cls(sizes)
        for name in sizes:
            survey._place(name)
        for pack, files in survey.parts.items():
            if set(files) == set(pack_names(pack)):
                survey.packs.add(pack)
        return survey

    def _place(self, name: str) -> None:
        top, *rest = name.split("/")
        if top == SNAPSHOTS and len(rest) == 2 and is_id(rest[0]):
            if rest[1].startswith("."):
                self.strays.append(name)
            else:
                self.snapshots.setdefault(rest[0], set()).add(rest[1])
        elif top == PACKS and len(rest) == 1:
            if rest[0].startswith("."):
                self.strays.append(name)
            elif found := _PACK_FILE.fullmatch(rest[0]):
                table = self.going if found[2].startswith(GOING) else self.parts
                table.setdefault(found[1], []).append(name)

    @property
    def complete(self) -> list[str]:
        """Ids of the snapshots that are there, in order."""
        return sorted(id_ for id_, files in self.snapshots.items() if MANIFEST in files)

    @property
    def pending(self) -> list[str]:
        """Ids of those that somebody is writing, or was."""
        return sorted(id_ for id_, files in self.snapshots.items() if MANIFEST not in files)

    def usable(self) -> set[str]:
        """Packs that a new snapshot may refer to."""
        return self.packs - self.going.keys()

    def described(self) -> dict[str, int]:
        """The small files of snapshots, with their sizes."""
        return self._with_sizes(
            f"{SNAPSHOTS}/{id_}/{name}"
            for id_, files in self.snapshots.items()
            for name in (*_MIRRORED, newest_meta(files))
            if name in files
        )

    def meta(self, id_: str) -> str:
        """Name of the file that says how a snapshot is called now."""
        return newest_meta(self.snapshots.get(id_, ()))

    def indexes(self, packs: Iterable[str]) -> dict[str, int]:
        """Those of packs, with their sizes."""
        return self._with_sizes(pack_names(pack)[1] for pack in packs)

    def _with_sizes(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self.sizes[name] for name in names if name in self.sizes}

    def size(self, names: Iterable[str]) -> int:
        """Of files, in bytes; of those that there are."""
        return sum(self.sizes.get(name, 0) for name in names)


_PACK_FILE = re.compile(
    rf"([0-9a-f]{{16}})({'|'.join(map(re.escape, SUFFIXES))}|{re.escape(GOING)}[0-9a-f]+)"
)


def pack_names(pack: str) -> tuple[str, str]:
    """Of its data and its index."""
    data, index = SUFFIXES
    return f"{PACKS}/{pack}{data}", f"{PACKS}/{pack}{index}"
