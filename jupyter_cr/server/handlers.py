"""REST: ``jupyter-cr/``, as ``openapi.yaml`` beside this file describes it.

Handlers parse, call the service, and show; whatever is raised becomes a problem
document.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import quote

import msgspec
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.http1connection import HTTP1Connection

from jupyter_cr.errors import CheckpointRestoreError, UsageError
from jupyter_cr.operations import SnapshotDetails
from jupyter_cr.server import problems
from jupyter_cr.server.answers import Query
from jupyter_cr.server.carriage import Upload
from jupyter_cr.server.lessons import Lessons, PublishRequest, StartRequest
from jupyter_cr.server.requests import (
    OPERATIONS,
    Asked,
    DiffSnapshotRequest,
    ForkSnapshotRequest,
    ImportRequest,
    KeepRequest,
    TimelineRequest,
    TravelRequest,
    UpdateRequest,
    convert_fields,
    decode_body,
)
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.server.tasks import Task, Tasks, Work
from jupyter_cr.server.timelines import Timelines

__all__ = ["HANDLERS", "openapi"]

T = TypeVar("T")

_METHODS = ("get", "post", "put", "patch", "delete")
_YAML = "application/yaml"
"""RFC 9512."""
_TAR = "application/x-tar"


@functools.cache
def openapi() -> bytes:
    """The description of this interface, OpenAPI 3.1 in YAML."""
    return (Path(__file__).parent / "openapi.yaml").read_bytes()


class _Handler(APIHandler):
    auth_resource = "jupyter_cr"

    @property
    def service(self) -> SnapshotService:
        return cast("SnapshotService", self.settings["jupyter_cr_service"])

    @property
    def timelines(self) -> Timelines:
        return cast("Timelines", self.settings["jupyter_cr_timelines"])

    @property
    def tasks(self) -> Tasks:
        return cast("Tasks", self.settings["jupyter_cr_tasks"])

    @property
    def lessons(self) -> Lessons:
        return cast("Lessons", self.settings["jupyter_cr_lessons"])

    def answer(self, content: object, status: int = 200) -> None:
        self.set_status(status)
        self.finish(msgspec.json.encode(content))

    def answer_task(self, task: Task) -> None:
        self.set_header("Location", url_path_join(self.base_url, _task_path(task)))
        self.set_header("Access-Control-Expose-Headers", "Location")
        self.answer(task, 202 if task.state == "running" else 200)

    def begin(self, operation: str, work: Work, **about: str | None) -> None:
        self.answer_task(self.tasks.start(operation, work, **about))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by tornado for whatever a verb has raised."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        problem = problems.problem_of(error or web.HTTPError(status_code))
        self.set_status(problem.status)
        if problem.status == 405:
            allowed = [m.upper() for m in _METHODS if m in vars(type(self))]
            self.set_header("Allow", ", ".join([*allowed, "OPTIONS"]))
        self.finish(msgspec.json.encode(problem), set_content_type=problems.MEDIA_TYPE)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Called by tornado: what a person is told of is no trouble of the server's."""
        if isinstance(value, CheckpointRestoreError):
            self.log.info("%s: %s", self.request.path, value.message)
        else:
            super().log_exception(typ, value, tb)


def _task_path(task: Task) -> str:
    return f"jupyter-cr/tasks/{task.id}"


def _without_key(details: SnapshotDetails) -> SnapshotDetails:
    """Whoever may look at snapshots may not, for that, run code in kernels."""
    replace = msgspec.structs.replace
    kernel = replace(details.header.kernel, connection=b"")
    return replace(details, header=replace(details.header, kernel=kernel))


def _queried(handler: _Handler, type_: type[msgspec.Struct]) -> dict[str, str]:
    """What the query of an address says of these fields."""
    return {
        name: handler.get_query_argument(name)
        for name in type_.__struct_fields__
        if name in handler.request.query_arguments
    }


