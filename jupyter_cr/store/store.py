"""The store: a directory of snapshots."""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import (
    FutureImage,
    ImageError,
    NameTaken,
    NoSuchSnapshot,
    StorageError,
)
from jupyter_cr.image import Document, ImageReader, ImageWriter
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.names import check_name, suggest_name
from jupyter_cr.store.root import check_root, prepare_root, store_root
from jupyter_cr.store.twins import are_twins_alive, end_twins

__all__ = ["Snapshot", "State", "Store"]

TEMPORARY = ".tmp-"
NOTE = "note"
"""The file of a snapshot that holds its note, once that has been changed."""

State = Literal["warm", "durable", "corrupt", "future"]
"""``warm``: on disk, and its twins live; ``durable``: on disk; ``corrupt``: damaged;
``future``: written by a later release."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of snapshots."""

    name: str
    state: State
    created: str
    """UTC, ISO 8601; of a damaged snapshot, when its directory last changed."""
    bytes: int
    """On disk."""
    note: str = ""
    kernel_id: str = ""
    kernel_name: str = ""
    path: str = ""
    """Of the notebook that the kernel worked for, as the server named it."""
    has_document: bool = False
    automatic: str = ""
    """Why it was taken without being asked for; empty if it was."""
    pid: int = 0
    comm: str = ""
    processes: int = 0
    downtime_ms: float | None = None
    problem: str = ""
    """What is wrong with a snapshot that cannot be used."""


