"""Of the catalogue: which packs there are, how they are found, and who needs them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jupyter_cr.image.pack import BLOCK_PAGES
from jupyter_cr.image.page_map import Interval, merge_intervals

__all__ = ["PACK_SCHEMA", "PackTable"]

PACK_SCHEMA = """
CREATE TABLE packs (
  number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, pages INTEGER, stored INTEGER,
  hidden INTEGER NOT NULL
);
CREATE TABLE samples (hash INTEGER, pack INTEGER, PRIMARY KEY (hash, pack)) WITHOUT ROWID;
CREATE INDEX samples_by_pack ON samples (pack);
CREATE TABLE usage (
  id TEXT, pack TEXT, pages INTEGER, intervals BLOB, PRIMARY KEY (id, pack)
) WITHOUT ROWID;
CREATE INDEX usage_by_pack ON usage (pack);
CREATE TABLE claims (id TEXT, pack TEXT, PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE INDEX claims_by_pack ON claims (pack);
"""
_INTERVAL = struct.Struct("<II")


class PackTable:
    """Part of one transaction.

    A writer that has found a pack claims it, and then nothing of it goes until the
    snapshot is written, or is none. A pack is hidden from writers before any of it goes.
    """

    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute

    def names(self) -> list[str]:
        """Of all."""
        return [name for (name,) in self._execute("SELECT name FROM packs")]

    def is_idle(self, name: str) -> bool:
        """Whether something of it can go, or was to go: it is still hidden."""
        needed = self.needed(name)
        if needed is None:
            return False
        row = self._execute("SELECT pages, hidden FROM packs WHERE name = ?", (name,))
        pages, hidden = row.fetchone() or (0, True)
        blocks = merge_intervals(
            (first // BLOCK_PAGES, -(-end // BLOCK_PAGES)) for first, end in needed
        )
        kept = sum(end - first for first, end in blocks) * BLOCK_PAGES
        return bool(hidden) or kept < pages

    def has(self, name: str) -> bool:
        """Whether there is one of that name."""
        rows = self._execute("SELECT 1 FROM packs WHERE name = ?", (name,))
        return rows.fetchone() is not None

    def add(self, name: str, *, pages: int, stored: int, samples: Iterable[bytes]) -> None:
        """Add one, or say anew what is in it, and let it be found.

        Args:
            pages: in it, without those that were dropped.
            stored: bytes that they take.
            samples: hashes of some of them.
        """
        self.delete(name)
        cursor = self._execute(
            "INSERT INTO packs (name, pages, stored, hidden) VALUES (?, ?, ?, 0)",
            (name, pages, stored),
        )
        for sample in samples:
            self._execute(
                "INSERT OR IGNORE INTO samples VALUES (?, ?)",
                (_number(sample), cursor.lastrowid),
            )

    def delete(self, name: str) -> None:
        """Forget one."""
        self._forget_samples(name)
        self._execute("DELETE FROM packs WHERE name = ?", (name,))

    def hide(self, name: str) -> None:
        """From now on nobody finds it who has not found it yet."""
        self._forget_samples(name)
        self._execute("UPDATE packs SET hidden = 1 WHERE name = ?", (name,))

    def _forget_samples(self, name: str) -> None:
        self._execute(
            "DELETE FROM samples WHERE pack IN (SELECT number FROM packs WHERE name = ?)",
            (name,),
        )

    def find(self, samples: Iterable[bytes], most: int) -> list[str]:
        """Packs that have pages with these hashes: those with most of them first, and of
        equals the newest."""
        numbers = [_number(sample) for sample in samples]
        marks = ", ".join("?" * len(numbers))
        rows = self._execute(
            f"SELECT p.name FROM samples s JOIN packs p ON p.number = s.pack"
            f" WHERE s.hash IN ({marks}) GROUP BY s.pack"
            f" ORDER BY count(*) DESC, s.pack DESC LIMIT ?",
            (*numbers, most),
        )
        return [name for (name,) in rows]

    def claim(self, id_: str, names: Iterable[str]) -> None:
        """The writer of a snapshot may need all of these."""
        for name in names:
            self._execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (id_, name))

    def use(self, id_: str, usage: Mapping[str, Sequence[Interval]]) -> int:
        """A snapshot is there that needs these pages of these packs; what it has claimed
        is free again.

        Returns:
            About how many bytes it needs of packs that were not written with it.
        """
        self.release(id_)
        shared = 0
        for pack, intervals in usage.items():
            pages = sum(end - first for first, end in intervals)
            packed = b"".join(_INTERVAL.pack(*interval) for interval in intervals)
            self._execute(
                "INSERT INTO usage VALUES (?, ?, ?, ?)", (id_, pack, pages, packed)
            )
            if pack != id_:
                shared += self._stored(pack, pages)
        return shared

    def _stored(self, pack: str, pages: int) -> int:
        row = self._execute(
            "SELECT stored, pages FROM packs WHERE name = ?", (pack,)
        ).fetchone()
        return row[0] * pages // row[1] if row and row[1] else 0

    def release(self, id_: str) -> None:
        """There is no such snapshot (any more), or nobody writes it."""
        self._execute("DELETE FROM usage WHERE id = ?", (id_,))
        self._execute("DELETE FROM claims WHERE id = ?", (id_,))

    def used_by(self, ids: Iterable[str]) -> set[str]:
        """The packs that snapshots need or claim, and those that were written with them."""
        found = set(ids)
        for id_ in tuple(found):
            for table in ("usage", "claims"):
                rows = self._execute(f"SELECT pack FROM {table} WHERE id = ?", (id_,))
                found.update(pack for (pack,) in rows)
        return found

    def needed(self, name: str) -> list[Interval] | None:
        """Which pages of a pack snapshots need; None if it is not to be touched."""
        if self._execute("SELECT 1 FROM claims WHERE pack = ?", (name,)).fetchone():
            return None
        rows = self._execute("SELECT intervals FROM usage WHERE pack = ?", (name,))
        return merge_intervals(
            interval for (packed,) in rows for interval in _INTERVAL.iter_unpack(packed)
        )


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little", signed=True)
