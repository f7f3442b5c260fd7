"""What a cell has raised, on its way past a restore: ``%%checkpoint --rollback`` brings
the kernel back to before the cell, and there it has to be told why.

Front ends forget what a kernel has shown in a past that it has left, and the reply comes
from the kernel that goes on. So that one raises it once more.
"""

from __future__ import annotations

import os
import pickle
import secrets
from contextlib import suppress
from pathlib import Path

from jupyter_cr.glue.forking.messages import Raised
from jupyter_cr.glue.forking.packing import pack_error, unpack_error
from jupyter_cr.kernels.connection import write_connection
from jupyter_cr.kernels.records import private_dir

__all__ = ["Rollback"]


class Rollback:
    """Made before the snapshot, so that it is the same on both sides of a restore."""

    def __init__(self) -> None:
        self._path: Path = private_dir() / f"rollback-{secrets.token_hex(8)}"

    def leave(self, error: BaseException, traceback: tuple[str, ...]) -> None:
        """Leave word for whoever comes back.

        Raises:
            StorageError: that cannot be written.
        """
        content = pickle.dumps(pack_error(error, traceback), pickle.HIGHEST_PROTOCOL)
        write_connection(self._path, content)

    def find(self) -> BaseException | None:
        """What has been left, once; None if this is another restore."""
        with suppress(OSError, pickle.UnpicklingError, EOFError):
            content = self._path.read_bytes()
            os.unlink(self._path)
            raised = pickle.loads(content)
            if isinstance(raised, Raised):
                return unpack_error(raised)
        return None

    def forget(self) -> None:
        """Nobody will come back."""
        with suppress(OSError):
            os.unlink(self._path)
