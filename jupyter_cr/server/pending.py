"""What front ends have asked kernels for and have not been told yet; and how those that
wait are told, when a restore ends the processes that would have answered.

A front end's request is done when its reply has come, on the channel on which it was
asked, and the status ``idle`` with it as the parent (comm messages have no reply):
https://jupyter-client.readthedocs.io/en/stable/messaging.html, and `KernelFutureHandler`
of @jupyterlab/services, with which JupyterLab, Notebook 7 and VS Code wait.

What holds:

* No request is answered twice. Whatever front ends send while a kernel is `held` waits
  here, and reaches the processes that run afterwards. Everything sent before has reached
  those that ran before: `KernelRequests.settle` answers it, unless it was answered
  already or those that run now go on with it. A later reply to what has been settled is
  left out.
* None is left hanging, if a front end goes away, too: when its session comes back, it is
  told then.
* Questions about the kernel itself (``kernel_info_request``) are asked again instead:
  front ends take "aborted" for a kernel that is of no use.
* Of a cell that goes on, the reply goes to the session that had sent it: a kernel's ROUTER
  knows sessions, not connections, so it may be a websocket opened since. If that session
  is gone, there is nobody who waits for a reply; outputs and status reach all others,
  under the same parent as before. A fork's front end that wants the reply, or to answer
  a prompt, has to connect with that session (`RunningRequest.session`).
* A prompt that was open in the snapshot is open again: the front end is asked anew, unless
  it still is at it.

* What `pending` says when a snapshot is begun need not hold when the kernel is frozen.
  What was answered in between, or was under way and is in no snapshot, is found out after
  the restore, by a question that the kernel answers after all others, and settled then.

* A cell that asks to go back is the last to be run, as one that raises is: what was sent
  behind it, and waits here until the kernel is back, is answered with "aborted".

* While a timeline is kept of a kernel, cells wait at its gate (`jupyter_cr.server.gate`)
  before they are sent at all; those that still do when a kernel goes back, are answered
  with "aborted".

* So that a snapshot holds no requests that `pending` did not tell of, the kernel is `held`
  from then until it has been frozen, too.

What remains, where the reply is "aborted" and the code is run all the same: requests that
are still in ZeroMQ's own queue when the old processes end. It keeps what a kernel does not
take, once the connection's buffers are full: some megabytes, with kernels that do not read
while they compute.

And only what goes through this server's websockets is known: not what a console asks that
is connected to the kernel itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec

from jupyter_cr.image import InputPrompt, RunningRequest
from jupyter_cr.kernels.glue_protocol import REQUEST
from jupyter_cr.server.cells import Cells
from jupyter_cr.server.gate import Gate
from jupyter_cr.server.messages import (
    COMMS,
    QUESTIONS,
    Header,
    Input,
    as_dict,
    new_header,
    read_cell_id,
    read_header,
    read_input,
    read_prompt,
    read_reply,
    without_subshell,
)
from jupyter_cr.server.subshells import Subshells

__all__ = [
    "Connection",
    "KernelRequests",
    "Pending",
]


@dataclass(slots=True)
class Pending:
    """A request that has not been answered, or not wholly.

    Attributes:
        session: of the front end's websocket, which is the kernel's name for it.
        header: JSON, as the front end has sent it.
        begun: the kernel has said that it is busy with it.
        replied, idle: what the front end has been told.
        prompt: what the kernel has asked the front end for, and not been told.
        asks_anew: the front end does not know of that prompt (any more).
        ended: it will not be answered by the kernel, and the front end is not there.
        goes_on: it was sent before the snapshot that the kernel was brought back to.
        outcome: of a cell, the content of its reply, as far as its outputs tell.
        status: of its reply, as that says.
    """

    msg_id: str
    msg_type: str
    session: str
    channel: str
    header: bytes
    subshell: str = ""
    cell_id: str = ""
    begun: bool = False
    replied: bool = False
    idle: bool = False
    prompt: InputPrompt | None = None
    asks_anew: bool = False
    ended: bool = False
    goes_on: bool = False
    outcome: dict[str, Any] = field(default_factory=dict)
    status: str = ""

    @property
    def has_reply(self) -> bool:
        """Comm messages have none."""
        return self.msg_type.endswith("_request")

    @property
    def is_answered(self) -> bool:
        """Whether the front end knows how it went. The status may be to come."""
        return self.replied if self.has_reply else self.idle

    @property
    def is_done(self) -> bool:
        return self.idle and self.is_answered

    @property
    def lost_reply(self) -> dict[str, Any] | None:
        """What the kernel has answered without anybody hearing it; None if it has not."""
        if not (self.idle and self.outcome):
            return None
        return {"status": "ok", "payload": [], "user_expressions": {}, **self.outcome}

    @property
    def is_in_queue(self) -> bool:
        """Whether the front end waits for what was asked of the main shell before the
        snapshot."""
        is_waiting = self.goes_on and not (self.is_answered or self.ended)
        return is_waiting and self.channel == "shell" and not self.subshell


@dataclass
class _Probe:
    """A question of ours.

    Attributes:
        session: of the front end in whose name it is asked.
        more: how many times it is to be asked again.
        replied, idle: what has been heard of it.
    """

    session: str
    more: int
    replied: bool = False
    idle: bool = False


class Connection(Protocol):
    """One front end's websocket to a kernel."""

    @property
    def session_id(self) -> str:
        """The front end's session, under which the kernel knows it."""

    def flush(self) -> None:
        """Pass on what has come from the kernel."""

    def tell(
        self, channel: str, msg_type: str, content: dict[str, Any], parent: dict[str, Any]
    ) -> None:
        """Send a message to the front end as if the kernel did."""

    def ask(self, channel: str, header: dict[str, Any], content: dict[str, Any]) -> None:
        """Send a request to the kernel as if the front end did."""

    def pass_on(self, message: Any) -> None:
        """Send to the kernel what the front end has sent, unless it waits at the gate."""

    def send_on(self, message: Any) -> None:
        """Send it to the kernel."""


