"""What a restore finds in the place where the new tree is to be, if anything."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from jupyter_cr.engine.descriptors import inherited_log, pipe
from jupyter_cr.engine.descriptors.base import Rebuilding
from jupyter_cr.engine.descriptors.tcp_socket import port_numbers
from jupyter_cr.engine.front_ends import Connected, connected_then, count_front_ends
from jupyter_cr.engine.identity import find_tree
from jupyter_cr.engine.preflight import require_ports
from jupyter_cr.engine.replace import RunningTree
from jupyter_cr.engine.snapshot import Snapshot
from jupyter_cr.errors import NoSuchProcess
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.sock_diag import State, tcp_sockets

__all__ = ["Predecessor"]


@dataclass
class Predecessor:
    """The tree that a restore replaces, if there is one."""

    snapshot: Snapshot
    rebuilding: Rebuilding
    supervisor: int
    root: int | None = None
    """Of that tree, as we see it, where it is known."""
    running: RunningTree | None = None
    connected: Connected = field(default_factory=Connected)
    looked: bool = False

    def look(self) -> None:
        """See what it has, and take what it hands on. May be called again.

        Raises:
            AddressTaken: somebody else has one of the ports.
        """
        if self.looked:
            return
        self.looked = True
        root = self.root
        if root is None:
            root = find_tree(self.snapshot.identity, apart_from=self.supervisor)
        if root is None or _has_ended(root):
            self.connected = connected_then(self.snapshot.files)
            return
        self.running = RunningTree(root)
        self._look_at_files(self.running)
        ports = self._ports()
        if ports:
            sockets = tcp_sockets(states=set(State) - {State.TIME_WAIT})
            require_ports(self.snapshot.files, sockets, self.running.sockets, ports)
            self.connected = count_front_ends(
                sockets, set(ports.values()), self.running.sockets
            )

    def _look_at_files(self, running: RunningTree) -> None:
        outer = {
            f"pipe:[{record.ino}]": record.ino
            for _, record in self.rebuilding.records(pipe.Record)
            if record.outer
        }
        logs = {
            os.fsdecode(record.path)
            for _, record in self.rebuilding.records(inherited_log.Record)
        }
        running.look_at_files({*outer, *logs}, self.rebuilding.stack)
        held = running.held
        self.rebuilding.held = {link: fd for link, fd in held.items() if link in logs}
        self.rebuilding.outer = {
            inode: held[link] for link, inode in outer.items() if link in held
        }

    def _ports(self) -> dict[int, int]:
        """Where the tree listened -> where it is to listen now."""
        recorded = port_numbers(self.snapshot.files)
        if self.rebuilding.mode == "restore":
            return {port: port for port in recorded}
        return {
            port: wanted
            for port, wanted in self.rebuilding.ports.items()
            if port in recorded
        }

    def end(self) -> Connected:
        """End it; who was connected to it.

        Raises:
            RestoreError: a process of it does not end.
        """
        self.look()
        if self.running is not None:
            self.running.end()
        return self.connected


def _has_ended(pid: int) -> bool:
    try:
        return read_stat(pid).state == "Z"
    except NoSuchProcess:
        return True
