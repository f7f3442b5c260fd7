"""What is in the catalogue's database, and what can be asked of it within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from jupyter_cr.errors import NameTaken
from jupyter_cr.store.entry import Entry
from jupyter_cr.store.pack_table import PACK_SCHEMA, PackTable
from jupyter_cr.store.snapshot import TIMELINE

__all__ = ["SCHEMA", "VERSION", "DamagedError", "Session"]

VERSION = 2
"""PRAGMA user_version: a catalogue of an earlier one is made anew, a later one refused."""

_COLUMNS = Entry.__struct_fields__
_TYPES = {"saved": "REAL", "downtime_ms": "REAL"} | dict.fromkeys(
    ("logical", "own", "shared", "named", "trusted", "has_document", "pid", "processes"),
    "INTEGER",
)
SCHEMA = f"""
CREATE TABLE snapshots (
  {", ".join(f"{column} {_TYPES.get(column, 'TEXT')}" for column in _COLUMNS)},
  PRIMARY KEY (id), UNIQUE (name)
);
CREATE INDEX by_time ON snapshots (created, name);
CREATE INDEX by_kernel ON snapshots (kernel_id, created);
CREATE INDEX by_path ON snapshots (path, created);
CREATE INDEX by_state ON snapshots (state);
CREATE INDEX by_parent ON snapshots (parent);
CREATE TABLE positions (kernel_id TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
{PACK_SCHEMA}
PRAGMA user_version = {VERSION};
"""
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM snapshots"


class DamagedError(Exception):
    """The database is not what it should be."""


class Session:
    """One transaction on the catalogue."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self.packs = PackTable(connection.execute)

    def find(self, name: str) -> Entry | None:
        """The snapshot of that name."""
        return self._one(f"{_SELECT} WHERE name = ?", name)

    def get(self, id_: str) -> Entry | None:
        """The snapshot with that id, also one that is removed."""
        return self._one(f"{_SELECT} WHERE id = ?", id_)

    def _one(self, query: str, *values: object) -> Entry | None:
        row = self._execute(query, values).fetchone()
        return None if row is None else _entry(row)

    def names(self) -> list[str]:
        """All that are taken."""
        rows = self._execute("SELECT name FROM snapshots WHERE name IS NOT NULL")
        return [name for (name,) in rows]

    def ids(self) -> set[str]:
        """Of all, also of those that are removed."""
        return {id_ for (id_,) in self._execute("SELECT id FROM snapshots")}

    def count(
        self,
        *,
        kernel_id: str | None = None,
        path: str | None = None,
        with_points: bool = True,
    ) -> int:
        """How many there are, as `select` gives them."""
        where, values = _where(kernel_id, path, with_points)
        row = self._execute(f"SELECT count(*) FROM snapshots {where}", values).fetchone()
        return int(row[0])

    def select(
        self,
        *,
        limit: int | None = None,
        offset: int = 0,
        newest_first: bool = False,
        kernel_id: str | None = None,
        path: str | None = None,
        with_points: bool = True,
    ) -> list[Entry]:
        """Those that are not removed, oldest first."""
        where, values = _where(kernel_id, path, with_points)
        order = "created DESC, name DESC" if newest_first else "created, name"
        rows = self._execute(
            f"{_SELECT} {where} ORDER BY {order} LIMIT ? OFFSET ?",
            (*values, -1 if limit is None else limit, offset),
        )
        return [_entry(row) for row in rows]

    def in_state(self, *states: str) -> list[Entry]:
        """All in one of these states."""
        marks = ", ".join("?" * len(states))
        rows = self._execute(f"{_SELECT} WHERE state IN ({marks})", states)
        return [_entry(row) for row in rows]

    def children(self, id_: str) -> list[Entry]:
        """Those whose parent it is."""
        return [_entry(r) for r in self._execute(f"{_SELECT} WHERE parent = ?", (id_,))]

    def name_of(self, id_: str) -> str:
        """Empty if there is none."""
        row = self._execute("SELECT name FROM snapshots WHERE id = ?", (id_,)).fetchone()
        return (row[0] or "") if row else ""

    def insert(self, entry: Entry) -> None:
        """Add one.

        Raises:
            NameTaken: there is one of that name.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        with _unique(entry.name):
            self._execute(
                f"INSERT INTO snapshots ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [_value(getattr(entry, column)) for column in _COLUMNS],
            )

    def update(self, id_: str, **fields: Any) -> None:
        """Change fields of one.

        Raises:
            NameTaken: there is one of that name.
        """
        changes = ", ".join(f"{column} = ?" for column in fields)
        values = [_value(value) for value in fields.values()]
        with _unique(fields.get("name")):
            self._execute(f"UPDATE snapshots SET {changes} WHERE id = ?", [*values, id_])

    def delete(self, id_: str) -> None:
        """Forget one, and what it needs."""
        self._execute("DELETE FROM snapshots WHERE id = ?", (id_,))
        self.packs.release(id_)

    def position(self, kernel_id: str) -> str:
        """Id of the snapshot that a kernel last was at; empty if of none."""
        query = "SELECT id FROM positions WHERE kernel_id = ?"
        row = self._execute(query, (kernel_id,)).fetchone()
        return str(row[0]) if row else ""

    def set_position(self, kernel_id: str, id_: str) -> None:
        """Say at which snapshot a kernel is."""
        self._execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", (kernel_id, id_))

    def positions(self) -> dict[str, str]:
        """Kernel id -> name of the snapshot that it is at."""
        rows = self._execute(
            "SELECT p.kernel_id, s.name FROM positions p JOIN snapshots s ON s.id = p.id"
            " WHERE s.name IS NOT NULL"
        )
        return dict(rows)

    def move_positions(self, id_: str, to: str) -> None:
        """Kernels that were at a snapshot are at another one, or at none."""
        if to:
            self._execute("UPDATE positions SET id = ? WHERE id = ?", (to, id_))
        else:
            self._execute("DELETE FROM positions WHERE id = ?", (id_,))

    def guess_positions(self) -> None:
        """Each kernel is at its newest snapshot, as far as can be told."""
        self._execute(
            "INSERT OR REPLACE INTO positions SELECT kernel_id, id FROM snapshots"
            " WHERE kernel_id != '' AND name IS NOT NULL ORDER BY created"
        )


def _where(
    kernel_id: str | None, path: str | None, with_points: bool
) -> tuple[str, list[str]]:
    wanted = {"kernel_id": kernel_id, "path": path}
    given = {column: value for column, value in wanted.items() if value is not None}
    clauses = ["name IS NOT NULL", *(f"{column} = ?" for column in given)]
    if not with_points:
        clauses.append(f"automatic != '{TIMELINE}'")
    return f"WHERE {' AND '.join(clauses)}", list(given.values())


def _value(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def _entry(row: Sequence[Any]) -> Entry:
    fields = dict(zip(_COLUMNS, row, strict=True))
    for field, at in _TRUTHS.items():
        fields[field] = bool(row[at])
    try:
        fields["tags"] = msgspec.json.decode(row[_TAGS]) if row[_TAGS] != "[]" else ()
        return msgspec.convert(fields, Entry)
    except (msgspec.MsgspecError, TypeError) as error:
        raise DamagedError(str(error)) from error


_TRUTHS = {field: _COLUMNS.index(field) for field in ("named", "trusted", "has_document")}
_TAGS = _COLUMNS.index("tags")


@contextmanager
def _unique(name: str | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if name is None or "snapshots.name" not in str(error):
            raise DamagedError(str(error)) from error
        raise NameTaken(
            f"There is a snapshot named {name} already.",
            f"Choose another name, or remove it first: jupyter cr rm {name}",
        ) from error
