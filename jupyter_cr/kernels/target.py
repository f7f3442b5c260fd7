"""Which process a person means: a pid, a connection file, or a kernel's id.

Every kernel has its connection file's path in its command line (the kernel spec's
``{connection_file}``), so processes are found by that. So do its wrappers (``conda
run``, ``bash -c``), of which the topmost is taken, as it is what the server has started
and waits for; and so may front ends (``jupyter console --existing FILE``), which are
told from kernels by their names, and by not listening on the shell port.

A fork has its original's command line, but ports of its own. So where a tree has been
rebuilt, the ports decide which connection file is its own.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from jupyter_cr.errors import CheckpointRestoreError, NoSuchProcess, UsageError
from jupyter_cr.kernels.connection import (
    Connection,
    kernel_id_of,
    parse_connection,
    read_connection,
    runtime_dir,
)
from jupyter_cr.kernels.glue_protocol import KEEPER_NAME
from jupyter_cr.tracer.proc.stat import read_stat
from jupyter_cr.tracer.proc.tasks import list_pids

__all__ = ["Target", "resolve_target"]

_FRONT_ENDS = frozenset(
    {
        "jupyter",
        "jupyter-client",
        "jupyter-console",
        "jupyter-cr",
        "jupyter-execute",
        "jupyter-kernel",
        "jupyter-kernelgateway",
        "jupyter-lab",
        "jupyter-notebook",
        "jupyter-qtconsole",
        "jupyter-run",
        "jupyter-server",
        "jupyterlab",
        "notebook",
        "qtconsole",
    }
)

_MAX_BYTES = 64 << 10
"""No connection file is longer."""

_SPLIT = re.compile(r"[\s'\"=;&|()]+")


@dataclass(frozen=True)
class Target:
    """A process to be checkpointed, and what Jupyter knows of it."""

    pid: int
    connection_file: Path | None = None
    kernel_id: str = ""
    kernel_name: str = ""

    @property
    def comm(self) -> str:
        """The process's name (proc_pid_comm(5)); empty if it is gone."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text(errors="replace").rstrip("\n")
        except OSError:
            return ""


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int

    @cached_property
    def argv(self) -> tuple[str, ...]:
        """Its command line; empty if it has none, or has ended."""
        try:
            return tuple(psutil.Process(self.pid).cmdline())
        except psutil.Error:
            return ()

    @property
    def is_keeper(self) -> bool:
        """Whether it is one of the processes around a rebuilt tree."""
        return self.argv[:1] == (KEEPER_NAME,)

    @cached_property
    def is_front_end(self) -> bool:
        """Whether this is Jupyter's own program, which works with kernels but is none."""
        words = [os.path.basename(word) for word in self.argv[:3]]
        if words and words[0].startswith(("python", "pypy")):
            del words[0]
        if words[:1] == ["-m"]:
            words = [words[1].partition(".")[0].replace("_", "-")] if words[1:] else []
        return bool(words) and words[0] in _FRONT_ENDS

    def iter_files(self) -> Iterator[str]:
        """Absolute paths of all words of the command line, as if each were a file."""
        for argument in self.argv:
            for word in {argument, argument.partition("=")[2], *_SPLIT.split(argument)}:
                if word.startswith("/"):
                    yield os.path.realpath(word)
                elif word:
                    yield os.path.realpath(f"/proc/{self.pid}/cwd/{word}")


class _Processes:
    """All processes that can be seen, as of now."""

    def __init__(self) -> None:
        self._all: dict[int, _Process] = {}
        for pid in list_pids():
            with suppress(CheckpointRestoreError):
                self._all[pid] = _Process(pid, read_stat(pid).ppid)
        self._children: dict[int, list[_Process]] = {}
        for process in self._all.values():
            self._children.setdefault(process.parent, []).append(process)

    def iter_ancestors(self, pid: int) -> Iterator[int]:
        """Its parent, and so on; not the process itself."""
        seen = {pid}
        while (process := self._all.get(pid)) and process.parent not in seen:
            pid = process.parent
            seen.add(pid)
            yield pid

    def iter_tree(self, pid: int) -> Iterator[_Process]:
        """The process and its descendants, each after its parent."""
        if root := self._all.get(pid):
            yield root
            for child in self._children.get(pid, ()):
                yield from self.iter_tree(child.pid)

    def is_rebuilt(self, pid: int) -> bool:
        """Whether the process is of a tree that a restore or a fork has made."""
        return any(
            ancestor in self._all and self._all[ancestor].is_keeper
            for ancestor in self.iter_ancestors(pid)
        )

    def find_rebuilt(self, port: int) -> list[_Process]:
        """The roots of rebuilt trees that listen on a TCP port."""
        roots = [
            process
            for process in self._all.values()
            if not process.is_keeper
            and process.parent in self._all
            and self._all[process.parent].is_keeper
        ]
        return [process for process in roots if self.is_listening(process.pid, port)]

    def find_using(self, path: Path) -> list[_Process]:
        """Processes, other than front ends, that have a file in their command line."""
        wanted = os.path.realpath(path)
        name = path.name
        return [
            process
            for process in self._all.values()
            if any(name in argument for argument in process.argv)
            and not process.is_front_end
            and wanted in process.iter_files()
        ]

    def topmost(self, processes: Iterable[_Process]) -> list[_Process]:
        """Those that have none of the others among their ancestors."""
        some = {process.pid: process for process in processes}
        return [
            p for p in some.values() if some.keys().isdisjoint(self.iter_ancestors(p.pid))
        ]

    def is_listening(self, pid: int, port: int) -> bool:
        """Whether a process of the tree under `pid` listens on a TCP port."""
        return any(port in _listening_ports(process.pid) for process in self.iter_tree(pid))


