"""Cells that wait in a kernel's queue when a snapshot is taken, and are not to be run.

"Run All Cells" sends all cells at once, so a snapshot that one of them takes holds those
behind it. Who restores or forks it from outside gets them run, as if nothing had
happened. But a cell of that very queue that asks to go back would come again, and ask
again, for ever. So where a kernel has asked itself (`Whereabouts.is_asked_within`), it
goes back and stops there: what had waited is answered with status "aborted", as ipykernel
does with what waits behind a cell that raises.

Which requests those are, the notice says that each restore and fork is followed by
(`jupyter_cr.kernels.glue_protocol`). A cell that comes before it waits for it here.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from jupyter_cr.glue.whereabouts import Whereabouts, find_out
from jupyter_cr.kernels.glue_protocol import WHATEVER_WAITS

__all__ = ["WaitingCells"]

_CELL = "execute_request"
_LIMIT_S = 15.0
"""How long a cell waits for the notice. The server sends it as soon as the engine is done,
unless it has been killed."""


class WaitingCells:
    """Those of one ``ipykernel.kernelbase.Kernel``."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._run: Callable[..., Any] | None = None
        self._changed = threading.Condition()
        self._seen: Whereabouts = find_out()
        self._told: Whereabouts | None = None
        self._abandoned: set[str] = set()
        self._abandons_all = False

    def install(self) -> None:
        """See each cell before it is run."""
        self._run = self._kernel.shell_handlers[_CELL]
        self._kernel.shell_handlers[_CELL] = self._handle

    def uninstall(self) -> None:
        """Undo it."""
        if self._run is not None:
            self._kernel.shell_handlers[_CELL] = self._run
            self._run = None

    def abandon(self, requests: Collection[str]) -> None:
        """This process has been restored or forked, and is not to run some requests.

        Args:
            requests: their ids; or `WHATEVER_WAITS`, where nobody knows them.
        """
        here = find_out()
        with self._changed:
            if WHATEVER_WAITS in requests:
                self._abandons_all = True
                # Also where nothing waits, so that what comes later is run.
                self._kernel.io_loop.add_callback(self._abandon_all)
            self._abandoned.update({*requests} - {WHATEVER_WAITS})
            self._told = here
            self._changed.notify_all()

    def _abandon_all(self) -> bool:
        """Whatever waits now is not run, as ipykernel does with what waits behind a cell
        that raises. Whether that had still to be done."""
        with self._changed:
            is_due, self._abandons_all = self._abandons_all, False
        if is_due:
            self._kernel._abort_queues()
        return is_due

    async def _handle(self, stream: Any, ident: Any, parent: Mapping[str, Any]) -> None:
        if self._is_abandoned(parent["header"]["msg_id"]) or self._abandon_all():
            content = {"status": "aborted"}
            self._kernel.session.send(
                stream, "execute_reply", content, parent, ident, metadata=content
            )
            return
        assert self._run is not None
        result = self._run(stream, ident, parent)
        if inspect.isawaitable(result):
            await result

    def _is_abandoned(self, msg_id: str) -> bool:
        here = find_out()
        with self._changed:
            if here != self._seen:
                self._seen = here
                if here.is_asked_within and not self._wait_for_notice(here):
                    # Nobody knows what had waited: whatever waits now, as ipykernel does
                    # it (`Kernel._abort_queues`).
                    self._kernel._abort_queues()
                    return True
            with suppress(KeyError):
                self._abandoned.remove(msg_id)
                return True
        return False

    def _wait_for_notice(self, here: Whereabouts) -> bool:
        return self._changed.wait_for(lambda: self._told == here, _LIMIT_S)
