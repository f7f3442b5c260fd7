"""The application that Jupyter Server loads: puts the parts together."""

from __future__ import annotations

import os
from typing import Any

import zmq
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.gateway.gateway_client import GatewayClient
from traitlets import Bool, Int, Unicode, default
from traitlets.config import Config

from jupyter_cr.errors import StorageError
from jupyter_cr.kernels.provisioner import SnapshotProvisioner
from jupyter_cr.lessons import LESSONS_VARIABLE, SIGNERS_VARIABLE, Place
from jupyter_cr.server.adoption import adopt_kernels
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.events import Emitter
from jupyter_cr.server.front_end_requests import FrontEndRequests
from jupyter_cr.server.handlers import HANDLERS
from jupyter_cr.server.hibernation import Hibernation
from jupyter_cr.server.housekeeping import Housekeeping
from jupyter_cr.server.kernel_socket import KernelSocket
from jupyter_cr.server.lessons import Lessons
from jupyter_cr.server.messages import UNTRACKED
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.tasks import Tasks
from jupyter_cr.server.timelines import RETENTION, Timelines
from jupyter_cr.server.websocket import SettlingWebsocketConnection
from jupyter_cr.store import TwinLimits
from jupyter_cr.store.retention import RETENTION_VARIABLE

__all__ = ["SnapshotExtension"]

_FIRST_RECONNECT_MS, _LONGEST_RECONNECT_MS = 10, 200

PROVISIONER = "jupyter-cr-provisioner"


