"""The kernels' way to their server: a Unix socket, on which a kernel asks for its own
snapshot, restore or fork.

Each server listens on ``jupyter-cr/server-PID.sock`` under Jupyter's runtime directory.
A kernel sends one line of JSON: ``op``, with the arguments of that operation
(`jupyter_cr.server.requests`), or ``list`` (those of `jupyter_cr.server.answers.Query`),
or ``timeline`` (``is_on``), or ``whoami``. Lines come back as `jupyter_cr.engine.__main__`
writes them: ``progress``, then one ``result`` or ``error``. Whose kernel it is the server
knows from the sender's pid (SO_PEERCRED, unix(7)), which is the kernel itself or below it;
a command of the same user says it (``kernel_id``).

A kernel that hangs up calls its operation off. One that ends does not: a restore ends
it, and a snapshot of what has crashed is worth having.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from jupyter_cr.engine.identity import SEED_NAME
from jupyter_cr.errors import (
    CheckpointRestoreError,
    NoSuchProcess,
    PermissionDenied,
    StorageError,
    UsageError,
)
from jupyter_cr.kernels.lines import (
    ErrorLine,
    Line,
    ProgressLine,
    ResultLine,
    encode_line,
)
from jupyter_cr.kernels.records import private_dir
from jupyter_cr.kernels.socket_address import short_address
from jupyter_cr.operations import Progress
from jupyter_cr.server.answers import Query
from jupyter_cr.server.forks import ForksRequest, keep_forks
from jupyter_cr.server.problems import Problem, problem_of
from jupyter_cr.server.requests import (
    OPERATIONS,
    Asked,
    OperationRequest,
    TimelineRequest,
    convert_fields,
)
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.tasks import Task, Tasks
from jupyter_cr.server.timelines import Timelines

__all__ = ["KernelSocket", "WhoAmI"]

_LINE_LIMIT = 16 << 20
_UNREAD_LIMIT = 64 << 10
"""Bytes that a kernel has not read yet; beyond that it is told no progress."""
_ENDING_S = 1.0
"""How long a process may take to be seen as ended once its sockets are closed. In
Linux's do_exit(), exit_files() comes shortly before exit_notify()."""
_REBUILT_S = 10.0
"""How long a tree may run before the server has the engine's result."""
_PEER = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel may not be able to see for itself."""

    kernel_id: str
    role: Literal["original", "restored", "forked"]
    snapshot: str = ""
    """That it was restored or forked from; empty for an original."""


class _NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _ListArguments(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


_Answer = ResultLine | ErrorLine


class KernelSocket:
    """The socket of one server.

    Args:
        service: what does it.
        tasks: where operations are listed while they run.
        find_kernel: gives the id of the kernel whose process a pid is, None if it is not
            a kernel's.
        timelines: of the kernels.
        directory: of the socket; default: `private_dir`.
    """

    def __init__(
        self,
        service: SnapshotService,
        tasks: Tasks,
        find_kernel: Callable[[int], str | None],
        timelines: Timelines,
        *,
        directory: Path | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._service = service
        self._tasks = tasks
        self._find_kernel = find_kernel
        self._timelines = timelines
        self._directory = directory or private_dir()
        self._log = log or logging.getLogger(__name__)
        self._path: Path | None = None
        self._inode = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> Path:
        """Listen, and remove the sockets of servers that are gone.

        Returns:
            The socket's path.

        Raises:
            StorageError: the directory or the socket cannot be made.
        """
        listener, path = await asyncio.to_thread(_listen, self._directory)
        self._path, self._inode = path, path.stat().st_ino
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=_LINE_LIMIT
        )
        return path

    async def stop(self) -> None:
        """Close all connections, and remove the socket. Operations go on: they are
        tasks."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._path is not None:
            with suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._serve(_Caller(reader, writer))
        writer.close()

    async def _serve(self, caller: _Caller) -> None:
        try:
            line = await caller.read_line()
            if not line:
                return
            answer = await self._answer(line, caller)
            if answer is None:
                # Somebody else has the connection now.
                return
        except CheckpointRestoreError as error:
            answer = _error_line(problem_of(error))
        except Exception as error:  # noqa: BLE001 - the kernel must get its last line
            self._log.exception("A kernel's request failed")
            answer = _error_line(problem_of(error))
        caller.send(answer)
        await caller.flush()

    def _command(self, caller: _Caller, kernel_id: str) -> _Peer:
        """Somebody of the same user who names the kernel."""
        lineage = _lineage(caller.pid)
        if caller.uid != os.geteuid() or not lineage:
            raise PermissionDenied(
                f"Process {caller.pid} is not this server's user's.",
                f"Run the command as user {os.geteuid()}.",
            )
        is_within = any(self._find_kernel(each.pid) == kernel_id for each in lineage)
        return _Peer(kernel_id, lineage[0], (), is_within)

    async def _find_peer(self, caller: _Caller) -> _Peer:
        deadline = time.monotonic() + _REBUILT_S
        while caller.uid == os.geteuid():
            lineage = await asyncio.to_thread(_lineage, caller.pid)
            for place, process in enumerate(lineage):
                if (kernel_id := self._find_kernel(process.pid)) is not None:
                    return _Peer(kernel_id, lineage[0], lineage[place + 1 :], True)
            # A tree that has just been rebuilt may ask before we have heard of it.
            if not _is_being_rebuilt(lineage) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        raise NoSuchProcess(
            f"Process {caller.pid} is not one of this server's kernels (server "
            f"{os.getpid()}).",
            "Another server may have started it.",
        )

    async def _answer(self, line: bytes, caller: _Caller) -> _Answer | None:
        op, fields = _parse(line)
        kernel_id = None
        if op in (*OPERATIONS, "timeline"):
            kernel_id = fields.pop("kernel_id", None)
        if kernel_id is not None:
            peer = self._command(caller, str(kernel_id))
        else:
            peer = await self._find_peer(caller)
        if op == "whoami":
            convert_fields(fields, _NoArguments)
            return ResultLine.of(await asyncio.to_thread(peer.who_am_i))
        if op == "forks":
            forks = convert_fields(fields, ForksRequest)
            with caller.taken() as connection:
                await keep_forks(self._service, peer.kernel_id, forks, connection)
            return None
        if op == "list":
            query = convert_fields(fields, _ListArguments)
            return ResultLine.of(await self._service.snapshots.find(query))
        if op == "timeline":
            wanted = convert_fields(fields, TimelineRequest)
            return ResultLine.of(await self._timelines.switch(peer.kernel_id, wanted.is_on))
        if op not in OPERATIONS:
            known = ", ".join((*OPERATIONS, "forks", "list", "timeline", "whoami"))
            raise UsageError(f"There is no operation {op!r}.", f"There are: {known}.")
        return await self._operate(op, convert_fields(fields, OPERATIONS[op]), peer, caller)

    async def _operate(
        self, op: str, request: OperationRequest, peer: _Peer, caller: _Caller
    ) -> _Answer:
        async def work(progress: Progress) -> object:
            def report(phase: str, fraction: float) -> None:
                progress(phase, fraction)
                caller.tell_progress(phase, fraction)

            asked = Asked(peer.kernel_id, report, from_within=peer.is_within)
            return await request.run(self._service, asked)

        task = self._tasks.start(
            op, work, kernel_id=peer.kernel_id, snapshot=request.subject
        )
        watch = asyncio.ensure_future(self._call_off(task, peer, caller))
        try:
            task = await self._tasks.wait(task.id)
        finally:
            watch.cancel()
        return ResultLine.of(task.result) if task.error is None else _error_line(task.error)

    async def _call_off(self, task: Task, peer: _Peer, caller: _Caller) -> None:
        """Once the kernel has hung up, and lives on."""
        await caller.hung_up()
        if not await _has_ended(peer.process):
            await self._tasks.cancel(task.id)


