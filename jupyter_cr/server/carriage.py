"""Bundles on their way between the server and whoever asks: a process of the engine makes
or reads them, since that takes long, and they go through pipes, since they are large."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import cast

from jupyter_cr.bundles import ImportResult
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.store.bundle import BundleFacts

__all__ = ["Upload", "iter_bundle"]

_PIECE = 1 << 20


async def iter_bundle(name: str) -> AsyncGenerator[bytes, None]:
    """A bundle, piece by piece. The first comes when all of the snapshot has been read.
    To be closed: that calls it off.

    Raises:
        ImageError: no such snapshot, or it is damaged.
        StorageError: disk full.
    """
    read, write = os.pipe()
    pipe = os.fdopen(read, "rb", buffering=0)
    try:
        engine = EngineProcess([write])
    finally:
        # The pipe is to end as the process does.
        os.close(write)
    async with engine, _pieces(pipe) as pieces:
        request = {"op": "export", "name": name, "fd": write}
        made = asyncio.ensure_future(engine.run(request, BundleFacts))
        try:
            while piece := await pieces.read(_PIECE):
                yield piece
            await made
        finally:
            made.cancel()
            with suppress(Exception, asyncio.CancelledError):
                await made


@asynccontextmanager
async def _pieces(pipe: object) -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader(limit=_PIECE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield reader
    finally:
        transport.close()


class Upload:
    """A bundle that comes piece by piece."""

    def __init__(self, engine: EngineProcess, request: Mapping[str, object]) -> None:
        self._engine = engine
        self._request = request
        self._flow = _Flow()

    @classmethod
    async def begin(cls, source: str, name: str | None = None) -> Upload:
        """Be ready for one. `take` is to be begun, and `end` or `abandon` called.

        Args:
            source: what it is called, for messages.
            name: of the snapshot here; None: the one that it had, or one like it.
        """
        read, write = os.pipe()
        pipe = os.fdopen(write, "wb", buffering=0)
        try:
            engine = EngineProcess([read])
        finally:
            os.close(read)
        request = {"op": "import", "source": source, "name": name, "fd": read}
        upload = cls(engine, request)
        loop = asyncio.get_running_loop()
        await loop.connect_write_pipe(lambda: upload._flow, pipe)
        return upload

    async def take(self, progress: Progress) -> ImportResult:
        """Have the engine read it; ends after `end`, or when something is wrong with it.

        Raises:
            CheckpointRestoreError: as `jupyter_cr.bundles.import_snapshot`.
        """
        try:
            async with self._engine as engine:
                return await engine.run(self._request, ImportResult, progress)
        finally:
            self._flow.abort()

    async def add(self, piece: bytes) -> None:
        """Some more of it, at most as quickly as it is read. What nobody reads any more is
        thrown away: why that is, `take` tells."""
        await self._flow.write(piece)

    def end(self) -> None:
        """That was all."""
        self._flow.close()

    def abandon(self) -> None:
        """It will never be whole."""
        self._flow.abort()


class _Flow(asyncio.BaseProtocol):
    """The end of a pipe that is written to."""

    def __init__(self) -> None:
        self._may_write = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._may_write.set()

    async def write(self, data: bytes) -> None:
        await self._may_write.wait()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
