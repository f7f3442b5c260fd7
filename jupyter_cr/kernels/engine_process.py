"""The engine in a process of its own, seen from a server: an operation is started,
tells how far it is, and gives its result, while the event loop goes on.

The other side is `jupyter_cr.engine.__main__`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from jupyter_cr.errors import Cancelled, EngineError
from jupyter_cr.kernels.lines import ErrorLine, ProgressLine, ResultLine, decode_line
from jupyter_cr.store import store_root

__all__ = ["EngineProcess", "Progress"]

Progress = Callable[[str, float], None]
"""Called in the event loop with a phase's name and how much of it is done, 0 to 1."""

T = TypeVar("T")

_LINE_LIMIT = 256 << 20


class EngineProcess(Generic[T]):
    """One operation. The process runs from the moment that this is made.

    Args:
        request: as `jupyter_cr.engine.__main__` takes it; ``op`` and arguments.
        result_type: of what it results in.

    Attributes:
        process: with ``stay`` in the request, and after `result`, it lives as long as
            the tree that it has brought back, and ends as the tree's root ends.
    """

    def __init__(self, request: Mapping[str, Any], result_type: type[T]) -> None:
        self._result_type = result_type
        self._stays = bool(request.get("stay"))
        self._is_called_off = False
        # A file and no pipe: a notebook may be in it, and nobody has to feed it.
        stdin = os.memfd_create("jupyter-cr request", os.MFD_CLOEXEC)
        try:
            with open(stdin, "wb", closefd=False) as file:
                file.write(msgspec.json.encode(request) + b"\n")
            os.lseek(stdin, 0, os.SEEK_SET)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_cr.engine"],
                stdin=stdin,
                stdout=subprocess.PIPE,
                # Not the server's, where anybody's modules may lie about.
                cwd="/",
                env={**os.environ, "JUPYTER_CR_HOME": str(store_root())},
                start_new_session=True,
            )
        finally:
            os.close(stdin)

    async def result(self, progress: Progress | None = None) -> T:
        """Wait for the operation. If the caller is cancelled, so is the operation; if it
        is too late for that, its result is given all the same.

        Raises:
            CheckpointRestoreError: as the operation did.
            EngineError: the process died.
        """
        reading = asyncio.ensure_future(self._read(progress))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._is_called_off = True
            self.process.terminate()
            with suppress(Cancelled):
                return await reading
            raise

    async def _read(self, progress: Progress | None) -> T:
        assert self.process.stdout is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self.process.stdout
        )
        try:
            result = await self._read_result(reader, progress)
        except BaseException:
            await self._reap()
            raise
        finally:
            transport.close()
        if not self._stays:
            await self._reap()
        return result

    async def _read_result(
        self, reader: asyncio.StreamReader, progress: Progress | None
    ) -> T:
        while line := await reader.readline():
            message = decode_line(line)
            if isinstance(message, ResultLine):
                return msgspec.json.decode(message.result, type=self._result_type)
            if isinstance(message, ErrorLine):
                raise message.as_error()
            if isinstance(message, ProgressLine) and progress is not None:
                progress(message.phase, message.fraction)
        if self._is_called_off:
            # SIGTERM came before it could be heard: nothing had been begun.
            raise Cancelled("The operation was called off.", "Nothing has been changed.")
        raise EngineError(
            f"The engine's process {self.process.pid} died without an answer.",
            "Try again; the server's log may tell more.",
        )

    async def _reap(self) -> None:
        await asyncio.to_thread(self.process.wait)