class SnapshotExtension(ExtensionApp):
    """Snapshots of this server's kernels."""

    name = "jupyter_cr"
    load_other_extensions = True
    classes = [SnapshotProvisioner]  # noqa: RUF012 - as traitlets wants it

    default_provisioner = Bool(
        True,
        config=True,
        help="""Whether kernels are started by this extension's provisioner where neither
        their kernel spec nor the configuration names another. With others, kernels can
        be snapshotted and restored, but not forked or resumed.""",
    )
    adopt_kernels = Bool(
        True,
        config=True,
        help="""Whether to look after the kernels of a server that was killed or has
        crashed, under their old ids.""",
    )

    hibernate_culled = Bool(
        False,
        config=True,
        help="""Whether kernels that the server culls (MappingKernelManager.cull_*) are
        saved, and resumed when their notebooks are opened again. One that cannot be saved
        is culled all the same; the log says why.""",
    )
    hibernate_on_stop = Bool(
        False,
        config=True,
        help="""Whether kernels are saved when the server stops, and resumed when their
        notebooks are opened again.""",
    )
    hibernate_below_mib = Int(
        0,
        min=0,
        config=True,
        help="""While fewer MiB of memory than that are available, to the machine or to the
        server's control group, kernels are saved and ended: those that are idle and that
        no page is connected to, the longest idle first. 0: never.""",
    )
    retention = Unicode(
        config=True,
        help="""Which snapshots are kept, in words; the others are removed whenever a new
        one has been taken. As in "last 10, one per hour for a day, one per day for a week,
        all named"; `jupyter cr prune --dry-run --policy ...` tells what that would remove.
        Empty: all are kept. Default: the environment's JUPYTER_CR_RETENTION.""",
    )

    lessons = Unicode(
        config=True,
        help="""Where lessons are, which users can start from: a directory, or a URL that
        fsspec knows. Those who may write there publish them. Default: the environment's
        JUPYTER_CR_LESSONS. Empty: there are none.""",
    )
    lesson_signers = Unicode(
        config=True,
        help="""A file, JSON, {"PUBLIC KEY": "Name"}: by whom lessons are that everybody may
        start; of others, each user is asked whether to trust them. `jupyter cr signers`
        shows one's own key. Default: the environment's JUPYTER_CR_LESSON_SIGNERS.""",
    )

    twins_mib = Int(
        0,
        min=0,
        config=True,
        help="""How many MiB of memory the twins of warm snapshots may take, beyond what
        their kernels have anyway: if more, those of the oldest end, and these snapshots are
        on disk only. 0: no limit.""",
    )
    twins_count = Int(
        0, min=0, config=True, help="How many snapshots may be warm. 0: no limit."
    )
    twins_minutes = Int(
        0, min=0, config=True, help="How long a snapshot stays warm. 0: for ever."
    )
    twins_survive = Bool(
        False,
        config=True,
        help="Whether snapshots that this server took warm stay that when it stops.",
    )

    timeline_mib = Int(
        2048,
        min=0,
        config=True,
        help="""How many MiB of memory the points of all timelines may take (snapshots that
        are taken before each cell where somebody has switched that on), beyond what their
        kernels have anyway: if more, the oldest go. 0: no limit.""",
    )
    timeline_retention = Unicode(
        RETENTION,
        config=True,
        help="""Which points of timelines are kept, in the same words as `retention`; the
        one before the last cell always is.""",
    )

    @default("lessons")
    def _default_lessons(self) -> str:
        return os.environ.get(LESSONS_VARIABLE, "")

    @default("lesson_signers")
    def _default_lesson_signers(self) -> str:
        return os.environ.get(SIGNERS_VARIABLE, "")

    @default("retention")
    def _default_retention(self) -> str:
        return os.environ.get(RETENTION_VARIABLE, "")

    _hibernation: Hibernation | None = None
    _housekeeping: Housekeeping | None = None
    _tasks: Tasks | None = None
    _timelines: Timelines | None = None
    _socket: KernelSocket | None = None

    def _link_jupyter_server_extension(self, serverapp: Any) -> None:
        """Called before the server makes its managers: their defaults can be chosen."""
        super()._link_jupyter_server_extension(serverapp)
        chosen = Config()
        if self.default_provisioner and not _is_provisioner_chosen(serverapp.config):
            chosen.KernelProvisionerFactory.default_provisioner_name = PROVISIONER
        has_chosen = "kernel_websocket_connection_class" in serverapp.config.ServerApp
        # With a gateway, kernels run elsewhere, and the server has a class of its own.
        if not has_chosen and not GatewayClient.instance(parent=serverapp).gateway_enabled:
            chosen.ServerApp.kernel_websocket_connection_class = SettlingWebsocketConnection
        serverapp.update_config(chosen)

    def initialize_settings(self) -> None:
        """Called when the server has its managers."""
        app: Any = self.serverapp
        self._kernels = app.kernel_manager
        # A kernel that answers those may be busy all the same; and they are no activity.
        self._kernels.untracked_message_types = [
            *self._kernels.untracked_message_types,
            *UNTRACKED,
        ]
        _connect_again_soon(self._kernels)
        self._documents = Documents(app.contents_manager, app.session_manager)
        emit = Emitter(app.event_logger, self.log)
        self._tasks = Tasks(emit, log=self.log)
        self._housekeeping = Housekeeping(
            emit,
            self.log,
            retention=self.retention,
            limits=self._limits(),
            survive=self.twins_survive,
        )
        requests = FrontEndRequests(self._kernels)
        service = SnapshotService(
            self._kernels, self._documents, requests, emit, self._housekeeping
        )
        self._timelines = Timelines(
            service,
            requests,
            self._kernels,
            self._documents,
            emit,
            self.log,
            retention=self.timeline_retention,
            budget=self.timeline_mib << 20,
        )
        self._hibernation = Hibernation(
            service,
            self._tasks,
            self._kernels,
            app.session_manager,
            self.log,
            culled=self.hibernate_culled,
            below=self.hibernate_below_mib << 20,
        )
        self._socket = KernelSocket(
            service, self._tasks, self._find_kernel, self._timelines, log=self.log
        )
        self.settings["jupyter_cr_service"] = service
        self.settings["jupyter_cr_timelines"] = self._timelines
        self.settings["jupyter_cr_tasks"] = self._tasks
        lessons = Lessons(
            service,
            self._documents,
            self._housekeeping,
            Place(where=self.lessons, signers=self.lesson_signers),
        )
        service.settle = lessons.settle
        self.settings["jupyter_cr_lessons"] = lessons

    def _limits(self) -> TwinLimits:
        return TwinLimits(
            bytes=self.twins_mib << 20 if self.twins_mib else None,
            count=self.twins_count or None,
            age=self.twins_minutes * 60.0 if self.twins_minutes else None,
        )

    def initialize_handlers(self) -> None:
        """Called after `initialize_settings`."""
        self.handlers.extend(HANDLERS)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Called when the event loop runs."""
        assert self._socket is not None
        assert self._hibernation is not None
        assert self._housekeeping is not None
        assert self._timelines is not None
        self._hibernation.start()
        await self._housekeeping.start()
        try:
            await self._socket.start()
        except StorageError as error:
            self.log.warning("Kernels cannot ask for their own snapshots: %s", error)
        if self.adopt_kernels:
            await adopt_kernels(
                self._kernels, self._documents, serverapp.root_dir, self.log
            )
        await self._timelines.start(self._housekeeping.claimed)

    async def stop_extension(self) -> None:
        """Called when the server stops, however far it had come; before its kernels are
        shut down."""
        if self._hibernation is not None:
            await self._hibernation.stop(save=self.hibernate_on_stop)
        if self._tasks is not None:
            await self._tasks.stop()
        if self._timelines is not None:
            await self._timelines.stop()
        if (service := self.settings.get("jupyter_cr_service")) is not None:
            await service.stop()
        if self._housekeeping is not None:
            await self._housekeeping.stop()
        if self._socket is not None:
            await self._socket.stop()

    def _find_kernel(self, pid: int) -> str | None:
        for kernel_id in self._kernels.list_kernel_ids():
            provisioner = self._kernels.get_kernel(kernel_id).provisioner
            if isinstance(provisioner, LocalProvisioner) and provisioner.pid == pid:
                return str(kernel_id)
        return None


def _is_provisioner_chosen(config: Config) -> bool:
    return (
        "default_provisioner_name" in config.KernelProvisionerFactory
        or KernelProvisionerFactory.default_provisioner_name_env in os.environ
    )


def _connect_again_soon(kernels: Any) -> None:
    """A restore lasts until front ends are back. ZeroMQ tries after 100 to 200 ms only, and
    where that was too early, after as long again (zmq_setsockopt(3), ZMQ_RECONNECT_IVL)."""
    context = getattr(kernels, "context", None)
    if context is not None:
        context.setsockopt(zmq.RECONNECT_IVL, _FIRST_RECONNECT_MS)
        context.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_RECONNECT_MS)
