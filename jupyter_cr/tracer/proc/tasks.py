"""Processes and threads: who there is, whose child, what program, which namespaces."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from jupyter_cr.errors import NoSuchProcess
from jupyter_cr.tracer.proc import ProcessId, proc_errors, proc_path, read_proc
from jupyter_cr.tracer.proc.stat import read_stat

__all__ = [
    "Namespaces",
    "auxv",
    "exe_path",
    "list_children",
    "list_pids",
    "list_threads",
    "namespaces",
]


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Inode numbers of the namespaces a process is in (namespaces(7)): two processes
    are in the same one exactly when the numbers are equal. 0: Linux has no such kind
    (time namespaces came with 5.6)."""

    user: int
    pid: int
    mnt: int
    net: int
    ipc: int
    uts: int
    cgroup: int
    time: int


def list_pids() -> list[int]:
    """All processes that the present /proc shows, ascending."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def list_threads(pid: ProcessId) -> list[int]:
    """All thread ids of a process, the leader first, then in order of creation.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    with proc_errors(pid, "task"):
        return [int(name) for name in os.listdir(proc_path(pid, "task"))]


def list_children(pid: int) -> list[int]:
    """All children of a process, those of all its threads and zombies included.

    Exact only while they are frozen: Linux may leave out one when another ends
    meanwhile (proc_tid_children(5)).

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    children: list[int] = []
    for tid in list_threads(pid):
        try:
            with open(proc_path(pid, "children", tid), "rb") as file:
                children.extend(map(int, file.read().split()))
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if os.path.exists(proc_path(pid, "stat", tid)):
                return _scan_children(pid)
    return children


def auxv(pid: ProcessId) -> bytes:
    """The auxiliary vector (getauxval(3)): pairs of unsigned longs, AT_NULL last.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    return read_proc(pid, "auxv")


def exe_path(pid: ProcessId) -> str:
    """Path of the program a process runs, `` (deleted)`` at its end if it has no name.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    with proc_errors(pid, "exe"):
        return os.readlink(proc_path(pid, "exe"))


def namespaces(pid: ProcessId) -> Namespaces:
    """The namespaces of a process.

    Raises:
        NoSuchProcess, PermissionDenied: see `jupyter_cr.tracer.proc`.
    """
    with proc_errors(pid, "ns"):
        present = os.listdir(proc_path(pid, "ns"))
    numbers: dict[str, int] = {}
    for kind in (field.name for field in fields(Namespaces)):
        numbers[kind] = _namespace(pid, kind) if kind in present else 0
    return Namespaces(**numbers)


def _namespace(pid: ProcessId, kind: str) -> int:
    with proc_errors(pid, f"ns/{kind}"):
        link = os.readlink(proc_path(pid, f"ns/{kind}"))
    return int(link[link.index("[") + 1 : -1])


def _scan_children(pid: int) -> list[int]:
    """For a Linux built without CONFIG_PROC_CHILDREN."""
    children = []
    for other in list_pids():
        try:
            if read_stat(other).ppid == pid:
                children.append(other)
        except NoSuchProcess:
            continue
    return children
