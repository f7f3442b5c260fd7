"""Growing the tree: who is cloned by whom, so that parents, sessions and process
groups come out as they were (setsid(2), setpgid(2), credentials(7)).

A session can only be inherited, so the order matters: a leader clones what belongs to
the session it came from before it begins its own. An orphan (its parent, one of the
tree, had ended) is cloned inside its session by somebody who then ends.

`plan_family` decides all of it from records alone. It is asked at checkpoint too: what
it refuses there need not be refused at restore.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jupyter_cr.engine.controlling_terminals import ControllingTerminals
from jupyter_cr.engine.seed import Seed, clone_seed
from jupyter_cr.engine.state import process
from jupyter_cr.errors import Unsupported
from jupyter_cr.tracer.calls import Call

__all__ = ["Birth", "Family", "grow_family", "plan_family"]

INIT = 1


@dataclass(frozen=True, slots=True)
class Birth:
    """`pid` is cloned by `creator` and, with `leads`, begins a session then. A
    `stand_in` is no process of the snapshot; `stays` if the tree needs it to live."""

    pid: int
    creator: int
    leads: bool = False
    stand_in: bool = False
    stays: bool = False
    exit_signal: int = 17


@dataclass
class Family:
    """All seeds by their own pids, and who the root's parent is."""

    seeds: dict[int, Seed] = field(default_factory=dict)
    stand_ins: list[Birth] = field(default_factory=list)


@dataclass
class _Planner:
    records: Mapping[int, process.Record]
    births: list[Birth] = field(default_factory=list)
    sessions: dict[int, int] = field(default_factory=dict)
    """pid -> the session that it is in now."""

    def bear(self, birth: Birth) -> None:
        """Append a birth and see which session it leads to."""
        self.births.append(birth)
        inherited = self.sessions.get(birth.creator, 0)
        self.sessions[birth.pid] = birth.pid if birth.leads else inherited

    def free_pid(self) -> int:
        """A pid that nobody of the tree has, for a helper."""
        taken = {INIT, *self.records, *(birth.pid for birth in self.births)}
        taken |= {tid.tid for record in self.records.values() for tid in record.threads}
        taken |= {record.ids.pgid for record in self.records.values()}
        taken |= {record.ids.sid for record in self.records.values()}
        taken |= {record.ids.ppid for record in self.records.values()}
        return next(pid for pid in range(300, 1 << 15) if pid not in taken)


def plan_family(records: Sequence[process.Record]) -> list[Birth]:
    """The births, in order; the first record is the root.

    Raises:
        Unsupported: a process is in a session that it cannot be brought into.
    """
    planner = _Planner({record.pid: record for record in records})
    root = records[0]
    if INIT in planner.records:
        raise Unsupported(
            "the tree holds the first process of its pid namespace (pid 1)",
            "Start the kernel under an init such as tini, so that it is not pid 1.",
        )
    parent = _plan_root_parent(planner, root)
    _plan(planner, root, parent)
    for record in records[1:]:
        if record.ids.ppid not in planner.records:
            _plan_orphan(planner, record)
    missing = set(planner.records) - {birth.pid for birth in planner.births}
    if missing:
        raise Unsupported(
            f"processes {sorted(missing)} have parents in a circle of sessions",
            "End them, and try again.",
        )
    return planner.births


def _plan_root_parent(planner: _Planner, root: process.Record) -> int:
    """The pid of who clones the root."""
    outside = root.ids.sid != root.pid and root.ids.sid > INIT
    creator = INIT
    if outside:
        same = root.ids.sid == root.ids.ppid
        planner.bear(Birth(root.ids.sid, INIT, leads=True, stand_in=True, stays=same))
        creator = root.ids.sid
    if root.ids.ppid > INIT and root.ids.ppid != creator:
        planner.bear(Birth(root.ids.ppid, creator, stand_in=True, stays=True))
        creator = root.ids.ppid
    if root.ids.pgid not in (root.pid, root.ids.sid, root.ids.ppid, 0, INIT):
        planner.bear(Birth(root.ids.pgid, creator, stand_in=True))
    return creator


