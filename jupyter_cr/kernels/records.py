"""What a server notes of each kernel that it has started, so that another one can take
over those of a server that was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from jupyter_cr.kernels.connection import runtime_dir, write_connection

__all__ = ["KernelRecord", "find_guardian", "iter_orphans", "private_dir"]

_PREFIX = "kernel-"
_SUFFIX = ".json"


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel, and the server that looks after it."""

    kernel_id: str
    kernel_name: str
    connection_file: str
    cwd: str = ""
    session_name: str = ""
    """Absolute path of the notebook for which it was started (JPY_SESSION_NAME)."""
    server: int
    """Pid of the server."""
    server_started: float
    """When that process was created, in seconds since 1970: pids are used again."""

    @classmethod
    def of(
        cls, kernel_id: str, kernel_name: str, connection_file: str, **more: str
    ) -> KernelRecord:
        """Of a kernel of this process."""
        return cls(
            kernel_id=kernel_id,
            kernel_name=kernel_name,
            connection_file=connection_file,
            server=os.getpid(),
            server_started=psutil.Process().create_time(),
            **more,
        )

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return private_dir() / f"{_PREFIX}{self.kernel_id}{_SUFFIX}"

    @property
    def is_orphan(self) -> bool:
        """Whether its server is gone."""
        try:
            created: float = psutil.Process(self.server).create_time()
            return created != self.server_started
        except psutil.NoSuchProcess:
            return True

    def write(self) -> None:
        """Keep it, in place of what was known before.

        Raises:
            StorageError: it cannot be written.
        """
        write_connection(self.path, msgspec.json.encode(self), replace=True)

    def remove(self) -> None:
        """Its kernel has ended."""
        self.path.unlink(missing_ok=True)

    def claim(self) -> bool:
        """Take it away, so that only one server adopts the kernel.

        Returns:
            Whether it was there.
        """
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True


def private_dir() -> Path:
    """``jupyter-cr`` under Jupyter's runtime directory."""
    return runtime_dir() / "jupyter-cr"


def iter_orphans() -> Iterator[KernelRecord]:
    """The records of kernels whose server is gone. Whether they live is not known."""
    for path in sorted(private_dir().glob(f"{_PREFIX}*{_SUFFIX}")):
        record = _read(path)
        if record is not None and record.is_orphan:
            yield record


def find_guardian(kernel_id: str) -> int | None:
    """Pid of the living server, if it is another one than this process, that looks after
    a kernel."""
    record = _read(private_dir() / f"{_PREFIX}{kernel_id}{_SUFFIX}")
    if record is None or record.is_orphan or record.server == os.getpid():
        return None
    return record.server


def _read(path: Path) -> KernelRecord | None:
    # Another server may be clearing up, and what cannot be read is nobody's.
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=KernelRecord)
    return None
