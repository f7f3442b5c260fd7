"""What /proc/PID/stat tells of a process or thread."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jupyter_cr.tracer.proc import ProcessId, read_proc

__all__ = ["Stat", "parse_stat", "read_stat"]


@dataclass(frozen=True, slots=True)
class Stat:
    """proc_pid_stat(5), the fields of use. Addresses are 0 or 1 where the reader has
    no ptrace permission on the process (ptrace(2), PTRACE_MODE_READ)."""

    pid: int
    comm: str
    """May hold anything, spaces, parentheses and newlines included; 15 bytes."""
    state: str
    """One letter, as in `jupyter_cr.tracer.proc.status.Status`."""
    ppid: int
    pgrp: int
    session: int
    tty_nr: int
    """Device number of the controlling terminal; 0 when there is none."""
    tpgid: int
    flags: int
    """PF_* of Linux's include/linux/sched.h."""
    priority: int
    nice: int
    starttime: int
    """Clock ticks (sysconf _SC_CLK_TCK) since boot: with the pid, an identity."""
    start_code: int
    end_code: int
    start_stack: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exit_code: int
    """As waitpid(2) reports it."""
    exit_signal: int
    """Sent to the parent at the end; -1 for a thread that is not the leader."""
    rt_priority: int
    policy: int
    """SCHED_* (sched(7))."""


def read_stat(pid: ProcessId, tid: int | None = None) -> Stat:
    """The stat of a process, or of its thread ``tid``.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    return parse_stat(read_proc(pid, "stat", tid))


def parse_stat(text: bytes) -> Stat:
    """The stat in the text of a /proc/PID/stat."""
    # comm is not escaped: only its last ")" is Linux's own.
    head, _, tail = text.rpartition(b")")
    pid, _, comm = head.partition(b"(")
    fields = tail.split()

    def field(number: int) -> int:
        """By the manual page's number; the state is its third."""
        return int(fields[number - 3])

    return Stat(
        pid=int(pid),
        comm=os.fsdecode(comm),
        state=fields[0].decode("ascii"),
        ppid=field(4),
        pgrp=field(5),
        session=field(6),
        tty_nr=field(7),
        tpgid=field(8),
        flags=field(9),
        priority=field(18),
        nice=field(19),
        starttime=field(22),
        start_code=field(26),
        end_code=field(27),
        start_stack=field(28),
        start_data=field(45),
        end_data=field(46),
        start_brk=field(47),
        arg_start=field(48),
        arg_end=field(49),
        env_start=field(50),
        env_end=field(51),
        exit_code=field(52),
        exit_signal=field(38),
        rt_priority=field(40),
        policy=field(41),
    )