def _plan(planner: _Planner, record: process.Record, creator: int) -> None:
    leads = record.ids.sid == record.pid
    inherited = planner.sessions.get(creator, 0)
    if not leads and record.ids.sid not in (inherited, 0):
        raise Unsupported(
            f"process {record.pid} ({record.name}) is in session {record.ids.sid}, which "
            "neither it nor its parent leads",
            "End it, and try again.",
        )
    birth = Birth(record.pid, creator, leads, exit_signal=max(record.ids.exit_signal, 0))
    children = [other for other in planner.records.values() if other.ids.ppid == record.pid]
    older = [c for c in children if leads and c.ids.sid not in (c.pid, record.ids.sid)]
    if not older:
        planner.bear(birth)
    else:
        planner.bear(Birth(birth.pid, creator, exit_signal=birth.exit_signal))
    for child in older:
        _plan(planner, child, record.pid)
    if older:
        planner.births.append(Birth(record.pid, record.pid, leads=True))
        planner.sessions[record.pid] = record.pid
    for child in children:
        if child not in older:
            _plan(planner, child, record.pid)


def _plan_orphan(planner: _Planner, record: process.Record) -> None:
    if record.ids.sid == record.pid:
        _plan(planner, record, INIT)
        return
    if record.ids.sid not in planner.sessions:
        planner.bear(Birth(record.ids.sid, INIT, leads=True, stand_in=True))
    helper = planner.free_pid()
    planner.bear(Birth(helper, record.ids.sid, stand_in=True))
    _plan(planner, record, helper)


def grow_family(
    init: Seed,
    records: Sequence[process.Record],
    given: Mapping[int, Seed],
    terminals: ControllingTerminals,
) -> Family:
    """Clone all processes but those that are `given` already, then put them into their
    process groups. Helpers are gone at the end; zombies are still seeds.

    Raises:
        PidTaken: somebody in the namespace has one of the pids.
        RestoreError: a session does not get its terminal.
    """
    family = Family({INIT: init})
    births = plan_family(records)
    for birth in births:
        if birth.creator == birth.pid:
            _begin_session(family.seeds[birth.pid], terminals)
            continue
        seed = given.get(birth.pid) or clone_seed(
            family.seeds[birth.creator], birth.pid, exit_signal=birth.exit_signal
        )
        family.seeds[birth.pid] = seed
        if birth.leads:
            _begin_session(seed, terminals)
    _set_groups(family, records, births)
    terminals.finish(family.seeds)
    for birth in reversed(births):
        if birth.stand_in and not birth.stays:
            _end_helper(family.seeds[birth.creator], family.seeds.pop(birth.pid))
    family.stand_ins += [birth for birth in births if birth.stand_in and birth.stays]
    return family


def _begin_session(leader: Seed, terminals: ControllingTerminals) -> None:
    leader.thread.call("setsid")
    terminals.give(leader)


def _end_helper(creator: Seed, helper: Seed) -> None:
    """Without a zombie, which would be the creator's to wait for."""
    creator.thread.call("rt_sigaction", signal.SIGCHLD, _IGNORE, 0, 8)
    helper.kill()
    creator.thread.call("rt_sigaction", signal.SIGCHLD, _DEFAULT, 0, 8)


_IGNORE, _DEFAULT = struct.pack("<QQQQ", 1, 0, 0, 0), bytes(32)
"""struct sigaction (rt_sigaction(2))."""


def _set_groups(
    family: Family, records: Sequence[process.Record], births: Iterable[Birth]
) -> None:
    for birth in births:
        if birth.stand_in and not birth.leads:
            _call_setpgid(family.seeds[birth.pid], birth.pid)
    for record in _leaders_first(records):
        if record.ids.pgid > 0 and record.ids.sid != record.pid:
            _call_setpgid(family.seeds[record.pid], record.ids.pgid)


def _leaders_first(records: Sequence[process.Record]) -> Iterator[process.Record]:
    yield from (record for record in records if record.ids.pgid == record.pid)
    yield from (record for record in records if record.ids.pgid != record.pid)


def _call_setpgid(seed: Seed, group: int) -> None:
    """A group whose last other member has ended cannot be joined: its number is then
    of use to nobody."""
    seed.thread.run([Call("setpgid", (0, group), optional=True)])
