"""The provisioner: starts a kernel as jupyter_client's own does, or from a snapshot, and
goes on looking after it while a restore exchanges its processes.

Selected by name, ``jupyter-cr-provisioner``, in a kernel spec or as the default
(``KernelProvisionerFactory.default_provisioner_name``).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
from jupyter_client.connect import LocalPortCache
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Bool

from jupyter_cr.errors import RestoreError
from jupyter_cr.kernels.adopted_process import AdoptedProcess
from jupyter_cr.kernels.connection import PORTS, Connection, read_connection
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.kernels.extension import has_extension
from jupyter_cr.kernels.glue_client import renew_key
from jupyter_cr.kernels.records import KernelRecord

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

__all__ = [
    "Adoption",
    "Revival",
    "Running",
    "SnapshotProvisioner",
    "reap",
    "telling_before_swap",
]

_REAP_LIMIT_S = 1.0


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A tree that the engine has brought back (`jupyter_cr.operations.RestoreResult`)."""

    name: str
    pid: int
    connection_file: str | None
    elapsed_ms: float
    warnings: tuple[str, ...] = ()


@dataclass
class Revival:
    """That a kernel is to be started from a snapshot; given to ``start_kernel()`` as
    ``revival``.

    Attributes:
        engine: which does it.
        mode: ``fork`` beside the original, or ``restore`` in its place.
        abandoned: of what a process of the kernel has asked for itself: ids of requests
            that wait in the snapshot, and are not to be run.
        running, key_renewed: afterwards, what came of it.
    """

    engine: EngineProcess
    snapshot: str
    mode: Literal["restore", "fork"]
    lazy: bool = False
    abandoned: tuple[str, ...] | None = None
    progress: Progress | None = None
    running: Running | None = None
    key_renewed: bool = False


@dataclass(frozen=True)
class Adoption:
    """That a kernel runs already, and is to be looked after; given to ``start_kernel()``
    as ``adoption``."""

    connection_file: Path
    pid: int
    """Of its root."""