@dataclass(eq=False)
class KernelRequests:
    """Those of one kernel.

    Attributes:
        requests: message id -> request, in the order in which they were sent.
        settled: ids of requests that were answered in the kernel's stead.
        connections: session -> websocket.
        session: of the kernel, as its last status said.
        launch: which launch of the kernel all this is about.
        cells_run: how many cells have been run that were asked for since the kernel is
            what it is.
        gate: where cells wait; None if none do.
    """

    requests: dict[str, Pending] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    connections: WeakValueDictionary[str, Any] = field(default_factory=WeakValueDictionary)
    session: str = ""
    launch: object = None
    cells_run: int = 0
    gate: Gate | None = None
    subshells: Subshells = field(default_factory=Subshells)
    cells: Cells = field(default_factory=Cells)
    _marked: bool = False
    _replied: set[str] = field(default_factory=set)
    _idle: set[str] = field(default_factory=set)
    _probes: dict[str, _Probe] = field(default_factory=dict)
    _closed_prompts: set[str] = field(default_factory=set)
    _holds: int = 0
    _held: deque[tuple[Connection, Any]] = field(default_factory=deque)
    _doomed: int = 0
    _is_dooming: bool = False

    # What front ends say

    def hold(self, connection: Connection, message: Any) -> bool:
        """Whether a message has to wait; it is kept then."""
        waits = bool(self._holds or self._held)
        if waits:
            self._held.append((connection, message))
        return waits

    @contextmanager
    def held(self) -> Iterator[None]:
        """Messages wait until the end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._held:
                asyncio.get_running_loop().call_soon(self._release)
            if self.gate is not None and not self._holds:
                asyncio.get_running_loop().call_soon(self.gate.look)

    @property
    def is_held(self) -> bool:
        """Whether messages wait."""
        return self._holds > 0

    @property
    def is_dooming(self) -> bool:
        """Whether what is passed on is answered with "aborted"."""
        return self._is_dooming

    def doom(self, pass_on: Callable[[], None]) -> None:
        """Have what is passed on answered with "aborted"; the kernel does not get it."""
        self._is_dooming = True
        try:
            pass_on()
        finally:
            self._is_dooming = False

    def _release(self) -> None:
        """Let the next message go. What is wrong with one, the event loop says; it is of
        no concern to the others."""
        if self._holds or not self._held:
            return
        connection, message = self._held.popleft()
        if self._held:
            asyncio.get_running_loop().call_soon(self._release)
        self._is_dooming = self._doomed > 0
        self._doomed -= self._is_dooming
        try:
            self.connections.get(connection.session_id, connection).pass_on(message)
        finally:
            self._is_dooming = False

    def send(
        self, session: str, channel: str, header: bytes, metadata: bytes
    ) -> bytes | None:
        """Take note of a message to the kernel: the header to send it with, None if it is
        not to be sent."""
        try:
            read = read_header(header)
        except msgspec.MsgspecError:
            return header
        if read.msg_type == "input_reply":
            return self._reply_to_prompt(session, header)
        self.requests[read.msg_id] = Pending(
            read.msg_id,
            read.msg_type,
            session,
            channel,
            header,
            read.subshell_id or "",
        )
        if read.msg_type == "execute_request":
            self.requests[read.msg_id].cell_id = read_cell_id(metadata)
            if self._is_dooming:
                self._doom(self.requests[read.msg_id])
                return None
        self._show_gate(self.requests[read.msg_id])
        if read.subshell_id and self.subshells.is_gone(read.subshell_id):
            return without_subshell(header)
        return header

    def _show_gate(self, request: Pending) -> None:
        """It knows of the cells that it has let pass, and is told of all else."""
        if self.gate is None or self.gate.has_passed(request.msg_id):
            return
        if request.msg_type in QUESTIONS:
            self.gate.asks(request.msg_id)
        elif request.msg_type in COMMS or request.msg_type == "execute_request":
            self.gate.touches(request.msg_id)

    def _doom(self, request: Pending) -> None:
        """Answer a cell that waited behind one that has asked to go back."""
        request.ended = True
        if (connection := self.connections.get(request.session)) is not None:
            self._tell_ended(connection, list(self.connections.values()))
        # The kernel never gets it, and has nothing to say of it.
        self.settled.discard(request.msg_id)

    def _reply_to_prompt(self, session: str, header: bytes) -> bytes | None:
        asked = [r for r in self._of(session) if r.prompt is not None]
        for request in asked:
            request.prompt = None
        if not asked and session in self._closed_prompts:
            # Of a cell that was settled. The kernel would take it for the next answer.
            self._closed_prompts.discard(session)
            return None
        return header

    # What the kernel says

    def hear(
        self, session: str, channel: str, header: bytes, parent: bytes, content: bytes
    ) -> bool:
        """Take note of a message from the kernel. Whether the front end is to get it."""
        try:
            asked = read_header(parent)
            msg_id = asked.msg_id
            if channel == "iopub":
                # Of its control channel; it may be busy on the other.
                if asked.msg_type == REQUEST or self.subshells.is_question(msg_id):
                    return False
                self._hear_published(read_header(header), msg_id, content)
            elif channel == "stdin":
                self._hear_prompt(session, msg_id, content)
            else:
                return self._hear_reply(msg_id, content)
        except msgspec.MsgspecError:
            pass
        return True

    def _hear_published(self, header: Header, msg_id: str, content: bytes) -> None:
        request = self.requests.get(msg_id)
        if header.msg_type == "status":
            self.session = header.session
            self._hear_status(request, msg_id, content)
        elif request is None:
            return
        elif header.msg_type == "execute_input":
            self._hear_input(request, read_input(content))
        elif request.goes_on and header.msg_type == "error":
            error = {"status": "error", **msgspec.json.decode(content, type=dict)}
            request.outcome.update(error)

    def _hear_input(self, request: Pending, content: Input) -> None:
        if request.goes_on:
            request.outcome.setdefault("execution_count", content.execution_count)
        # What extensions of front ends ask for themselves comes from no cell.
        if request.cell_id:
            self.cells.begin(request.msg_id, content.execution_count, content.code)

    def _hear_status(self, request: Pending | None, msg_id: str, content: bytes) -> None:
        if b'"idle"' in content:
            self._note(self._idle, msg_id)
            if request is not None:
                request.idle = True
                self._forget_done(request)
            if (probe := self._probes.get(msg_id)) is not None:
                probe.idle = True
                self._end_probe(msg_id, probe)
        elif request is not None and b'"busy"' in content:
            request.begun = True

    def _hear_reply(self, msg_id: str, content: bytes) -> bool:
        if self.subshells.hear(msg_id, content):
            return False
        if (probe := self._probes.get(msg_id)) is not None:
            probe.replied = True
            self._end_probe(msg_id, probe)
            return False
        if msg_id in self.settled:
            self.settled.discard(msg_id)
            return False
        self._note(self._replied, msg_id)
        request = self.requests.get(msg_id)
        if request is not None:
            if request.msg_type == "execute_request" and not request.goes_on:
                self.cells_run += 1
            request.replied = True
            request.status = read_reply(content).status
            request.prompt = None
            self._forget_done(request)
        return True

    def _hear_prompt(self, session: str, msg_id: str, content: bytes) -> None:
        # From now on an answer is one to this.
        self._closed_prompts.discard(session)
        if (request := self.requests.get(msg_id)) is not None:
            request.prompt = read_prompt(content).as_record()

    def _note(self, heard: set[str], msg_id: str) -> None:
        if self._marked:
            heard.add(msg_id)

    def _of(self, session: str) -> list[Pending]:
        return [r for r in self.requests.values() if r.session == session]

    def _forget_done(self, request: Pending) -> None:
        if request.is_done:
            self.requests.pop(request.msg_id, None)
            if self.gate is not None:
                self.gate.answered(request.msg_id, request.status)

    # What is made of it

    def pending(self) -> tuple[RunningRequest, ...]:
        """Requests that the kernel has to answer."""
        return tuple(
            RunningRequest(
                msg_id=request.msg_id,
                msg_type=request.msg_type,
                session=request.session,
                channel=request.channel,
                subshell=request.subshell,
                cell_id=request.cell_id,
                begun=request.begun,
                prompt=request.prompt,
            )
            for request in self.requests.values()
            if not request.is_answered and not request.ended
        )

    def forget_absent(self) -> None:
        """Forget requests of front ends that are gone. To be called when the kernel has
        nothing to do: they were answered, but nobody was there to hear it."""
        for request in list(self.requests.values()):
            if request.session not in self.connections and not request.ended:
                del self.requests[request.msg_id]

    def follow(self, launch: object) -> None:
        """A restart ends whatever was asked before; front ends know that by themselves."""
        if launch is not self.launch:
            if self.gate is not None and self.launch is not None:
                self.gate.forget()
            self.launch = launch
            self.requests.clear()
            self.settled.clear()
            self._probes.clear()
            self._closed_prompts.clear()
            self.subshells = Subshells()
            self.cells = Cells()

    def mark(self) -> None:
        """What is heard from now on, new processes say."""
        for connection in list(self.connections.values()):
            connection.flush()
        self._marked = True

    def settle(self, going_on: Collection[RunningRequest], abort_held: bool) -> bool:
        """Answer all that was asked, but for those that the kernel goes on with; and, with
        `abort_held`, cells that are held now. Whether it is at one of those."""
        if self.gate is not None:
            self.gate.abort()
        self._doomed = len(self._held) if abort_held else 0
        connections: list[Connection] = list(self.connections.values())
        for connection in connections:
            # What the former processes have said comes first.
            connection.flush()
        self.cells_run = 0
        self._probes.clear()
        kept = {request.msg_id for request in going_on}
        for request in self.requests.values():
            request.ended = request.msg_id not in kept
        for request_going_on in going_on:
            self._go_on(request_going_on)
        self._marked = False
        self._replied.clear()
        self._idle.clear()
        self.subshells.doubt()
        for connection in connections:
            self._tell_ended(connection, connections)
        is_busy = self._tell_state(connections)
        for connection in connections:
            self._ask(connection)
        return is_busy

    def _tell_state(self, connections: Collection[Connection]) -> bool:
        """What the kernel does, whatever was said last. Whether it is busy."""
        busy = next((r for r in self.requests.values() if r.begun and not r.ended), None)
        state = "idle" if busy is None else "busy"
        parent = {} if busy is None else as_dict(busy.header)
        for connection in connections:
            connection.tell("iopub", "status", {"execution_state": state}, parent)
        return busy is not None

    def _ask(self, connection: Connection) -> None:
        """What is asked of a front end, and of the kernel by its websocket."""
        self._ask_anew(connection)
        self._probe(connection)
        self._ask_for_subshells(connection)

    def _ask_for_subshells(self, connection: Connection) -> None:
        if (header := self.subshells.question(new_header)) is not None:
            connection.ask("control", header, {})
            self.requests.pop(header["msg_id"], None)  # It is nobody's.

    def _go_on(self, going_on: RunningRequest) -> None:
        """The kernel owes an answer; once more, perhaps."""
        self.settled.discard(going_on.msg_id)
        request = self.requests.get(going_on.msg_id)
        if request is None:
            header = new_header(going_on.msg_type, going_on.session, going_on.msg_id)
            request = Pending(
                going_on.msg_id,
                going_on.msg_type,
                going_on.session,
                going_on.channel,
                msgspec.json.encode(header),
                going_on.subshell,
                going_on.cell_id,
            )
            self.requests[request.msg_id] = request
        if request.prompt is None and going_on.prompt is not None:
            # It has been answered since; the kernel, as it is now, still waits.
            request.prompt = going_on.prompt
            request.asks_anew = True
        request.goes_on = True
        request.begun = going_on.begun
        request.replied = request.msg_id in self._replied
        request.idle = request.msg_id in self._idle
        self._forget_done(request)

    def _ask_anew(self, connection: Connection) -> None:
        for request in self._of(connection.session_id):
            if request.asks_anew and (prompt := request.prompt) is not None:
                request.asks_anew = False
                content = {"prompt": prompt.text, "password": prompt.is_password}
                connection.tell("stdin", "input_request", content, as_dict(request.header))

    def join(self, connection: Connection) -> None:
        """A websocket is ready: it is told what its session has missed."""
        self.connections[connection.session_id] = connection
        if self._tell_ended(connection, [connection]):
            self._tell_state([connection])
        self._ask(connection)

    def _probe(self, connection: Connection) -> None:
        """Find out whether the kernel really goes on with what one front end has asked.

        Between the time at which that was written down and the snapshot, it may have
        answered; or the request was still under way, and is in no snapshot. A kernel
        answers in order what comes over one connection, and reads from those that there
        are in turn (zmq_socket(3), fair-queued): requests of before the snapshot have come
        over one that is closed by now. So it has read all of them once it has answered as
        many of ours, and one more.

        The replies to those that it reads then reach nobody: ZMQ_ROUTER gives the closed
        connection's name to the new one (zmq_setsockopt(3), ZMQ_ROUTER_HANDOVER). What
        has become of them, the outputs tell.
        """
        waiting = self._in_queue(connection.session_id)
        if waiting:
            self._send_probe(connection, len(waiting))

    def _send_probe(self, connection: Connection, more: int) -> None:
        # Of those that a server takes for a sign of what the kernel does, the most idle.
        header = new_header("is_complete_request", "")
        self._probes[header["msg_id"]] = _Probe(connection.session_id, more)
        connection.ask("shell", header, {"code": ""})
        self.requests.pop(header["msg_id"], None)  # It is nobody's.

    def _end_probe(self, msg_id: str, probe: _Probe) -> None:
        """Once all has been heard that was said before, in either way."""
        if not (probe.replied and probe.idle):
            return
        del self._probes[msg_id]
        waiting = self._in_queue(probe.session)
        connection = self.connections.get(probe.session)
        if probe.more and waiting and connection is not None:
            self._send_probe(connection, probe.more - 1)
            return
        for request in waiting:
            request.ended = True
        if connection is not None:
            self._tell_ended(connection, [connection])

    def _in_queue(self, session: str) -> list[Pending]:
        return [request for request in self._of(session) if request.is_in_queue]

    def leave(self, connection: Connection) -> None:
        """A websocket is about to be closed."""
        if self.gate is not None:
            self.gate.desert()
        if self.connections.get(connection.session_id) is connection:
            del self.connections[connection.session_id]

    def _tell_ended(self, connection: Connection, all_: list[Connection]) -> bool:
        """Answer the requests of one session that have ended. Whether there were any."""
        ended = [r for r in self._of(connection.session_id) if r.ended]
        for request in ended:
            del self.requests[request.msg_id]
            parent = as_dict(request.header)
            if request.msg_type == "kernel_info_request" and not request.replied:
                connection.ask(request.channel, parent, {})
                continue
            if request.has_reply and not request.replied:
                self.settled.add(request.msg_id)
                reply = request.msg_type.removesuffix("_request") + "_reply"
                content = request.lost_reply or {"status": "aborted"}
                connection.tell(request.channel, reply, content, parent)
            if not request.idle:
                for listener in all_:
                    listener.tell("iopub", "status", {"execution_state": "idle"}, parent)
            if request.prompt is not None:
                self._close_prompt(connection, parent)
            if self.gate is not None:
                lost = request.lost_reply or {}
                self.gate.answered(request.msg_id, lost.get("status", "aborted"))
        return bool(ended)

    def _close_prompt(self, connection: Connection, parent: dict[str, Any]) -> None:
        """Nobody waits for that input any more.

        JupyterLab lets no cell run while it believes that a kernel waits for input. That
        a kernel was shut down, as said on iopub, is all that a kernel can say to end it
        (`SessionContext._onIopubMessage`); it has no other effect there.
        """
        self._closed_prompts.add(connection.session_id)
        content = {"status": "ok", "restart": True}
        connection.tell("iopub", "shutdown_reply", content, parent)
