"""Leases: who is writing a snapshot, and who is reading it.

A lease is flock(2) on the file ``lease`` of the snapshot's directory: held alone by its
writer and by whoever deletes it, held with others by its readers. Linux gives it up for a
process that dies, whatever its pid and its pid namespace, and NFS takes it for a lock that
other machines see.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError, StoreBusy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LEASE", "Lease", "is_held", "lock_file"]

LEASE = "lease"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_PATIENCE_S = 0.05
"""Those who only want to know whether a lease is held have it for some microseconds."""


class Lease:
    """One that is held. A context manager.

    Args:
        fd: of the lock file; closed with the lease.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def new(cls, directory: Path) -> Lease:
        """Make a new directory's lease, and hold it alone.

        Raises:
            StorageError: it cannot be written, or the file system has no locks.
        """
        path = directory / LEASE
        with storage_errors(path):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        return cls._locked(fd, path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def none(cls) -> Lease:
        """One that is not held."""
        return cls(-1)

    @classmethod
    def read(cls, directory: Path) -> Lease | None:
        """Hold a snapshot's lease with others; waits for whoever holds it alone. None if
        the snapshot is gone."""
        path = directory / LEASE
        try:
            flags = os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
        except OSError:
            # Where nothing can be written, nothing can be deleted.
            return cls.none() if directory.is_dir() else None
        return cls._locked(fd, path, fcntl.LOCK_SH)._unless_gone(path)

    @classmethod
    def seize(cls, directory: Path) -> Lease | None:
        """Hold a snapshot's lease alone; None if somebody else holds it, or it is gone.

        Raises:
            StorageError: it cannot be opened for writing.
        """
        path = directory / LEASE
        with storage_errors(path):
            try:
                flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(path, flags, 0o600)
            except (FileNotFoundError, NotADirectoryError):
                return None
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.002)
                    continue
                os.close(fd)
                return None
            except OSError as error:
                os.close(fd)
                raise _no_locks(path, error) from error
            return cls(fd)._unless_gone(path)

    @classmethod
    def _locked(cls, fd: int, path: Path, how: int) -> Lease:
        try:
            fcntl.flock(fd, how)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreBusy(
                f"{path} is locked.", "Wait a moment, and try again."
            ) from error
        except OSError as error:
            os.close(fd)
            raise _no_locks(path, error) from error
        return cls(fd)

    def _unless_gone(self, path: Path) -> Lease | None:
        """Whoever held it before may have deleted it."""
        try:
            if os.path.samestat(os.fstat(self._fd), path.lstat()):
                return self
        except OSError:
            pass
        self.release()
        return None

    @property
    def is_held(self) -> bool:
        """Whether it has not been given up yet."""
        return self._fd >= 0

    def share(self) -> None:
        """Hold it with others from now on."""
        if self.is_held:
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give it up; safe to call twice. Processes that were forked meanwhile have the
        descriptor, too, so closing it would not do."""
        if self.is_held:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_held(directory: Path, *, by_reader: bool = False) -> bool:
    """Whether somebody writes a snapshot; or, with `by_reader`, writes or reads it."""
    try:
        fd = os.open(directory / LEASE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    how = fcntl.LOCK_EX if by_reader else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # Not to be found out, so that it may be.
        return True
    finally:
        os.close(fd)
    return False


def lock_file(path: Path, *, alone: bool, wait: bool = True) -> Lease:
    """Hold a lock on a file, which is made where there is none.

    Args:
        wait: for those who hold it in another way.

    Raises:
        StoreBusy: somebody does, and it is not to be waited for.
        StorageError: it cannot be written, or the file system has no locks.
    """
    with storage_errors(path):
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    return Lease._locked(fd, path, how if wait else how | fcntl.LOCK_NB)


def _no_locks(path: Path, error: OSError) -> StorageError:
    if error.errno in _NO_LOCKS:
        return StorageError(
            f"{path} cannot be locked: its file system has no locks (flock).",
            "Let JUPYTER_CR_HOME name a directory on another one.",
        )
    return StorageError(
        f"{path} cannot be locked: {error.strerror}.",
        "Let JUPYTER_CR_HOME name a directory on another disk.",
    )
