"""One snapshot as the catalogue keeps it, and how that is found out from its directory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from jupyter_cr.errors import FutureImage, ImageError, LockedImage, UsageError
from jupyter_cr.image import Document, Header, ImageReader, NotebookFacts, Outcome
from jupyter_cr.image.pack import SUFFIXES, pack_files
from jupyter_cr.image.page_map import Interval
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import PACKS, packs_beside, root_of
from jupyter_cr.store.meta import Meta, read_meta
from jupyter_cr.store.names import check_name
from jupyter_cr.store.trust import is_signed

__all__ = [
    "ATTENDED",
    "MISSING",
    "UNFINISHED",
    "Entry",
    "Examined",
    "Stored",
    "disk_usage",
    "examine",
    "facts_of",
    "fingerprint",
    "fit_name",
    "is_id",
    "new_id",
    "own_usage",
]

Stored = Literal[
    "saving", "live", "memory", "durable", "corrupt", "future", "locked", "removed"
]
"""``removed``: only its readers, or a process that was killed, have kept it."""

MISSING = "none none none"
"""The `fingerprint` of what is not there."""

UNFINISHED = ("saving", "live")
"""States of those that somebody is writing."""

ATTENDED = (*UNFINISHED, "memory")
"""States of those that are nothing without a process: their writer, or their twins."""

_ID = re.compile(r"[0-9a-f]{16}")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row. The table has a column for each field, see
    `jupyter_cr.store.snapshot.Snapshot`."""

    id: str
    name: str | None
    """None once it is removed: somebody else may have it."""
    state: Stored
    saved: float = 1.0
    created: str
    logical: int = 0
    own: int = 0
    shared: int = 0
    named: bool = True
    parent: str = ""
    """Its id."""
    tags: tuple[str, ...] = ()
    trusted: bool = True
    signer: str = ""
    note: str = ""
    kernel_id: str = ""
    kernel_name: str = ""
    path: str = ""
    has_document: bool = False
    automatic: str = ""
    pid: int = 0
    comm: str = ""
    processes: int = 0
    downtime_ms: float | None = None
    cell: str = ""
    problem: str = ""
    fingerprint: str = ""
    """Of the image when `state` and `problem` were found out."""

    @property
    def meta(self) -> Meta:
        """What has to be beside the image."""
        return Meta(
            name=self.name or "",
            note=self.note,
            tags=self.tags,
            parent=self.parent,
            signer=self.signer,
            named=self.named,
            removed=self.state == "removed",
        )


def new_id() -> str:
    """Of a snapshot: 64 random bits."""
    return os.urandom(8).hex()


def is_id(name: str) -> bool:
    """Whether a directory of that name is a snapshot's."""
    return _ID.fullmatch(name) is not None


def facts_of(
    header: Header,
    outcome: Outcome | None,
    *,
    has_document: bool,
    is_encrypted: bool = False,
) -> dict[str, Any]:
    """The fields of an `Entry` that an image determines. Where that is encrypted, what it
    has of the notebook's content is not told."""
    return {
        "created": header.created,
        "kernel_id": header.kernel.kernel_id,
        "kernel_name": header.kernel.kernel_name,
        "path": header.notebook.path,
        "has_document": has_document,
        "automatic": header.automatic,
        "pid": header.pid,
        "comm": header.comm,
        "logical": outcome.bytes if outcome else 0,
        "processes": len(outcome.processes) if outcome else 0,
        "downtime_ms": outcome.downtime_ms if outcome else None,
        "cell": "" if is_encrypted else _cell_of(header.notebook),
    }


def _cell_of(notebook: NotebookFacts) -> str:
    """As people know it from their notebooks."""
    if notebook.running_cell is not None:
        return f"[*] {notebook.running_cell.source}"
    if notebook.last_cell is not None:
        return f"[{notebook.last_cell.number}] {notebook.last_cell.source}"
    return ""


class Examined(NamedTuple):
    """What a directory says of its snapshot, damaged or not; `usage`: which pages of which
    packs it needs, as far as can be told."""

    entry: Entry
    usage: Mapping[str, Sequence[Interval]]


def examine(directory: Path) -> Examined:
    """Look at a snapshot.

    Raises:
        FileNotFoundError: it is gone.
    """
    created = _iso_time(directory.stat().st_mtime)
    meta = read_meta(directory)
    entry = Entry(
        id=directory.name,
        name=fit_name(meta.name) or directory.name,
        state="durable",
        created=created,
        own=own_usage(directory),
        named=meta.named,
        parent=meta.parent if is_id(meta.parent) else "",
        tags=meta.tags,
        signer=meta.signer,
        note=meta.note_over(""),
        fingerprint=fingerprint(directory),
    )
    usage: Mapping[str, Sequence[Interval]] = {}
    try:
        with ImageReader(directory, packs_beside(directory), store_cipher()) as reader:
            header, outcome, usage = reader.header, reader.outcome, reader.usage
            facts = facts_of(
                header,
                outcome,
                has_document=reader.has(Document),
                is_encrypted=reader.is_encrypted,
            )
            facts["trusted"] = is_signed(root_of(directory), directory, reader.manifest)
            reader.check_packs()
    except ImageError as error:
        state = _state_of(error)
        # One whose pack is not there now may be whole again tomorrow: it needs the others.
        return Examined(
            msgspec.structs.replace(entry, state=state, problem=error.message), usage
        )
    name = fit_name(meta.name) or fit_name(header.name) or entry.name
    note = meta.note_over(header.note)
    if outcome is not None and outcome.memory_only:
        facts["state"] = "memory"
    entry = msgspec.structs.replace(entry, name=name, note=note, **facts)
    return Examined(entry, usage)


def _state_of(error: ImageError) -> Stored:
    if isinstance(error, FutureImage):
        return "future"
    return "locked" if isinstance(error, LockedImage) else "corrupt"


def fit_name(name: str) -> str:
    """Files that somebody has edited may hold any name: none that could not be given."""
    with suppress(UsageError):
        return check_name(name)
    return ""


def fingerprint(directory: Path) -> str:
    """Changes when an image does, or the pack that was written with it; costs three
    stat(2)."""
    # Of thousands: pathlib would take several times as long as stat(2).
    place, id_ = os.path.split(directory)
    pack = f"{os.path.dirname(place)}/{PACKS}/{id_}"
    words = []
    for path in (f"{place}/{id_}/{MANIFEST}", *(pack + suffix for suffix in SUFFIXES)):
        try:
            status = os.stat(path, follow_symlinks=False)
            words.append(f"{status.st_size}:{status.st_mtime_ns}")
        except OSError:
            words.append("none")
    return " ".join(words)


def own_usage(directory: Path) -> int:
    """Bytes on disk of a snapshot and of the pack that was written with it."""
    pack = pack_files(packs_beside(directory), directory.name)
    with suppress(OSError):
        return disk_usage(*pack, *directory.iterdir())
    return disk_usage(*pack)


def disk_usage(*files: Path) -> int:
    """Bytes on disk of those files that there are."""
    total = 0
    for path in files:
        with suppress(OSError):
            # In units of 512 bytes whatever the file system is (inode(7)).
            total += path.lstat().st_blocks * 512
    return total


def _iso_time(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
