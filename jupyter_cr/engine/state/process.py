"""A process as a whole: its place in the tree, and what its threads share."""

from __future__ import annotations

import contextlib
import resource
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from jupyter_cr.engine.state import credentials, signal_actions, thread, timers
from jupyter_cr.engine.state.address_space import Layout
from jupyter_cr.tracer.calls import Call, Out
from jupyter_cr.tracer.remote import Result

__all__ = [
    "Attributes",
    "Ids",
    "Record",
    "collect_attributes",
    "collect_calls",
    "rebuild_calls",
]

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_QUERY_PERSONALITY = 0xFFFFFFFF
_LIMITS = tuple(range(16))


class Attributes(msgspec.Struct, frozen=True):
    """What is a number or two: subreaper, huge pages disabled, personality, umask,
    resource limits (soft, hard) by number, score for the out-of-memory killer, and what
    goes into a core dump (core(5))."""

    child_subreaper: int
    thp_disable: int
    personality: int
    umask: int
    limits: tuple[tuple[int, int], ...]
    oom_score_adj: int
    coredump_filter: int


class Ids(msgspec.Struct, frozen=True):
    """Where a process is in the tree, as it sees it itself; `exit_signal` is what its
    parent gets at its end."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    exit_signal: int


class Record(msgspec.Struct, frozen=True):
    """One process. A zombie has only ids, name, and the wait status it ended with.

    `comm` (proc_pid_comm(5)), `command`, `cwd` and `root` are bytes: nothing on Linux
    need be UTF-8."""

    ids: Ids
    comm: bytes
    command: tuple[bytes, ...]
    zombie_status: int | None = None
    is_stopped: bool = False
    cwd: bytes = b"/"
    root: bytes = b"/"
    attributes: Attributes | None = None
    credentials: credentials.Record | None = None
    actions: signal_actions.Record | None = None
    timers: timers.Record | None = None
    pending: tuple[bytes, ...] = ()
    layout: Layout | None = None
    threads: tuple[thread.Record, ...] = ()

    @property
    def pid(self) -> int:
        """As it sees it itself."""
        return self.ids.pid

    @property
    def name(self) -> str:
        """`comm`, to be shown."""
        return self.comm.decode(errors="backslashreplace")


def collect_calls() -> list[Call]:
    return [
        Call("brk", (0,)),
        Call("prctl", (_PR_GET_CHILD_SUBREAPER, Out(4))),
        Call("prctl", (_PR_GET_THP_DISABLE, 0, 0, 0, 0)),
        Call("personality", (_QUERY_PERSONALITY,)),
    ]


def collect_attributes(
    pid: int, umask: int, results: Sequence[Result]
) -> tuple[int, Attributes]:
    """The program break and the attributes, from the answers to `collect_calls`."""
    brk, subreaper, thp, personality = results
    return brk.value, Attributes(
        int.from_bytes(subreaper.outs[0], "little"),
        thp.value,
        personality.value,
        umask,
        tuple(resource.prlimit(pid, number) for number in _LIMITS),
        int(Path(f"/proc/{pid}/oom_score_adj").read_text()),
        int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16),
    )


def rebuild_calls(attributes: Attributes) -> list[Call]:
    """Made by the rebuilt process; limits and the score come from outside."""
    return [
        Call("umask", (attributes.umask,)),
        Call("personality", (attributes.personality,)),
        Call("prctl", (_PR_SET_CHILD_SUBREAPER, attributes.child_subreaper)),
        Call("prctl", (_PR_SET_THP_DISABLE, attributes.thp_disable, 0, 0, 0)),
    ]


def rebuild_from_outside(pid: int, attributes: Attributes) -> None:
    """Limits and out-of-memory score of the process that we see as `pid`. What this
    user may not set stays as it was inherited."""
    for number, limits in zip(_LIMITS, attributes.limits, strict=True):
        if resource.prlimit(pid, number) != limits:
            with contextlib.suppress(PermissionError, ValueError):
                resource.prlimit(pid, number, limits)
    score = Path(f"/proc/{pid}/oom_score_adj")
    if int(score.read_text()) != attributes.oom_score_adj:
        with contextlib.suppress(PermissionError):
            score.write_text(str(attributes.oom_score_adj))
    core = Path(f"/proc/{pid}/coredump_filter")
    if int(core.read_text(), 16) != attributes.coredump_filter:
        core.write_text(hex(attributes.coredump_filter))


def queue_signal_calls(
    pid: int, infos: Iterable[bytes], tid: int | None = None
) -> list[Call]:
    """Queue signals again, for the process or for its thread `tid`, made by itself."""
    calls = []
    for info in infos:
        (number,) = struct.unpack_from("<i", info)
        if tid is None:
            calls.append(Call("rt_sigqueueinfo", (pid, number, info)))
        else:
            calls.append(Call("rt_tgsigqueueinfo", (pid, tid, number, info)))
    return calls


def read_command(pid: int) -> tuple[bytes, ...]:
    """The command line; empty if the process has wiped it."""
    raw = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    return tuple(raw.split(b"\0")) if raw else ()