def _attachment(name: str) -> str:
    """To be saved under that name (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def _given(value: T | msgspec.UnsetType) -> T | None:
    return None if isinstance(value, msgspec.UnsetType) else value


_Verb = Callable[..., Awaitable[None]]


def _verb(method: _Verb) -> _Verb:
    """What every verb is behind."""
    return cast("_Verb", web.authenticated(authorized(method)))


class SnapshotsHandler(_Handler):
    @_verb
    async def get(self) -> None:
        query = convert_fields(_queried(self, Query), Query, strict=False)
        self.answer(await self.service.snapshots.find(query))


class SnapshotHandler(_Handler):
    @_verb
    async def get(self, name: str) -> None:
        self.answer(_without_key(await self.service.snapshots.details(name)))

    @_verb
    async def patch(self, name: str) -> None:
        request = decode_body(self.request.body, UpdateRequest)
        if request == UpdateRequest():
            raise UsageError("Nothing is to be changed.", "Give a name, a note, or tags.")
        self.answer(
            await self.service.snapshots.update(
                name,
                new_name=_given(request.name),
                note=_given(request.note),
                tags=_given(request.tags),
            )
        )

    @_verb
    async def delete(self, name: str) -> None:
        await self.service.snapshots.delete([name])
        self.set_status(204)
        self.finish()


class SummaryHandler(_Handler):
    @_verb
    async def get(self, name: str) -> None:
        self.answer(await self.service.snapshots.summary(name))


class DocumentHandler(_Handler):
    @_verb
    async def get(self, name: str) -> None:
        self.finish(await self.service.snapshots.document(name))


class ForkSnapshotHandler(_Handler):
    @_verb
    async def post(self, name: str) -> None:
        request = decode_body(self.request.body, ForkSnapshotRequest)
        fork = functools.partial(
            self.service.fork, name, path=request.path, document=request.document
        )
        self.begin("fork", lambda progress: fork(progress=progress), snapshot=name)


class TrustHandler(_Handler):
    @_verb
    async def post(self, name: str) -> None:
        self.answer(await self.service.snapshots.trust(name))


class BundleHandler(_Handler):
    @_verb
    async def get(self, name: str) -> None:
        self.set_header("Content-Type", _TAR)
        self.set_header("Content-Disposition", _attachment(f"{name}.jupyter-cr.tar"))
        async with aclosing(self.service.snapshots.bundle(name)) as pieces:
            try:
                async for piece in pieces:
                    self.write(piece)
                    await self.flush()
            except CheckpointRestoreError as error:
                if not self._headers_written:
                    self.clear()
                    raise
                self._break_off(error)
                return
        self.finish(set_content_type=_TAR)

    def _break_off(self, error: CheckpointRestoreError) -> None:
        """So that nobody takes what has come for all of it."""
        self.log.warning("%s: %s", self.request.path, error.message)
        cast("HTTP1Connection", self.request.connection).close()


@web.stream_request_body
class ImportHandler(_Handler):
    """The bundle is the body, and read as it comes."""

    _upload: Upload | None = None
    _task: Task | None = None

    async def prepare(self, **options: Any) -> None:
        """Called by tornado before the body."""
        await super().prepare(**options)
        if self.request.method == "POST":
            await self._begin()

    @_verb
    async def _begin(self) -> None:
        request = convert_fields(_queried(self, ImportRequest), ImportRequest)
        cast("HTTP1Connection", self.request.connection).set_max_body_size(sys.maxsize)
        upload = await Upload.begin(request.source, request.name or None)
        take = functools.partial(self.service.snapshots.take_in, upload)
        self._upload = upload
        self._task = self.tasks.start("import", take)

    async def data_received(self, chunk: bytes) -> None:
        """Called by tornado with each piece."""
        if self._upload is not None:
            await self._upload.add(chunk)

    @_verb
    async def post(self) -> None:
        assert self._upload is not None
        assert self._task is not None
        self._upload.end()
        self._upload = None
        self.answer_task(self.tasks.get(self._task.id))

    def on_finish(self) -> None:
        """Called by tornado after an answer, whatever that was."""
        self._abandon()

    def on_connection_close(self) -> None:
        """Called by tornado when whoever has asked is gone before the answer."""
        super().on_connection_close()
        self._abandon()

    def _abandon(self) -> None:
        if self._upload is not None and self._task is not None:
            self._upload.abandon()
            self._upload = None
            self.tasks.call_off(self._task.id)


class DiffSnapshotHandler(_Handler):
    @_verb
    async def post(self, name: str) -> None:
        request = decode_body(self.request.body, DiffSnapshotRequest)

        compare = functools.partial(
            self.service.compare, name, request.after, variables=request.variables
        )
        self.begin("diff", lambda _: compare(), snapshot=name)


class OperationHandler(_Handler):
    @_verb
    async def post(self, kernel_id: str, operation: str) -> None:
        request = decode_body(self.request.body, OPERATIONS[operation])
        self.begin(
            operation,
            lambda progress: request.run(self.service, Asked(kernel_id, progress)),
            kernel_id=kernel_id,
            snapshot=request.subject,
        )


class TimelineHandler(_Handler):
    _track_activity = False  # A page that looks on keeps no server alive.

    @_verb
    async def get(self, kernel_id: str) -> None:
        self.answer(await self.timelines.timeline(kernel_id))

    @_verb
    async def put(self, kernel_id: str) -> None:
        request = decode_body(self.request.body, TimelineRequest)
        self.answer(await self.timelines.switch(kernel_id, request.is_on))


class TravelHandler(_Handler):
    @_verb
    async def post(self, kernel_id: str) -> None:
        request = decode_body(self.request.body, TravelRequest)
        if bool(request.steps) == bool(request.point):
            raise UsageError("Where to go is not plain.", "Give either steps or a point.")
        travel = functools.partial(
            self.timelines.travel,
            kernel_id,
            steps=request.steps,
            point=request.point,
            keep=request.keep,
            document=request.document,
        )
        self.begin(
            "travel",
            lambda progress: travel(),
            kernel_id=kernel_id,
            snapshot=request.point or None,
        )


class KeepHandler(_Handler):
    @_verb
    async def post(self, kernel_id: str, name: str) -> None:
        request = decode_body(self.request.body, KeepRequest)
        keep = functools.partial(
            self.timelines.keep, kernel_id, name, request.name, request.note
        )
        self.begin("keep", lambda progress: keep(), kernel_id=kernel_id, snapshot=name)


class RunDocumentHandler(_Handler):
    @_verb
    async def put(self, kernel_id: str, msg_id: str) -> None:
        await self.timelines.note_document(kernel_id, msg_id, self.request.body)
        self.set_status(204)
        self.finish()


class LessonsHandler(_Handler):
    @_verb
    async def get(self) -> None:
        self.answer(await self.lessons.list())

    @_verb
    async def post(self) -> None:
        request = decode_body(self.request.body, PublishRequest)
        publish = functools.partial(self.lessons.publish, request)
        self.begin("publish", publish, snapshot=request.snapshot)


class LessonHandler(_Handler):
    @_verb
    async def get(self, title: str) -> None:
        self.answer(await self.lessons.examine(title))

    @_verb
    async def delete(self, title: str) -> None:
        await self.lessons.withdraw(title)
        self.set_status(204)
        self.finish()


class TimelineDocumentHandler(_Handler):
    @_verb
    async def get(self, kernel_id: str, document_id: str) -> None:
        self.finish(await self.timelines.document(kernel_id, document_id))


class StartLessonHandler(_Handler):
    @_verb
    async def post(self, title: str) -> None:
        request = decode_body(self.request.body, StartRequest)
        self.begin("start", functools.partial(self.lessons.start, title, request))


class KernelLessonHandler(_Handler):
    _track_activity = False

    @_verb
    async def get(self, kernel_id: str) -> None:
        self.answer(await self.lessons.of_kernel(kernel_id))


class TasksHandler(_Handler):
    _track_activity = False  # A page that looks on keeps no server alive.

    @_verb
    async def get(self) -> None:
        self.answer({"tasks": self.tasks.list()})


class TaskHandler(_Handler):
    _track_activity = False

    @_verb
    async def get(self, task_id: str) -> None:
        self.answer_task(self.tasks.get(task_id))

    @_verb
    async def delete(self, task_id: str) -> None:
        self.answer_task(await self.tasks.cancel(task_id))


class TwinsHandler(_Handler):
    _track_activity = False

    @_verb
    async def get(self) -> None:
        self.answer(await self.service.snapshots.twins())


class CapabilitiesHandler(_Handler):
    @_verb
    async def get(self) -> None:
        self.answer(await self.service.capabilities())


class OpenApiHandler(_Handler):
    @_verb
    async def get(self) -> None:
        self.finish(openapi(), set_content_type=_YAML)


class NothingHandler(_Handler):
    """A problem document for this, too, in place of the server's page."""

    @_verb
    async def get(self) -> None:
        raise web.HTTPError(404, "There is nothing at this address.")

    post = patch = put = delete = get