class SnapshotProvisioner(LocalProvisioner):
    """Looks after one kernel, whichever process it is at the moment."""

    survive_server = Bool(
        True,
        config=True,
        help="""Whether kernels go on when the server that has started them is killed or
        crashes. The next server takes them over. (A server that is stopped in an orderly
        way ends its kernels in any case.)""",
    )
    load_extension = Bool(
        True,
        config=True,
        help="""Whether to load the IPython extension jupyter_cr (%checkpoint and so on)
        into Python kernels in whose environment it is installed.""",
    )

    parent: Any
    """The kernel manager."""

    _revival: Revival | None = None
    _adoption: Adoption | None = None
    _record: KernelRecord | None = None
    _exchanging = False
    _told: Any = None
    """The process of whose end the log tells."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._exchange = asyncio.Lock()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Called by the kernel manager before each launch, restarts included. A revival
        or an adoption holds for one launch: a restart starts afresh."""
        if self.parent.has_trait("last_activity"):
            # A server may list the kernel before it notes this itself.
            self.parent.last_activity = datetime.now(timezone.utc)
        self._revival = kwargs.pop("revival", None)
        self._adoption = kwargs.pop("adoption", None)
        for once in ("revival", "adoption"):
            # Kept there for restarts (KernelManager.restart_kernel).
            self.parent._launch_args.pop(once, None)
        environment = kwargs.get("env") or {}
        session_name = environment.get("JPY_SESSION_NAME", "")
        if self._revival is not None or self._adoption is not None:
            kwargs = await KernelProvisionerBase.pre_launch(self, cmd=[], **kwargs)
        else:
            if self.load_extension and await asyncio.to_thread(
                has_extension, self.kernel_spec.argv
            ):
                kwargs["extra_arguments"] = [
                    *kwargs.get("extra_arguments", ()),
                    "--ext=jupyter_cr",
                ]
            kwargs = await super().pre_launch(**kwargs)
        self._record = KernelRecord.of(
            self.kernel_id,
            self.parent.kernel_name,
            os.path.abspath(self.parent.connection_file),
            cwd=str(kwargs.get("cwd") or ""),
            session_name=session_name,
        )
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Called by the kernel manager with what `pre_launch` has prepared.

        Raises:
            CheckpointRestoreError: the snapshot cannot be brought back.
        """
        self.cwd = kwargs.get("cwd", Path.cwd())
        if self.survive_server and self._record is not None:
            # Before there is anything that nobody would look after if we were killed now.
            self._record.write()
        try:
            if self._revival is not None:
                return await self._revive(self._revival)
            if self._adoption is not None:
                return self._adopt(self._adoption)
            if self.survive_server:
                cmd = _without_parent(cmd)
            return await super().launch_kernel(cmd, **kwargs)
        except BaseException:
            if self._record is not None:
                self._record.remove()
            raise

    async def _revive(self, revival: Revival) -> KernelConnectionInfo:
        request = {
            "op": revival.mode,
            "name": revival.snapshot,
            "lazy": revival.lazy,
            "asked_within": revival.abandoned is not None,
            "stay": True,
        }
        if revival.mode == "fork":
            request["connection_file"] = os.path.abspath(self.parent.connection_file)
        engine = revival.engine
        revival.running = await engine.run(request, Running, revival.progress)
        self._take_process(engine.process, revival.running.pid)
        try:
            return self._connected(await self._connection_of(revival, revival.running))
        except BaseException:
            await self.kill()
            raise

    async def _connection_of(self, revival: Revival, running: Running) -> Connection:
        """Of a tree that has been brought back, with the key that it has from now on.

        Raises:
            RestoreError: it is no kernel.
            UsageError: its connection file is not there.
        """
        if running.connection_file is None:
            raise RestoreError(
                f"Snapshot {revival.snapshot} is not of a Jupyter kernel.",
                "Bring it back from a terminal: jupyter cr fork, or restore.",
            )
        connection = read_connection(Path(running.connection_file))
        if revival.mode == "fork":
            key = secrets.token_hex(32)
            revival.key_renewed = await renew_key(
                running.pid,
                connection,
                key,
                snapshot=revival.snapshot,
                connection_file=running.connection_file,
                abandoned=revival.abandoned or (),
            )
            if revival.key_renewed:
                connection["key"] = key
        return connection

    def _adopt(self, adoption: Adoption) -> KernelConnectionInfo:
        self._take_process(AdoptedProcess(adoption.pid), adoption.pid)
        return self._connected(read_connection(adoption.connection_file))

    def _connected(self, connection: Connection) -> KernelConnectionInfo:
        """As the kernel manager wants it. Nobody else may be given the ports."""
        if connection.get("transport", "tcp") == "tcp":
            LocalPortCache.instance().currently_used_ports.update(
                connection[port] for port in PORTS
            )
            self.ports_cached = True
        as_bytes = {
            name: value.encode()
            for name in ("key", "curve_publickey", "curve_secretkey")
            if isinstance(value := connection.get(name), str)
        }
        self.connection_info = cast("KernelConnectionInfo", connection | as_bytes)
        # It takes what its file says for known, and ports that it has for given.
        for port in PORTS:
            setattr(self.parent, port, 0)
        self.parent.load_connection_info(self.connection_info)
        return self.connection_info

    def _take_process(self, process: Any, pid: int) -> None:
        """From now on that is the kernel: `process` ends when it ends, `pid` gets its
        signals."""
        self.process = process
        self.pid = pid
        self.pgid = None
        with suppress(ProcessLookupError):
            # It may have ended already, which `poll` tells.
            self.pgid = os.getpgid(pid)

    async def replace(
        self,
        engine: EngineProcess,
        snapshot: str,
        *,
        lazy: bool = False,
        asked_within: bool = False,
        progress: Progress | None = None,
        before: Callable[[], None] | None = None,
    ) -> Running:
        """Bring a snapshot of this kernel back in its place. Meanwhile it is alive for
        all who ask, and signals wait; if anything fails, it goes on as it was.

        Args:
            engine: which does it.
            asked_within: a process of the kernel has asked for it.
            before: called when the tree that runs now is about to be ended.

        Raises:
            CheckpointRestoreError: as the engine did.
        """

        request = {
            "op": "restore",
            "name": snapshot,
            "lazy": lazy,
            "asked_within": asked_within,
        }
        async with self._being_exchanged():
            return await self._have_exchanged(engine, request, progress, before)

    async def reset(
        self,
        engine: EngineProcess,
        snapshot: str,
        original: Connection,
        *,
        abandoned: tuple[str, ...] | None = None,
        progress: Progress | None = None,
        before: Callable[[], None] | None = None,
    ) -> Running:
        """Put a new fork of a snapshot in the place of this kernel, which is one, too: on
        its ports, with its key.

        Args:
            original: the connection in the snapshot.
            abandoned: as `Revival.abandoned`.

        Raises:
            CheckpointRestoreError: as the engine did; this kernel goes on as it was.
            RestoreError: the new one does not take the key.
        """
        path = os.path.abspath(self.parent.connection_file)
        ours = read_connection(Path(path))

        request = {
            "op": "fork",
            "name": snapshot,
            "connection_file": path,
            "asked_within": abandoned is not None,
        }
        async with self._being_exchanged():
            running = await self._have_exchanged(engine, request, progress, before)
            is_renewed = await renew_key(
                running.pid,
                {**ours, "key": original["key"]},
                ours["key"],
                snapshot=snapshot,
                connection_file=path,
                abandoned=abandoned or (),
            )
        if not is_renewed and original["key"] != ours["key"]:
            raise RestoreError(
                f"Kernel {self.kernel_id} was put back to {snapshot}, but does not take "
                "its session key: nobody can talk with it.",
                "Restart it, and fork the snapshot into another notebook.",
            )
        return running

    @asynccontextmanager
    async def _being_exchanged(self) -> AsyncIterator[None]:
        """Signals wait, and the kernel is alive for all who ask."""
        async with self._exchange:
            self._exchanging = True
            try:
                yield
            finally:
                self._exchanging = False

    async def _have_exchanged(
        self,
        engine: EngineProcess,
        request: Mapping[str, Any],
        progress: Progress | None,
        before: Callable[[], None] | None,
    ) -> Running:
        running = await engine.run(
            {**request, "replacing": self.pid, "stay": True},
            Running,
            telling_before_swap(progress, before),
        )
        former = self.process
        self._take_process(engine.process, running.pid)
        if former is not None:
            await reap(former)
        return running

    async def poll(self) -> int | None:
        """None while the kernel lives. A restore in progress counts as life."""
        if self._exchanging:
            return None
        status = await super().poll()
        if status and self._told is not self.process:
            self._told = self.process
            self.log.warning(
                "Kernel %s has ended: %s.", self.kernel_id, _describe_status(status)
            )
        return status

    async def send_signal(self, signum: int) -> None:
        """To the kernel's process group; during a restore, to the one that comes."""
        async with self._exchange:
            await super().send_signal(signum)

    async def cleanup(self, restart: bool = False) -> None:
        """Called by the kernel manager when the kernel has ended."""
        if not restart and self._record is not None:
            self._record.remove()
        await super().cleanup(restart=restart)


def telling_before_swap(
    progress: Progress | None, before: Callable[[], None] | None
) -> Progress:
    """Progress of an exchange.

    Args:
        before: called when the tree that runs now is about to be ended.
    """

    def report(phase: str, fraction: float) -> None:
        if phase == "swap" and before is not None:
            before()
        if progress is not None:
            progress(phase, fraction)

    return report


async def reap(process: Any) -> None:
    """Take note of the end of a process that has been killed, a `subprocess.Popen` or the
    like. Of one that a debugger holds, Linux does not tell it before that lets go
    (ptrace(2)); `subprocess` asks again whenever it starts another."""
    with suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, _REAP_LIMIT_S)


def _describe_status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.strsignal(-status) or "unknown"
    return f"signal {-status} ({name})"


def _without_parent(cmd: list[str]) -> list[str]:
    """The command, in an environment that does not tell the kernel to end when its
    parent does. jupyter_client sets JPY_PARENT_PID; 1 means to ipykernel, and those
    built on it, that there is no parent to watch."""
    env = shutil.which("env")
    return [env, "JPY_PARENT_PID=1", *cmd] if env else cmd
