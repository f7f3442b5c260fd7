"""What /proc/PID/status tells of a process or thread."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jupyter_cr.tracer.proc import ProcessId, read_proc

__all__ = ["Status", "parse_status", "read_status"]


@dataclass(frozen=True, slots=True)
class Status:
    """proc_pid_status(5). Signal and capability sets are ints, bit 0 the lowest
    member (signal 1, capability 0). Ids are as seen by the reader's /proc and user
    namespace; the ``ns_*`` ones are outermost first, the process's own last."""

    name: str
    state: str
    """One letter: R, S, D, T, t (stopped by a tracer), Z, X, I."""
    umask: int
    tgid: int
    pid: int
    """Of the thread asked for."""
    ppid: int
    tracer_pid: int
    """0 when not traced."""
    ns_tgid: tuple[int, ...]
    ns_pid: tuple[int, ...]
    ns_pgid: tuple[int, ...]
    ns_sid: tuple[int, ...]
    uids: tuple[int, int, int, int]
    """(real, effective, saved, filesystem)."""
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    threads: int
    sig_pending: int
    """Pending for the thread."""
    shd_pending: int
    """Pending for the process."""
    sig_blocked: int
    sig_ignored: int
    sig_caught: int
    cap_inheritable: int
    cap_permitted: int
    cap_effective: int
    cap_bounding: int
    cap_ambient: int
    no_new_privs: bool
    seccomp: int
    """seccomp(2) mode: 0 none, 1 strict, 2 filter."""
    seccomp_filters: int
    vm_locked: int
    """Bytes."""


def read_status(pid: ProcessId, tid: int | None = None) -> Status:
    """The status of a process, or of its thread ``tid``.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    return parse_status(read_proc(pid, "status", tid))


def parse_status(text: bytes) -> Status:
    """The status in the text of a /proc/PID/status.

    Lines that an older Linux lacks give 0, and for ``ns_*`` an empty tuple or the
    ids of the reader's own namespace.
    """
    lines = os.fsdecode(text).split("\n")
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def number(name: str, base: int = 10) -> int:
        return int(values.get(name, "0").split()[0], base)

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(map(int, values.get(name, "").split()))

    return Status(
        name=_unescape(values["Name"]),
        state=values["State"][0],
        umask=number("Umask", 8),
        tgid=number("Tgid"),
        pid=number("Pid"),
        ppid=number("PPid"),
        tracer_pid=number("TracerPid"),
        ns_tgid=numbers("NStgid") or numbers("Tgid"),
        ns_pid=numbers("NSpid") or numbers("Pid"),
        ns_pgid=numbers("NSpgid"),
        ns_sid=numbers("NSsid"),
        uids=_four(values["Uid"]),
        gids=_four(values["Gid"]),
        groups=numbers("Groups"),
        threads=number("Threads"),
        sig_pending=number("SigPnd", 16),
        shd_pending=number("ShdPnd", 16),
        sig_blocked=number("SigBlk", 16),
        sig_ignored=number("SigIgn", 16),
        sig_caught=number("SigCgt", 16),
        cap_inheritable=number("CapInh", 16),
        cap_permitted=number("CapPrm", 16),
        cap_effective=number("CapEff", 16),
        cap_bounding=number("CapBnd", 16),
        cap_ambient=number("CapAmb", 16),
        no_new_privs=number("NoNewPrivs") != 0,
        seccomp=number("Seccomp"),
        seccomp_filters=number("Seccomp_filters"),
        vm_locked=number("VmLck") * 1024,
    )


def _four(text: str) -> tuple[int, int, int, int]:
    real, effective, saved, filesystem = map(int, text.split())
    return real, effective, saved, filesystem


def _unescape(name: str) -> str:
    """Undoes what Linux does to names here (not in stat): ``\\n`` and ``\\\\``."""
    if "\\" not in name:
        return name
    return "\\".join(part.replace("\\n", "\n") for part in name.split("\\\\"))
