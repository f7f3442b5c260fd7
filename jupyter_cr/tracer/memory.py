"""The memory of another process, through /proc/pid/mem (proc_pid_mem(5))."""

from __future__ import annotations

import os
from types import TracebackType

from jupyter_cr.errors import EngineError, NoSuchProcess, PermissionDenied

__all__ = ["Memory"]


class Memory:
    """Bytes of process `pid`, read and written whatever their protection.

    Raises:
        NoSuchProcess, PermissionDenied: it cannot be opened.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise NoSuchProcess(f"process {pid} does not exist (any more)") from error
        except PermissionError as error:
            raise PermissionDenied(
                f"this user may not read the memory of process {pid}",
                "Run `jupyter cr check` to see what this machine permits.",
            ) from error

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`. Raises EngineError if any is not mapped."""
        data = os.pread(self.fd, size, address)
        if len(data) != size:
            raise EngineError(
                f"process {self.pid}: {size} bytes at {address:#x} unreadable"
            )
        return data

    def read_available(self, address: int, size: int) -> bytes:
        """As many of `size` bytes at `address` as can be read, maybe none."""
        try:
            return os.pread(self.fd, size, address)
        except OSError:
            return b""

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` at `address`. Raises EngineError if it does not fit."""
        if os.pwrite(self.fd, data, address) != len(data):
            raise EngineError(
                f"process {self.pid}: {len(data)} bytes at {address:#x} not writable"
            )

    def close(self) -> None:
        """Give the descriptor back; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