def resolve_target(text: str, connection_file: Path | None = None) -> Target:
    """Find the process that a word stands for.

    Args:
        text: a pid, the path of a connection file, a kernel's id or the beginning of one.
        connection_file: of the process, if `text` is a pid and that is known.

    Raises:
        NoSuchProcess: there is none.
        UsageError: there are several, or it is this process or one above it.
    """
    if text.isascii() and text.isdecimal() and psutil.pid_exists(int(text)):
        if connection_file is not None:
            return _target(int(text), connection_file, read_connection(connection_file))
        return _target_of_pid(int(text))
    path = Path(text)
    if "/" in text or path.is_file():
        return _target_of_file(path)
    return _target_of_file(_find_by_id(text))


def _find_by_id(text: str) -> Path:
    directory = runtime_dir()
    found = {kernel_id_of(path): path for path in directory.glob("kernel-*.json")}
    matches = [kernel_id for kernel_id in sorted(found) if kernel_id.startswith(text)]
    if text in matches:
        matches = [text]
    if text and len(matches) == 1:
        return found[matches[0]]
    if text and matches:
        raise UsageError(
            f"{len(matches)} kernels' ids begin with {text}: {', '.join(matches)}.",
            "Give more of it.",
        )
    kind = "process or kernel" if text.isdecimal() else "kernel"
    raise NoSuchProcess(
        f"There is no {kind} {text!r}.",
        f"A pid, a connection file, or a kernel's id is needed; those in {directory}: "
        + (", ".join(sorted(found)) or "none"),
    )


def _target_of_pid(pid: int) -> Target:
    processes = _Processes()
    _check_is_elsewhere(pid, processes)
    rebuilt = processes.is_rebuilt(pid)
    for path in _iter_files(pid, processes, rebuilt):
        connection = _connection_in(path)
        if connection is None:
            continue
        if not rebuilt or processes.is_listening(pid, connection["shell_port"]):
            return _target(pid, path, connection)
    return Target(pid)


def _iter_files(pid: int, processes: _Processes, rebuilt: bool) -> Iterator[Path]:
    """What may be the connection file of a tree."""
    for process in processes.iter_tree(pid):
        yield from map(Path, process.iter_files())
    if rebuilt:
        yield from sorted(runtime_dir().glob("kernel-*.json"))


def _connection_in(path: Path) -> Connection | None:
    try:
        status = path.stat()
        # Any word of a command line may be a FIFO to wait on, or a film.
        if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES:
            return parse_connection(path.read_bytes())
    except (OSError, ValueError):
        return None
    return None


def _target_of_file(path: Path) -> Target:
    connection = read_connection(path)
    processes = _Processes()
    port = connection["shell_port"]
    own = {os.getpid(), *processes.iter_ancestors(os.getpid())}
    users = processes.find_using(path)
    others = [
        process
        for process in users
        if process.pid not in own
        and (
            not processes.is_rebuilt(process.pid)
            or processes.is_listening(process.pid, port)
        )
    ]
    tops = processes.topmost(others or processes.find_rebuilt(port))
    if len(tops) > 1:
        tops = [p for p in tops if processes.is_listening(p.pid, port)] or tops
    if not tops:
        for process in users:
            if port in _listening_ports(process.pid):
                _check_is_elsewhere(process.pid, processes)
        raise NoSuchProcess(
            f"No process has {path} in its command line.",
            "The kernel has ended, or is another user's or another machine's. If it was "
            "started in another way, name its pid.",
        )
    if len(tops) > 1:
        pids = ", ".join(str(process.pid) for process in tops)
        raise UsageError(
            f"Several processes use {path}: {pids}.", "Name one of these pids."
        )
    return _target(tops[0].pid, path, connection)


def _target(pid: int, path: Path, connection: Connection) -> Target:
    path = path.absolute()
    return Target(pid, path, kernel_id_of(path), str(connection.get("kernel_name") or ""))


def _check_is_elsewhere(pid: int, processes: _Processes) -> None:
    if pid == os.getpid() or pid in processes.iter_ancestors(os.getpid()):
        raise UsageError(
            f"Process {pid} is the one that this command runs in or under.",
            "It would have to stop itself. Run the command from elsewhere.",
        )


def _listening_ports(pid: int) -> frozenset[int]:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return frozenset()
    return frozenset(
        connection.laddr.port
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    )