_NAME = r"(?P<name>[^/]+)"
_TITLE = r"(?P<title>[^/]+)"
_KERNEL_ID = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"
_OPERATION = rf"(?P<operation>{'|'.join(OPERATIONS)})"

HANDLERS: list[tuple[str, type[APIHandler]]] = [
    ("/jupyter-cr/snapshots", SnapshotsHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}", SnapshotHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/summary", SummaryHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/document", DocumentHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/fork", ForkSnapshotHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/diff", DiffSnapshotHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/trust", TrustHandler),
    (rf"/jupyter-cr/snapshots/{_NAME}/bundle", BundleHandler),
    ("/jupyter-cr/import", ImportHandler),
    (rf"/jupyter-cr/kernels/{_KERNEL_ID}/{_OPERATION}", OperationHandler),
    (rf"/jupyter-cr/kernels/{_KERNEL_ID}/timeline", TimelineHandler),
    (rf"/jupyter-cr/kernels/{_KERNEL_ID}/timeline/travel", TravelHandler),
    (rf"/jupyter-cr/kernels/{_KERNEL_ID}/timeline/points/{_NAME}/keep", KeepHandler),
    (
        rf"/jupyter-cr/kernels/{_KERNEL_ID}/timeline/runs/(?P<msg_id>[^/]+)/document",
        RunDocumentHandler,
    ),
    (
        rf"/jupyter-cr/kernels/{_KERNEL_ID}/timeline/documents/(?P<document_id>\w+)",
        TimelineDocumentHandler,
    ),
    (rf"/jupyter-cr/kernels/{_KERNEL_ID}/lesson", KernelLessonHandler),
    ("/jupyter-cr/lessons", LessonsHandler),
    (rf"/jupyter-cr/lessons/{_TITLE}", LessonHandler),
    (rf"/jupyter-cr/lessons/{_TITLE}/start", StartLessonHandler),
    ("/jupyter-cr/tasks", TasksHandler),
    (r"/jupyter-cr/tasks/(?P<task_id>\w+)", TaskHandler),
    ("/jupyter-cr/twins", TwinsHandler),
    ("/jupyter-cr/capabilities", CapabilitiesHandler),
    (r"/jupyter-cr/openapi\.yaml", OpenApiHandler),
    (r"/jupyter-cr/.*", NothingHandler),
]
"""For `ExtensionApp.handlers`, which puts the server's base URL before each."""
