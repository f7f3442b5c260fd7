"""Processes of the engine that are there before anybody asks for them.

To start one, and have it import what it needs, takes 0.35 s of a processor: more than a
snapshot of an idle kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from jupyter_cr.kernels.engine_process import EngineProcess

__all__ = ["SpareEngine"]


_MOST = 2
"""A restore needs one, and what runs now is kept by another meanwhile."""


class SpareEngine:
    """As many as were needed at once, from the first operation on; as long as something is
    done now and then, since each has its share of memory.

    Args:
        rest_s: seconds after an operation until the next one is started: not while people
            wait for what comes after it.
        keep_s: for how many seconds they are kept.
    """

    def __init__(self, rest_s: float = 0.5, keep_s: float = 1800.0) -> None:
        self._rest_s = rest_s
        self._keep_s = keep_s
        self._spares: list[EngineProcess] = []
        self._in_use = 0
        self._wanted = 1
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_stopped = False

    @asynccontextmanager
    async def process(self, *, is_urgent: bool = True) -> AsyncIterator[EngineProcess]:
        """One for one operation, as `EngineProcess` is entered. It is the next one's, too,
        if it is ready for that at the end.

        Args:
            is_urgent: it will be asked at once; if not, the last one is left to those who
                need it sooner.
        """
        self._later(None)
        ended = [spare for spare in self._spares if not spare.is_ready]
        self._spares = [spare for spare in self._spares if spare not in ended]
        for spare in ended:
            await spare.end()
        is_there = len(self._spares) > (0 if is_urgent else 1)
        engine = self._spares.pop() if is_there else EngineProcess(is_standing=True)
        self._in_use += 1
        self._wanted = min(max(self._wanted, self._in_use), _MOST)
        try:
            yield engine
        finally:
            self._in_use -= 1
            await self._take_back(engine)

    async def _take_back(self, engine: EngineProcess) -> None:
        if engine.is_ready and len(self._spares) < self._wanted and not self._is_stopped:
            self._spares.append(engine)
        elif engine.process.poll() is None and not engine.is_ready:
            # It still writes to disk, or has become a kernel's waiter.
            engine.retire()
        else:
            await engine.end()
        if len(self._spares) < self._wanted:
            self._later(self._start, self._rest_s)
        else:
            self._later(self._expire, self._keep_s)

    def prepare(self) -> None:
        """Have one there soon: it will be needed. One in use comes back, as a rule."""
        if not self._in_use and not any(spare.is_ready for spare in self._spares):
            self._later(self._start)

    async def stop(self) -> None:
        """End all; there will be no others."""
        self._is_stopped = True
        self._later(None)
        if self._ending is not None:
            await self._ending
        await self._end()

    def _start(self) -> None:
        while len(self._spares) < self._wanted:
            self._spares.append(EngineProcess(is_standing=True))
        self._later(self._expire, self._keep_s)

    def _expire(self) -> None:
        self._wanted = 1
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        spares, self._spares = self._spares, []
        for spare in spares:
            await spare.end()

    def _later(self, do: Callable[[], None] | None, delay_s: float = 0.0) -> None:
        """In place of what was to be done later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if do is not None and not self._is_stopped:
            self._timer = asyncio.get_running_loop().call_later(delay_s, do)
