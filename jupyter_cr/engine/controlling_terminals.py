"""Controlling terminals (credentials(7), tcsetpgrp(3)): those whose master side is in the
tree.

They are inherited and cannot be had otherwise but by a session's leader. So the leader
of a session has to have one before it clones anybody.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jupyter_cr.engine.descriptors import pseudoterminal
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.seed import Seed
from jupyter_cr.errors import RestoreError
from jupyter_cr.tracer import tty
from jupyter_cr.tracer.calls import Call
from jupyter_cr.tracer.handover import Handover

__all__ = ["ControllingTerminals"]


@dataclass(frozen=True)
class ControllingTerminals:
    """Those of one restore or fork."""

    rebuilding: Rebuilding
    handover: Handover

    def give(self, leader: Seed) -> None:
        """Called when a session begins.

        Raises:
            RestoreError: there can be no pseudoterminal.
        """
        for record, state in self._iter_states():
            if state.session != leader.pid:
                continue
            try:
                self._have_call(leader, record, tty.TIOCSCTTY)
            except OSError as error:
                raise RestoreError(
                    f"process {leader.pid} gets no pseudoterminal: {error.strerror}",
                    "See whether /dev/ptmx and /dev/pts are there, and how many there "
                    "may be (/proc/sys/kernel/pty/max).",
                ) from error

    def finish(self, seeds: Mapping[int, Seed]) -> None:
        """Called when all process groups are there."""
        for record, state in self._iter_states():
            if state.session and state.foreground:
                group = struct.pack("i", state.foreground)
                self._have_call(seeds[state.session], record, tty.TIOCSPGRP, group)
            for pid in state.without:
                self._have_call(seeds[pid], record, tty.TIOCNOTTY)

    def _iter_states(
        self,
    ) -> Iterator[tuple[pseudoterminal.Record, pseudoterminal.State]]:
        for _, record in self.rebuilding.records(pseudoterminal.Record):
            if record.state is not None:
                yield record, record.state

    def _have_call(
        self,
        seed: Seed,
        record: pseudoterminal.Record,
        request: int,
        argument: int | bytes = 0,
    ) -> None:
        slave = pseudoterminal.open_slave(record, self.rebuilding)
        (fd,) = self.handover.give(seed.thread, [slave])
        # A group of which nobody is left cannot be in the foreground.
        optional = request == tty.TIOCSPGRP
        call = Call("ioctl", (fd, request, argument), optional)
        seed.thread.run([call, Call("close", (fd,))])
