"""A process of the engine that is there before anybody asks for it.

To start one, and have it import what it needs, takes 0.35 s of a processor: more than a
snapshot of an idle kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from jupyter_cr.kernels.engine_process import EngineProcess

__all__ = ["SpareEngine"]


class SpareEngine:
    """One, from the first operation on; as long as something is done now and then, since it
    has its share of memory.

    Args:
        rest_s: seconds after an operation until the next one is started: not while people
            wait for what comes after it.
        keep_s: for how many seconds it is kept.
    """

    def __init__(self, rest_s: float = 0.5, keep_s: float = 1800.0) -> None:
        self._rest_s = rest_s
        self._keep_s = keep_s
        self._spare: EngineProcess | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_stopped = False

    @asynccontextmanager
    async def process(self) -> AsyncIterator[EngineProcess]:
        """One for one operation, as `EngineProcess` is entered. It is the next one's, too,
        if it is ready for that at the end."""
        spare, self._spare = self._spare, None
        self._later(None)
        if spare is not None and not spare.is_ready:
            await spare.end()
            spare = None
        engine = spare or EngineProcess(is_standing=True)
        try:
            yield engine
        finally:
            await self._take_back(engine)

    async def _take_back(self, engine: EngineProcess) -> None:
        if engine.is_ready:
            if self._spare is None and not self._is_stopped:
                self._spare = engine
                self._later(self._expire, self._keep_s)
                return
            await engine.end()
        elif engine.process.poll() is None:
            # It still writes to disk, or has become a kernel's waiter.
            engine.retire()
        else:
            await engine.end()
        if self._spare is None:
            self._later(self._start, self._rest_s)

    def prepare(self) -> None:
        """Have it there soon: it will be needed."""
        if self._spare is None or not self._spare.is_ready:
            self._later(self._start)

    async def stop(self) -> None:
        """End it; there will be no other."""
        self._is_stopped = True
        self._later(None)
        if self._ending is not None:
            await self._ending
        await self._end()

    def _start(self) -> None:
        self._spare = EngineProcess(is_standing=True)
        self._later(self._expire, self._keep_s)

    def _expire(self) -> None:
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.end()

    def _later(self, do: Callable[[], None] | None, delay_s: float = 0.0) -> None:
        """In place of what was to be done later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if do is not None and not self._is_stopped:
            self._timer = asyncio.get_running_loop().call_later(delay_s, do)