def _parse(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The request is not understood: {error}.", "A line of JSON is needed."
        ) from error
    return str(fields.pop("op", "")), fields


def _error_line(problem: Problem) -> ErrorLine:
    return ErrorLine(
        problem.error, problem.detail, problem.hint, problem.exit_code, problem.status
    )


class _Caller:
    """The other end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        connection: socket.socket = writer.get_extra_info("socket")
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.pid, self.uid, _ = _PEER.unpack(peer)

    async def read_line(self) -> bytes:
        """Empty if there comes none.

        Raises:
            UsageError: it has no end.
        """
        try:
            return await self._reader.readline()
        except ValueError as error:
            raise UsageError(
                f"The request is longer than {_LINE_LIMIT >> 20} MiB.", "Shorten the note."
            ) from error

    def send(self, line: Line) -> None:
        """Does nothing if nobody listens any more."""
        if not self._writer.is_closing():
            self._writer.write(encode_line(line))

    def tell_progress(self, phase: str, fraction: float) -> None:
        """Leaves it out if the kernel does not keep up: it may be frozen."""
        if self._writer.transport.get_write_buffer_size() < _UNREAD_LIMIT:
            self.send(ProgressLine(phase, fraction))

    async def flush(self) -> None:
        await self._writer.drain()

    @contextmanager
    def taken(self) -> Iterator[socket.socket]:
        """The connection, for somebody else to have it. Nothing has been read of it but
        lines that were asked for: a kernel says nothing before it is answered."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection: socket.socket = self._writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            yield duplicate

    async def hung_up(self) -> None:
        """Returns when the other end has been closed."""
        with suppress(ConnectionError):
            while await self._reader.read(1 << 12):
                pass


