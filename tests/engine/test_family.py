"""Parents, sessions, process groups: planned from records, and rebuilt for real."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jupyter_cr.engine.family import INIT, Birth, plan_family
from jupyter_cr.engine.state import process
from jupyter_cr.errors import NoSuchProcess, Unsupported
from jupyter_cr.tracer.proc.status import read_status
from tests.conftest import User
from tests.engine.harness import wait_until
from tests.engine.kernels import CommandError, ask, command_line, served


def record(pid: int, ppid: int, pgid: int, sid: int) -> process.Record:
    ids = process.Ids(pid, ppid, pgid, sid, 17)
    return process.Record(ids=ids, comm=f"p{pid}".encode(), command=())


def play(births: Sequence[Birth]) -> dict[int, tuple[int, int]]:
    """pid -> (parent, session) if one does as planned; helpers end at the last."""
    parents: dict[int, int] = {INIT: 0}
    sessions: dict[int, int] = {INIT: 0}
    for birth in births:
        if birth.creator == birth.pid:
            sessions[birth.pid] = birth.pid
            continue
        assert birth.creator in parents, f"{birth} has no creator"
        assert birth.pid not in parents, f"{birth} is born twice"
        parents[birth.pid] = birth.creator
        sessions[birth.pid] = birth.pid if birth.leads else sessions[birth.creator]
    gone = {birth.pid for birth in births if birth.stand_in and not birth.stays}
    return {
        pid: (INIT if parent in gone else parent, sessions[pid])
        for pid, parent in parents.items()
        if pid not in gone and pid != INIT
    }


PLANS: dict[str, list[tuple[int, int, int, int]]] = {
    "a leader alone": [(100, 50, 100, 100)],
    "a child of a shell": [(100, 50, 100, 50)],
    "in the session of somebody else": [(100, 50, 100, 40)],
    "in a job of somebody else": [(100, 50, 45, 40)],
    "of init": [(100, 1, 100, 100)],
    "of nobody we can see": [(100, 0, 0, 0)],
    "children": [(100, 50, 100, 100), (101, 100, 100, 100), (102, 101, 102, 100)],
    "a child that leads": [(100, 50, 100, 100), (101, 100, 101, 101)],
    "an orphan": [(100, 50, 100, 100), (102, 1, 101, 100)],
    "an orphan with a family": [
        (100, 50, 100, 100),
        (102, 1, 101, 100),
        (103, 102, 101, 100),
        (104, 102, 104, 104),
    ],
    "a daemon": [(100, 50, 100, 100), (102, 1, 101, 101)],
    "a daemon that leads": [(100, 50, 100, 100), (102, 1, 102, 102), (103, 102, 102, 102)],
    "two orphans of a lost leader": [
        (100, 50, 100, 100),
        (102, 1, 101, 101),
        (103, 1, 101, 101),
    ],
}


@pytest.mark.parametrize("what", PLANS)
def test_plan(what: str) -> None:
    """Whoever does as planned has the parents and sessions of the records."""
    records = [record(*ids) for ids in PLANS[what]]
    played = play(plan_family(records))
    for one in records:
        parent, session = played[one.pid]
        assert parent == max(one.ids.ppid, INIT)
        assert one.ids.sid in (session, 0) or session == one.ids.sid


REFUSED: dict[str, list[tuple[int, int, int, int]]] = {
    "pid 1 itself": [(1, 0, 1, 1)],
    "a child from before the root led": [
        (100, 50, 100, 100),
        (101, 100, 101, 50),
        (102, 100, 100, 100),
    ],
    "a session from nowhere": [(100, 50, 100, 100), (101, 100, 101, 77)],
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    with pytest.raises(Unsupported) as caught:
        plan_family([record(*ids) for ids in REFUSED[what]])
    assert caught.value.hint


TREE = r"""
import os, signal, subprocess, sys, time

def child(work=signal.pause):
    pid = os.fork()
    if not pid:
        try:
            work()
            while True: signal.pause()
        finally:
            os._exit(0)
    return pid

def group():
    os.setpgid(0, 0)
    child(); child(lambda: os.setpgid(0, 0))

def leader():
    os.setsid()
    child(); child(os.setsid); child(lambda: os.setpgid(0, 0))

def late_leader():
    child()
    os.setsid()
    child()

