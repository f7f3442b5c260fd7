"""Where the store is, and that it is ours alone: snapshots hold whatever was in memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError

__all__ = ["check_root", "is_remote", "prepare_root", "store_root"]


def store_root() -> Path:
    """``$JUPYTER_CR_HOME``, else ``cr`` under Jupyter's data directory."""
    if home := os.environ.get("JUPYTER_CR_HOME"):
        return Path(home).expanduser().absolute()
    # Imported where needed: 25 ms.
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "cr"


def prepare_root(root: Path) -> None:
    """Make the store's directory where there is none, and see that it can be written.

    Raises:
        StorageError: not a directory, not ours, or not writable.
    """
    with storage_errors(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_root(root)
    if not os.access(root, os.W_OK | os.X_OK):
        raise StorageError(
            f"The store {root} is not writable.",
            "Make it writable, or let JUPYTER_CR_HOME name a directory that is.",
        )


def check_root(root: Path) -> None:
    """See that the store is a directory of our own, and closed to everybody else;
    where its mode is wider than 0700, narrow it.

    Raises:
        FileNotFoundError: there is none yet.
        StorageError: not a directory, or another user's.
    """
    status = root.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(
            f"The store {root} is not a directory.",
            "Move it away, or let JUPYTER_CR_HOME name a directory.",
        )
    if status.st_uid != os.geteuid():
        raise StorageError(
            f"The store {root} belongs to user {status.st_uid}, not to {os.geteuid()}.",
            "Run as that user, or let JUPYTER_CR_HOME name a directory of your own.",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        with storage_errors(root):
            root.chmod(0o700)


_REMOTE = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)


def is_remote(root: Path) -> bool:
    """Whether other machines may have the same files: they share no memory with us, which
    SQLite's write-ahead log would need (https://sqlite.org/wal.html)."""
    # Imported where needed: 15 ms, once for each store.
    import psutil

    place = os.path.realpath(root)
    within = [
        part
        for part in psutil.disk_partitions(all=True)
        if place == part.mountpoint or place.startswith(part.mountpoint.rstrip("/") + "/")
    ]
    kind = max(within, key=lambda part: len(part.mountpoint)).fstype if within else ""
    return kind in _REMOTE or kind.startswith("fuse.")
