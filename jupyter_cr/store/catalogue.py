"""The catalogue: a database (SQLite) of what the store has.

It is in write-ahead-log mode, in which readers and the one writer do not wait for each
other; on network file systems, where that does not work, it has a rollback journal.
Whatever is done is one short transaction, with a lock on ``ROOT/lock`` shared by all that
write. Who finds the database damaged makes it anew, with that lock held alone, and renames
it over the old one; all others notice that the file is another one now.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError, StoreBusy
from jupyter_cr.store.lease import lock_file
from jupyter_cr.store.root import check_root, is_remote, prepare_root
from jupyter_cr.store.session import SCHEMA, VERSION, DamagedError, Session

__all__ = ["CATALOGUE", "Catalogue"]

CATALOGUE = "catalogue.sqlite"
_LOCK = "lock"
_BUSY_S = 30.0
"""Nobody holds a transaction for long; but its sync may wait for a snapshot's gigabytes."""
_PATIENCE_MS = 50
"""Of who can do without."""

T = TypeVar("T")


class Catalogue:
    """Of one store. To be used by any thread; a process that is forked has its own.

    Args:
        root: the store's directory.
        fill: tells a new catalogue what the directories say.
        is_empty: whether there is nothing that a catalogue could be made from.
    """

    def __init__(
        self,
        root: Path,
        fill: Callable[[Session], None],
        is_empty: Callable[[], bool],
    ) -> None:
        self._root = root
        self._path = root / CATALOGUE
        self._fill = fill
        self._is_empty = is_empty
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = (0, 0, 0)
        """Who has opened the connection, and which file: pid, device, inode."""

    def read(self, work: Callable[[Session], T]) -> T:
        """Do what changes nothing, on the catalogue as it is at one instant. What `work`
        does may be done twice.

        Raises:
            StorageError: the store cannot be read, or is another user's.
            StoreBusy: somebody else has been writing for half a minute.
        """
        try:
            check_root(self._root)
        except FileNotFoundError:
            return self._in_memory(work, with_content=False)
        with self._mutex:
            try:
                return self._until_sound(lambda: self._read(work))
            except _UnwritableError:
                # Not even what reading needs can be written.
                self.close()
                return self._immutable(work)

    def _read(self, work: Callable[[Session], T]) -> T:
        if self._is_missing():
            if self._is_empty():
                return self._in_memory(work, with_content=False)
            self._make()
        return _run(self._connect(), "BEGIN", work, self._path)

    def write(self, work: Callable[[Session], T], *, patient: bool = True) -> T:
        """Do what changes the catalogue, alone and whole, or not at all. What `work` does
        may be done twice.

        Args:
            patient: wait for others, and until it would survive a power cut.

        Raises:
            StorageError: the store cannot be written, or is another user's.
            StoreBusy: somebody else has been writing for half a minute.
        """
        prepare_root(self._root)
        with self._mutex, self._writable():
            return self._until_sound(lambda: self._write(work, patient))

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except _UnwritableError as error:
            raise error.told_of(self._path) from error

    def _write(self, work: Callable[[Session], T], patient: bool) -> T:
        if self._is_missing():
            self._make()
        lock = lock_file(self._root / _LOCK, alone=False, wait=patient)
        with lock, _storage_errors(self._path):
            connection = self._connect()
            if patient:
                return _run(connection, "BEGIN IMMEDIATE", work, self._path)
            connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
            connection.execute("PRAGMA synchronous = OFF")
            try:
                return _run(connection, "BEGIN IMMEDIATE", work, self._path)
            finally:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")

    def _until_sound(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except DamagedError:
            damaged = self._owner[1:]
            self.close()
        self._make(instead_of=damaged)
        try:
            return work()
        except DamagedError as error:
            raise StorageError(
                f"The catalogue {self._path} is damaged again as soon as it is made: "
                f"{error}.",
                "Look at the disk's health (dmesg), or let JUPYTER_CR_HOME name another.",
            ) from error

    def rebuild(self) -> None:
        """Make it anew from what the directories say.

        Raises:
            StorageError: the store cannot be written, or is another user's.
        """
        prepare_root(self._root)
        with self._mutex, self._writable():
            self._make(instead_of=self._inode())

    def is_sound(self) -> bool:
        """Read all of it, and see whether it is as SQLite wrote it.

        Raises:
            StorageError: the store cannot be read, or is another user's.
        """
        with self._mutex:
            # As somebody sees it who opens it now: SQLite keeps what it has read.
            self.close()
            if self._is_missing():
                return True
            try:
                with self._writable(), _storage_errors(self._path):
                    answer = self._connect().execute("PRAGMA quick_check").fetchone()
                return bool(answer[0] == "ok")
            except DamagedError:
                return False

    def close(self) -> None:
        """Safe to call twice; what comes later opens it again."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._owner[0] == os.getpid():
                connection.close()
            else:
                # Of the process that we were forked from, which goes on with it.
                _OTHERS.append(connection)

    def _connect(self) -> sqlite3.Connection:
        owner = (os.getpid(), *self._inode())
        if self._connection is None or self._owner != owner:
            self.close()
            self._owner = owner
            with self._opening():
                self._connection = _open(self._path)
        return self._connection

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Nobody replaces the file meanwhile: what SQLite puts beside it would be taken
        for the new one's."""
        with ExitStack() as held:
            if os.access(self._root, os.W_OK):
                held.enter_context(lock_file(self._root / _LOCK, alone=False))
            yield

    def _inode(self) -> tuple[int, int]:
        try:
            status = self._path.lstat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _is_missing(self) -> bool:
        if self._path.is_symlink():
            raise StorageError(
                f"The catalogue {self._path} is a link.",
                "Move it away: a new one is made.",
            )
        return not self._path.exists()

    def _make(self, instead_of: tuple[int, int] = (0, 0)) -> None:
        """Make a new one, unless somebody else has meanwhile."""
        try:
            lock = lock_file(self._root / _LOCK, alone=True)
            with lock, _storage_errors(self._path):
                if self._inode() not in ((0, 0), instead_of):
                    return
                self.close()
                self._replace()
        except StorageError as error:
            raise _UnwritableError(error) from error

    def _replace(self) -> None:
        new = self._delete_unfinished()
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(new, isolation_level=None)
        try:
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            _run(connection, "BEGIN IMMEDIATE", self._fill, new)
            if not is_remote(self._root):
                connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        # They belong to the old one, and would be taken for the new one's.
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        new.rename(self._path)

    def _delete_unfinished(self) -> Path:
        """Where a new one is made: somebody may have been killed while he did that."""
        new = self._root / f"{CATALOGUE}.new"
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{new}{suffix}").unlink(missing_ok=True)
        return new

    def tidy(self) -> None:
        """Delete what was killed in the making.

        Raises:
            StorageError: the store cannot be written.
        """
        with lock_file(self._root / _LOCK, alone=True), storage_errors(self._root):
            self._delete_unfinished()

    def _in_memory(self, work: Callable[[Session], T], *, with_content: bool = True) -> T:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        try:
            connection.executescript(SCHEMA)
            session = Session(connection)
            if with_content:
                self._fill(session)
            return work(session)
        finally:
            connection.close()

    def _immutable(self, work: Callable[[Session], T]) -> T:
        """A catalogue that nobody can write is read as it is; unless a process was killed
        while it wrote, and what it wrote is still to be put in place."""
        wal = Path(f"{self._path}-wal")
        try:
            is_whole = not wal.exists() or not wal.stat().st_size
            if is_whole:
                uri = f"{self._path.as_uri()}?mode=ro&immutable=1"
                connection = sqlite3.connect(uri, uri=True, isolation_level=None)
                try:
                    return _run(connection, "BEGIN", work, self._path)
                finally:
                    connection.close()
        except (DamagedError, _UnwritableError, OSError, sqlite3.Error):
            pass
        return self._in_memory(work)


_OTHERS: list[sqlite3.Connection] = []


class _UnwritableError(Exception):
    """The catalogue cannot be written, nor what SQLite wants beside it for reading.

    Args:
        why: what a person is told, or SQLite's words.
    """

    def __init__(self, why: StorageError | str) -> None:
        super().__init__(str(why))
        self._why = why

    def told_of(self, path: Path) -> StorageError:
        """What a person is told."""
        if isinstance(self._why, StorageError):
            return self._why
        if "full" in self._why:
            return StorageError(
                f"Cannot write {path}: No space left on device.",
                "Make room there (`jupyter cr list`, `jupyter cr rm NAME`), or let "
                "JUPYTER_CR_HOME name a directory on a larger disk.",
            )
        return StorageError(
            f"Cannot write {path}: {self._why}.",
            "Make it writable, or let JUPYTER_CR_HOME name a directory that is.",
        )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise _translated(error, path) from error
        raise
    if version > VERSION:
        connection.close()
        raise StorageError(
            f"The catalogue {path} was written by a later release.",
            "Use that, or move the file away: a new one is made, without tags that are "
            "only in it.",
        )
    if version < VERSION:
        connection.close()
        raise DamagedError(f"it is of version {version}")
    return connection


def _run(
    connection: sqlite3.Connection, begin: str, work: Callable[[Session], T], path: Path
) -> T:
    with _storage_errors(path):
        connection.execute(begin)
        try:
            result = work(Session(connection))
            connection.execute("COMMIT")
            return result
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        with storage_errors(path):
            yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    """SQLite's error, as a person can act on it."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError):
        return DamagedError(text)
    if "locked" in text or "busy" in text:
        return StoreBusy(
            f"The catalogue {path} is being written by somebody else.",
            "Wait a moment, and try again.",
        )
    if "no such" in text or "already exists" in text or "malformed" in text:
        return DamagedError(text)
    return _UnwritableError(text)