def dies_with_children():
    child(); child(lambda: child())
    os._exit(0)

def daemon():
    os.setsid()
    if os.fork(): os._exit(0)
    child()

def exits(): os._exit(7)
def is_killed(): os.kill(os.getpid(), 9)
def aborts(): os.abort()
def stops(): os.kill(os.getpid(), signal.SIGSTOP)

kinds = dict(plain=child, group=group, leader=leader, late_leader=late_leader,
             parent_gone=dies_with_children, daemon=daemon, exits=exits,
             is_killed=is_killed, aborts=aborts, stops=stops)
made = {name: child(kind) for name, kind in kinds.items() if name != "plain"}
made["plain"] = child()
time.sleep(0.3)
for name in ("parent_gone", "daemon"):
    assert os.waitpid(made[name], 0)[1] == 0
def ends():
    found = {}
    for name in ("exits", "is_killed", "aborts"):
        pid, status = os.waitpid(made[name], os.WNOHANG)
        found[name] = (pid == made[name], os.waitstatus_to_exitcode(status))
    return found
"""


def family(root: int, marker: str) -> list[tuple[object, ...]]:
    """All processes with that in their command line that are in the root's session, or
    descend from one that is; as they see themselves: pid, parent, group, session, state,
    name."""
    members: set[int] = set()
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if marker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and (
                os.getsid(pid) == os.getsid(root)
            ):
                members.add(pid)
                members.update(c.pid for c in psutil.Process(pid).children(recursive=True))
    inner = {pid: read_status(pid).ns_tgid[-1] for pid in members}
    found = []
    for pid in members:
        lines = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        parent = inner.get(int(lines["PPid"]), 0)
        ids = (
            inner[pid],
            parent,
            *(int(lines[n].split()[-1]) for n in ("NSpgid", "NSsid")),
        )
        found.append((*ids, lines["State"], lines["Name"]))
    assert root in members
    return sorted(found)


def test_real_family(user: User) -> None:
    """Groups, sessions, leaders late and early, orphans, daemons, zombies, stopped."""
    marker = f"marker-{os.getpid()}-{user.name}"
    code = f"'''{marker}'''\n{TREE}\nserve()"
    with command_line(user) as cr, served(user, code) as running:
        try:
            before = family(running.pid, marker)
            # A daemon has left the tree: its parent and its session's leader are gone.
            assert len(before) == 19
            name = cr.checkpoint(running.pid)
            assert family(running.pid, marker) == before
            pid = cr.restore(name)

            def settled() -> bool:
                # Some of the old tree may be about to end.
                with suppress(NoSuchProcess):
                    return len(family(pid, marker)) == len(before)
                return False

            wait_until(settled, "as many as there were")
            assert family(pid, marker) == before
            expected = {"exits": (True, 7), "is_killed": (True, -9), "aborts": (True, -6)}
            assert ask(pid, "ends()") == expected
            # The one that is stopped goes on, and its end is told.
            go_on = "os.kill(made['stops'], 18) or os.kill(made['stops'], 15)"
            assert ask(pid, go_on) is None
            assert ask(pid, "os.waitpid(made['stops'], 0)[1]") == 15
        finally:
            for one in psutil.pids():
                with suppress(OSError):
                    if marker.encode() in Path(f"/proc/{one}/cmdline").read_bytes():
                        os.kill(one, signal.SIGKILL)


def test_unplannable_is_refused_at_checkpoint(user: User) -> None:
    """What could not be rebuilt is refused before anything is written."""
    code = r"""
import os, signal
def child(work):
    if not os.fork():
        work(); signal.pause()
def middle():
    child(lambda: None)
    os.setsid()
def outer():
    child(middle)
    os.setsid()
child(outer)
x = 1
serve()
"""
    with command_line(user) as cr, served(user, code) as running:
        root = psutil.Process(running.pid)
        wait_until(lambda: len(root.children(recursive=True)) == 3, "all are there")
        middle = root.children()[0].children()[0].pid
        wait_until(lambda: os.getsid(middle) == middle, "sessions")
        with pytest.raises(CommandError) as caught:
            cr.checkpoint(running.pid)
        assert '"Unsupported"' in caught.value.text
        assert "session" in caught.value.text
        assert ask(running.pid, "x") == 1
        assert cr("list") == []
