"""An engine's process that is started ahead: it takes some 150 ms to start, which is most
of what a point of the timeline takes."""

from __future__ import annotations

from jupyter_cr.kernels.engine_process import EngineProcess

__all__ = ["SpareEngine"]


class SpareEngine:
    """One at most, for whoever comes first."""

    def __init__(self) -> None:
        self._spare: EngineProcess | None = None

    def prepare(self) -> None:
        """Have one ready soon."""
        if self._spare is None or self._spare.process.poll() is not None:
            self._spare = EngineProcess()

    def take(self) -> EngineProcess:
        """One for the caller alone, to be entered at once: the spare one, or another."""
        spare, self._spare = self._spare, None
        if spare is None or spare.process.poll() is not None:
            return EngineProcess()
        return spare

    async def stop(self) -> None:
        """End it, if nobody has taken it."""
        spare, self._spare = self._spare, None
        if spare is not None:
            async with spare:
                pass
