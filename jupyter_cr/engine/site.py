"""The building site: namespaces with keepers, and a seed for each process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jupyter_cr.engine.container import Container, is_outside, make_container
from jupyter_cr.engine.controlling_terminals import ControllingTerminals
from jupyter_cr.engine.descriptors.base import Mode
from jupyter_cr.engine.family import INIT, grow_family
from jupyter_cr.engine.identity import ASKED_WITHIN, SEED_NAME
from jupyter_cr.engine.seed import Seed, spare_workspace_size
from jupyter_cr.engine.snapshot import Snapshot
from jupyter_cr.engine.twin import ParkedTwin, read_twins
from jupyter_cr.engine.warm import can_start_warm, start_warm
from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.tracer.handover import Handover
from jupyter_cr.tracer.proc.maps import find_gap
from jupyter_cr.tracer.remote import CallFailed

__all__ = ["Site", "break_ground"]


@dataclass(frozen=True)
class Site:
    """`seeds` by the pids that they have inside; those that are `warm` have their
    memory already."""

    container: Container
    seeds: dict[int, Seed]
    warm: frozenset[int]

    def parent_of(self, snapshot: Snapshot) -> Seed:
        """Of the root: a stand-in, or init."""
        return self.seeds.get(snapshot.root.ids.ppid, self.seeds[INIT])

    def clear(self) -> None:
        """End everything on it."""
        self.container.clear()


def break_ground(
    snapshot: Snapshot,
    mode: Mode,
    name: str,
    handover: Handover,
    warn: Callable[[str], None],
    terminals: ControllingTerminals,
    *,
    identity: str,
    asked_within: bool = False,
) -> Site:
    """Make the namespaces and the processes, in the tree's order.

    Args:
        identity: that the tree is to have (`Identity.text`).

    Raises:
        RestoreError: this user may not have namespaces here.
        PidTaken: cannot happen in a new namespace, unless the snapshot is odd.
    """
    twin = _find_twin(snapshot)
    threads = max(len(record.threads) for record in snapshot.living)
    occupied = [
        bounds
        for layout in snapshot.layouts({record.pid for record in snapshot.living})
        for bounds in layout.occupied
    ]
    address = find_gap(occupied, spare_workspace_size(threads))
    argv = [SEED_NAME, identity, name, mode, *([ASKED_WITHIN] if asked_within else [])]
    within = None if twin is None or is_outside(twin.pid) else twin.pid
    try:
        container = make_container(address, threads, argv, warn, handover, within)
    except (CheckpointRestoreError, OSError):
        if within is None:
            raise
        # So many are in each other by now, or the one around is about to end.
        twin = None
        container = make_container(address, threads, argv, warn, handover)
    try:
        given: dict[int, Seed] = {}
        if twin is not None:
            given = _start_warm(twin, container, snapshot, handover, argv, warn)
        family = grow_family(container.init, snapshot.processes, given, terminals)
        warm = frozenset({record.pid for record in snapshot.living} & set(given))
        return Site(container, family.seeds, warm)
    except BaseException:
        container.clear()
        raise


def _start_warm(
    twin: ParkedTwin,
    container: Container,
    snapshot: Snapshot,
    handover: Handover,
    argv: Sequence[str],
    warn: Callable[[str], None],
) -> dict[int, Seed]:
    """Nothing if the twin may not enter the container: all is read then."""
    try:
        return start_warm(twin, container, snapshot.processes, handover, argv)
    except CallFailed as error:
        if error.call.name != "setns":
            raise
        warn(
            "Memory is not shared with the snapshot, but was read from disk: setns "
            f"is forbidden here ({error.strerror}), as by a container's seccomp profile."
        )
        return {}


def _find_twin(snapshot: Snapshot) -> ParkedTwin | None:
    """The root's twin, if the new tree can begin with it."""
    for twin in read_twins(snapshot.reader.directory):
        if twin.of == snapshot.identity.root and can_start_warm(snapshot.living, twin):
            return twin
    return None
