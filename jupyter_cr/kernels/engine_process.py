"""The engine in a process of its own, seen from a server: an operation is started,
tells how far it is, and gives its result, while the event loop goes on.

The other side is `jupyter_cr.engine.__main__`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from jupyter_cr.errors import Cancelled, EngineError
from jupyter_cr.kernels.lines import (
    ErrorLine,
    LiveLine,
    ProgressLine,
    ResultLine,
    decode_line,
)
from jupyter_cr.store import store_root

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EngineProcess", "Progress"]

Progress = Callable[[str, float], None]
"""Called in the event loop with a phase's name and how much of it is done, 0 to 1."""

T = TypeVar("T")

_LINE_LIMIT = 256 << 20


class EngineProcess:
    """One operation in a process that runs from the moment that this is made. It takes
    some 150 ms to start: made ahead, it does so while the caller is at something else.

    To be entered with ``async with``: what has not been asked for anything by the end is
    ended.

    Args:
        pass_fds: descriptors that it has, too, under the same numbers.
        is_standing: it can be asked again and again, one thing at a time, until the end, or
            until the first error.

    Attributes:
        process: with ``stay`` in the request, and after `run`, it lives as long as the
            tree that it has brought back, and ends as the tree's root ends.
    """

    def __init__(
        self, pass_fds: Collection[int] = (), *, is_standing: bool = False
    ) -> None:
        self._is_standing = is_standing
        self._is_asked = False
        self._is_busy = False
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._is_called_off = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_cr.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not the server's, where anybody's modules may lie about.
            cwd="/",
            env={**os.environ, "JUPYTER_CR_HOME": str(store_root())},
            start_new_session=True,
            pass_fds=pass_fds,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._is_standing or not self._is_asked:
            await self.end()

    async def end(self) -> None:
        """End it, whatever it is at. May be called again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self._close()
        self.process.stdout.close()
        await self._reap()

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked (again)."""
        can_be = self._is_standing or not self._is_asked
        return can_be and not self._is_busy and self.process.poll() is None

    def retire(self) -> None:
        """What it is at is its last."""
        self._is_standing = False
        self._hang_up()

    async def run(
        self,
        request: Mapping[str, Any],
        result_type: type[T],
        progress: Progress | None = None,
        live: Callable[[T], None] | None = None,
    ) -> T:
        """Have it do its operation. If the caller is cancelled, so is the operation; if
        it is too late for that, its result is given all the same.

        Args:
            request: as `jupyter_cr.engine.__main__` takes it; ``op`` and arguments.
            result_type: of what it results in.
            live: told what there is already, if that is of use before the end.

        Raises:
            CheckpointRestoreError: as the operation did.
            EngineError: the process died.
        """
        self._is_asked = self._is_busy = True
        if request.get("stay"):
            self._is_standing = False
        running = asyncio.ensure_future(self._run(request, result_type, progress, live))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._is_called_off = True
            self.process.terminate()
            with suppress(Cancelled):
                return await running
            raise

    async def _run(
        self,
        request: Mapping[str, Any],
        result_type: type[T],
        progress: Progress | None,
        live: Callable[[T], None] | None,
    ) -> T:
        def tell(raw: msgspec.Raw) -> None:
            if live is not None:
                live(msgspec.json.decode(raw, type=result_type))

        # A notebook may be in it, which is more than a pipe takes at once.
        await asyncio.to_thread(self._ask, msgspec.json.encode(request) + b"\n")
        try:
            result = await self._read_result(await self._answers(), progress, tell)
        except BaseException:
            self._hang_up()
            await self._reap()
            self._close()
            raise
        finally:
            self._is_busy = False
        if not self._is_standing:
            self._close()
            if not request.get("stay"):
                await self._reap()
        return msgspec.json.decode(result, type=result_type)

    def _ask(self, line: bytes) -> None:
        assert self.process.stdin is not None
        # Whether it lives, its answer tells.
        with suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()
        if not self._is_standing:
            self._hang_up()

    def _hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    async def _answers(self) -> asyncio.StreamReader:
        if self._reader is None:
            assert self.process.stdout is not None
            reader = self._reader = asyncio.StreamReader(limit=_LINE_LIMIT)
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), self.process.stdout
            )
        return self._reader

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _read_result(
        self,
        reader: asyncio.StreamReader,
        progress: Progress | None,
        live: Callable[[msgspec.Raw], None],
    ) -> msgspec.Raw:
        while line := await reader.readline():
            message = decode_line(line)
            if isinstance(message, ResultLine):
                return message.result
            if isinstance(message, ErrorLine):
                raise message.as_error()
            if isinstance(message, LiveLine):
                live(message.result)
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