class Store:
    """All snapshots of one user.

    Args:
        root: the directory; made when first written to. Default: `store_root`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else store_root()

    def names(self) -> list[str]:
        """Names of all snapshots, sound or not, in no order.

        Raises:
            StorageError: the store is not a directory, or another user's.
        """
        try:
            check_root(self.root)
        except FileNotFoundError:
            return []
        try:
            with os.scandir(self.root) as entries:
                return [
                    e.name
                    for e in entries
                    if e.name[0] != "." and e.is_dir() and e.name != "packs"
                ]
        except PermissionError as error:
            raise StorageError(
                f"The store {self.root} is not readable.", f"chmod 700 {self.root}"
            ) from error

    def create(self, name: str) -> ImageWriter:
        """Begin a snapshot, and clear what earlier runs that were killed left behind.

        Raises:
            UsageError: not a name.
            NameTaken: there is one.
            StorageError: the store is not writable.
        """
        check_name(name)
        prepare_root(self.root)
        self.clean()
        directory = self.root / name
        if directory.exists():
            self.check_free(name)
        directory.mkdir(mode=0o700)
        (self.root / "packs").mkdir(mode=0o700, exist_ok=True)
        return ImageWriter(directory, self.root / "packs", seed=0)

    def suggest_name(self, base: str) -> str:
        """A name that is free, see `jupyter_cr.store.names.suggest_name`."""
        # Names of snapshots in the making are spoken for, too.
        making = (path.name[len(TEMPORARY) :] for path in self.root.glob(f"{TEMPORARY}*"))
        names = {name.rpartition("-")[0] for name in making}
        return suggest_name(base, names.union(self.names()))

    def check_free(self, name: str) -> None:
        """See that `create` would take that name.

        Raises:
            UsageError: not a name.
            NameTaken: there is one.
        """
        if check_name(name) in self.names():
            raise NameTaken(
                f"There is a snapshot named {name} already.",
                f"Choose another name, or remove it first: jupyter cr rm {name}",
            )

    def path(self, name: str) -> Path:
        """The directory of a snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        names = self.names()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3)
            raise NoSuchSnapshot(
                f"There is no snapshot named {name} in {self.root}.",
                f"Did you mean {' or '.join(close)}?"
                if close
                else "jupyter cr list shows all.",
            )
        return self.root / name

    def open(self, name: str) -> ImageReader:
        """Open a snapshot; its manifest is checked.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            CorruptImage: it is damaged.
            FutureImage: written by a later release.
        """
        return ImageReader(self.path(name), self.root / "packs")

    def state(self, name: str) -> State:
        """What can be done with a snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        return self._summarize(self.path(name)).state

    def list(self) -> list[Snapshot]:
        """All snapshots, oldest first; damaged ones too.

        Raises:
            StorageError: the store is not a directory, or another user's.
        """
        snapshots = []
        for name in self.names():
            # One may be removed meanwhile.
            with suppress(NoSuchSnapshot, FileNotFoundError):
                snapshots.append(self._summarize(self.root / name))
        return sorted(snapshots, key=lambda snapshot: (snapshot.created, snapshot.name))

    def summary(self, name: str) -> Snapshot:
        """The line of one snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        return self._summarize(self.path(name))

    def _summarize(self, directory: Path) -> Snapshot:
        size = _size_on_disk(directory)
        try:
            with ImageReader(directory, self.root / "packs") as reader:
                state: State = "warm" if are_twins_alive(directory) else "durable"
                return _summary(directory, state, size, reader)
        except NoSuchSnapshot:
            raise
        except ImageError as error:
            return Snapshot(
                name=directory.name,
                state="future" if isinstance(error, FutureImage) else "corrupt",
                created=_iso_time(directory.stat().st_mtime),
                bytes=size,
                problem=error.message,
            )

    def rename(self, name: str, new_name: str) -> None:
        """Give a snapshot another name.

        Raises:
            UsageError: not a name.
            NoSuchSnapshot: there is none; the hint has names like it.
            NameTaken: there is one of that name already.
            StorageError: the store is not writable.
        """
        directory = self.path(name)
        if new_name == name:
            return
        self.check_free(new_name)
        directory.rename(self.root / new_name)

    def annotate(self, name: str, note: str) -> None:
        """Give a snapshot another note. It lies beside the image, which never changes.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            StorageError: the store is not writable.
        """
        write_whole(self.path(name) / NOTE, note.encode(), durable=False)

    def remove(self, names: Sequence[str]) -> None:
        """Remove snapshots, and end the twins of warm ones: all, or none if one of the
        names is wrong.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            StorageError: the store is not writable.
        """
        for directory in [self.path(name) for name in dict.fromkeys(names)]:
            end_twins(directory)
            # Gone under its name at once, so that nobody sees half of it.
            doomed = self.root / f"{TEMPORARY}{directory.name}-{os.getpid()}"
            with storage_errors(directory):
                directory.rename(doomed)
                shutil.rmtree(doomed)

    def clean(self) -> None:
        """Remove snapshots in the making whose process is dead, and end their twins.

        Raises:
            StorageError: the store is not writable.
        """
        for directory in self._iter_abandoned():
            end_twins(directory)
            with storage_errors(directory):
                shutil.rmtree(directory)

    def _iter_abandoned(self) -> Iterator[Path]:
        for directory in self.root.glob(f"{TEMPORARY}*"):
            pid = directory.name.rpartition("-")[2]
            if pid.isdecimal() and not _is_process(int(pid)) and not _is_locked(directory):
                yield directory


def _summary(directory: Path, state: State, size: int, reader: ImageReader) -> Snapshot:
    header, outcome = reader.header, reader.outcome
    return Snapshot(
        name=directory.name,
        state=state,
        created=header.created,
        bytes=size,
        note=_note(directory, header.note),
        kernel_id=header.kernel.kernel_id,
        path=header.notebook.path,
        has_document=reader.has(Document),
        automatic=header.automatic,
        kernel_name=header.kernel.kernel_name,
        pid=header.pid,
        comm=header.comm,
        processes=len(outcome.processes) if outcome else 0,
        downtime_ms=outcome.downtime_ms if outcome else None,
    )


def _note(directory: Path, first: str) -> str:
    """The one that was given last."""
    try:
        return (directory / NOTE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return first


def _size_on_disk(directory: Path) -> int:
    total = 0
    for name in (
        MANIFEST,
        f"../packs/{directory.name}.pack",
        f"../packs/{directory.name}.index",
    ):
        with suppress(OSError):
            # st_blocks is in units of 512 bytes whatever the file system (inode(7)).
            total += (directory / name).stat().st_blocks * 512
    return total


def _iso_time(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(directory: Path) -> bool:
    """Whether its writer lives after all: its pid may be of another pid namespace."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(fd)
    return False