@dataclass(frozen=True)
class _Peer:
    kernel_id: str
    process: psutil.Process
    """That has asked: the kernel, or one below it."""
    above: Sequence[psutil.Process]
    """The kernel's parent, and so on."""
    is_within: bool
    """Whether it is the kernel, or below it."""

    def who_am_i(self) -> WhoAmI:
        for process in self.above:
            with suppress(psutil.Error):
                command: list[str] = process.cmdline()
                if command[:1] == [SEED_NAME] and len(command) > 3:
                    role: Literal["restored", "forked"]
                    role = "forked" if command[3] == "fork" else "restored"
                    return WhoAmI(kernel_id=self.kernel_id, role=role, snapshot=command[2])
        return WhoAmI(kernel_id=self.kernel_id, role="original")


def _lineage(pid: int) -> list[psutil.Process]:
    """The process, its parent, and so on; nothing if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.parents()]
    except psutil.Error:
        return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _is_being_rebuilt(lineage: Sequence[psutil.Process]) -> bool:
    """Whether it is of a tree that an engine of ours has made."""
    return os.getpid() in {process.pid for process in lineage} and any(
        _command(process)[:1] == [SEED_NAME] for process in lineage
    )


async def _has_ended(process: psutil.Process) -> bool:
    deadline = time.monotonic() + _ENDING_S
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)
                continue
        return True
    return False


def _listen(directory: Path) -> tuple[socket.socket, Path]:
    """A listening socket, and its path."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        _prepare(directory)
        _remove_stale(directory)
        path = _free_path(directory)
        # Not to be taken for a dead server's before it listens.
        hidden = directory / f".{path.name}"
        hidden.unlink(missing_ok=True)
        # The mode that bind(2) gives to the file.
        os.fchmod(listener.fileno(), 0o600)
        with short_address(hidden) as address:
            listener.bind(address)
        listener.listen(128)
        hidden.rename(path)
    except OSError as error:
        listener.close()
        raise StorageError(
            f"No socket for kernels can be made in {directory}: {error.strerror}.",
            "Let JUPYTER_RUNTIME_DIR name a directory of this user's own, on a local disk.",
        ) from error
    return listener, path


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is not this user's own directory")
    if stat.S_IMODE(status.st_mode) != 0o700:
        directory.chmod(0o700)


def _remove_stale(directory: Path) -> None:
    for path in directory.glob("server-*.sock"):
        if not _is_listening(path):
            path.unlink(missing_ok=True)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, short_address(path) as address:
        probe.setblocking(False)
        # EAGAIN: somebody does, and has much to do.
        return probe.connect_ex(address) in (0, errno.EAGAIN, errno.EACCES)


def _free_path(directory: Path) -> Path:
    """Another server may have our pid, in another pid namespace."""
    path, number = directory / f"server-{os.getpid()}.sock", 1
    while path.exists():
        number += 1
        path = directory / f"server-{os.getpid()}-{number}.sock"
    return path
