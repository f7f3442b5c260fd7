"""What front ends have asked kernels for, of all kernels of a server: one
`jupyter_cr.server.pending.KernelRequests` for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from jupyter_cr.image import NotebookFacts, RunningRequest
from jupyter_cr.server.gate import Gate
from jupyter_cr.server.pending import KernelRequests

__all__ = ["FrontEndRequests", "kernel_requests", "set_gate"]


class FrontEndRequests:
    """Those of all kernels of one server.

    Args:
        kernels: the server's kernel manager.
    """

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def pending(self, kernel_id: str) -> tuple[RunningRequest, ...]:
        """Those that have not been answered, in the order in which they were sent."""
        requests = self._of(kernel_id)
        if getattr(self._kernels.get_kernel(kernel_id), "execution_state", "") == "idle":
            requests.forget_absent()
        return requests.pending()

    def of(self, kernel_id: str) -> KernelRequests:
        """Those of one kernel, which there must be."""
        return self._of(kernel_id)

    def describe(self, kernel_id: str, facts: NotebookFacts) -> NotebookFacts:
        """What its front ends wait for, and which cells these are."""
        running = self.pending(kernel_id)
        last, now = self._of(kernel_id).cells.as_facts({r.msg_id for r in running})
        return msgspec.structs.replace(
            facts, running=running, last_cell=last, running_cell=now
        )

    def cells_run(self, kernel_id: str) -> int:
        """How many cells have been run since the last `settle`, not counting those that
        the kernel went on with."""
        return self._of(kernel_id).cells_run

    def mark(self, kernel_id: str) -> None:
        """The kernel's processes are about to be ended, and others to take their place.
        Optional: without it, it may look as if those went on with what they have done by
        the time of `settle`."""
        self._of(kernel_id).mark()

    @contextmanager
    def held(self, kernel_id: str) -> Iterator[None]:
        """What front ends send meanwhile reaches the kernel at the end.

        To be entered well before a kernel's processes are exchanged, and left after
        `settle`; or without that, if they were not exchanged after all. And before
        `pending` is asked for a snapshot, until the kernel has been frozen. May be nested.
        """
        with self._of(kernel_id).held():
            yield

    def settle(
        self,
        kernel_id: str,
        notebook: NotebookFacts,
        *,
        abort_held: bool = False,
    ) -> bool:
        """Answer what was asked of processes that have ended. Whether those that run now
        are busy.

        Args:
            notebook: as `describe` said when the snapshot was taken: with the requests that
                the kernel will answer itself. To be called for a kernel that was started
                from a snapshot, too, so that they are known.
            abort_held: cells that have been sent since the kernel was `held` are answered
                with "aborted": they waited behind one that has asked to go back.
        """
        requests = self._of(kernel_id)
        requests.cells.go_on(notebook)
        return requests.settle(notebook.running, abort_held)

    def _of(self, kernel_id: str) -> KernelRequests:
        return kernel_requests(self._kernels.get_kernel(kernel_id))


_KERNELS: WeakKeyDictionary[Any, KernelRequests] = WeakKeyDictionary()
_GATES: dict[str, Gate] = {}


def set_gate(kernel_id: str, gate: Gate | None) -> None:
    """Have cells of a kernel wait at a gate, or at none, whichever manager it has."""
    if gate is None:
        _GATES.pop(kernel_id, None)
    else:
        _GATES[kernel_id] = gate


def kernel_requests(manager: Any) -> KernelRequests:
    """Those of one kernel, by its kernel manager, with which they are forgotten."""
    requests = _KERNELS.get(manager)
    if requests is None:
        requests = _KERNELS[manager] = KernelRequests()
    requests.gate = _GATES.get(getattr(manager, "kernel_id", ""))
    # A new one for each launch and shutdown: jupyter_client.manager.in_pending_state.
    requests.follow(getattr(manager, "ready", None))
    return requests
