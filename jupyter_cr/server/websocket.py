"""A front end's websocket to a kernel, as the server's own
(`ServerApp.kernel_websocket_connection_class`), that takes note of what is asked for, and
can answer it in the kernel's stead. What holds is written in `jupyter_cr.server.pending`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import msgspec
import zmq
from jupyter_client.jsonutil import json_default
from jupyter_client.session import DELIM, Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from jupyter_server.services.kernels.connection.channels import (
    ZMQChannelsWebsocketConnection,
)
from tornado.websocket import WebSocketClosedError
from traitlets import default

from jupyter_cr.server.front_end_requests import kernel_requests
from jupyter_cr.server.gate import Cell
from jupyter_cr.server.messages import read_execution
from jupyter_cr.server.pending import KernelRequests

__all__ = ["SettlingWebsocketConnection"]

V1 = "v1.kernel.websocket.jupyter.org"
"""The one subprotocol there is; without it, messages are JSON with a channel in them."""

EXECUTE = b"execute_request"

FLUSH_LIMIT = 10_000
"""Messages that are passed on at once: a kernel that never ends must not stop us."""

_HEEDED = (b'"status"', b'"execute_input"', b'"error"')
"""In the headers of published messages that tell what has become of a request."""


class SettlingWebsocketConnection(ZMQChannelsWebsocketConnection):
    """One front end's websocket to a kernel."""

    @default("session")
    def _default_session(self) -> Session:
        return _WatchedSession(self._watch_request, config=self.config)

    @cached_property
    def _requests(self) -> KernelRequests:
        return kernel_requests(self.kernel_manager)

    def request_kernel_info(self) -> Any:
        """Called by the handler before it opens the websocket, for which it waits for the
        answer. A kernel that is in the middle of a cell, as one that was started from
        a snapshot may be, gives it on its control channel only."""
        answered = super().request_kernel_info()  # type: ignore[no-untyped-call]
        if not answered.done():
            control = self.multi_kernel_manager.connect_control(self.kernel_id)
            answered.add_done_callback(lambda _: control.close())
            control.on_recv(self._handle_kernel_info_reply)
            self.session.send(control, "kernel_info_request")
        return answered

    def connect(self) -> Any:
        """Called by the handler when the websocket has been opened. The future that it
        gives is done when what the kernel says reaches the front end, and what was kept
        for it has been sent."""
        connected = super().connect()
        if connected is not None:
            connected.add_done_callback(lambda _: self._join())
        return connected

    def _join(self) -> None:
        if self.channels:
            self._requests.join(self)

    def disconnect(self) -> Any:
        """Called by the handler when the websocket has been closed, or by the server."""
        self._requests.leave(self)
        return super().disconnect()  # type: ignore[no-untyped-call]

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """Called by the handler with each message of the front end."""
        if not self._requests.hold(self, incoming_msg):
            self.pass_on(incoming_msg)

    def pass_on(self, message: Any) -> None:
        """Send to the kernel what the front end has sent, unless it waits at the gate."""
        requests = self._requests
        gate = requests.gate
        cell = None if gate is None or requests.is_dooming else self._cell(message)
        if gate is None or cell is None:
            self.send_on(message)
        else:
            gate.arrive(cell)

    def send_on(self, message: Any) -> None:
        """Send to the kernel what the front end has sent."""
        super().handle_incoming_message(message)

    def _cell(self, message: Any) -> Cell | None:
        """What a message asks for, if it is a cell that counts."""
        if not self.channels or self.multi_kernel_manager.allowed_message_types:
            return None
        try:
            parts = self._parts(message)
            asked = parts and read_execution(*parts)
        except (ValueError, LookupError):
            return None  # The server says what is wrong with it.
        if not asked:
            return None
        requests = self._requests

        def send_on() -> None:
            # Another connection, if the front end has connected again.
            requests.connections.get(self.session_id, self).send_on(message)

        return Cell(
            asked.msg_id,
            self.session_id,
            asked.cell_id,
            asked.code,
            asked.stop_on_error,
            send_on,
            lambda: requests.doom(send_on),
        )

    def _parts(self, message: Any) -> tuple[bytes, bytes, bytes] | None:
        """Header, metadata and content of a message that may be a cell."""
        if self.subprotocol == V1:
            _, parts = deserialize_msg_from_ws_v1(message)  # type: ignore[no-untyped-call]
            return (parts[0], parts[2], parts[3]) if EXECUTE in parts[0] else None
        if isinstance(message, bytes) or EXECUTE.decode() not in message:
            return None
        read = msgspec.json.decode(message)
        header, metadata, content = (
            msgspec.json.encode(read[part]) for part in ("header", "metadata", "content")
        )
        return header, metadata, content

    def _watch_request(self, channel: str, header: bytes, metadata: bytes) -> bytes | None:
        requests = kernel_requests(self.kernel_manager)  # of this launch, if it is new
        return requests.send(self.session.session, channel, header, metadata)

    def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
        """Called with each message of the kernel."""
        channel = stream if isinstance(stream, str) else getattr(stream, "channel", "")
        if self._hear(channel, outgoing_msg):
            super().handle_outgoing_message(stream, outgoing_msg)

    def _hear(self, channel: str, message: list[Any]) -> bool:
        """Whether the front end is to get it."""
        try:
            start = message.index(DELIM) + 2
            header, parent, _, content = message[start : start + 4]
        except ValueError:
            return True  # The server says what is wrong with it.
        if channel == "iopub" and not any(kind in header for kind in _HEEDED):
            return True  # Nearly all are outputs: they are not even parsed.
        return self._requests.hear(self.session.session, channel, header, parent, content)

    def flush(self) -> None:
        """Pass on to the front end what has come from the kernel."""
        for stream in list(self.channels.values()):
            if not stream.closed() and stream.receiving():
                with suppress(WebSocketClosedError):
                    stream.flush(zmq.POLLIN, limit=FLUSH_LIMIT)

    def tell(
        self, channel: str, msg_type: str, content: dict[str, Any], parent: dict[str, Any]
    ) -> None:
        """Send a message to the front end as if the kernel did.

        With the kernel's session: JupyterLab drops what it has not yet handled as soon as
        a message has another one (`KernelConnection._assertCurrentMessage`).
        """
        message = self.session.msg(msg_type, content, parent=parent or None)
        if session := self._requests.session:
            message["header"]["session"] = session
        with suppress(WebSocketClosedError):
            if self.subprotocol == V1:
                packed = serialize_msg_to_ws_v1(  # type: ignore[no-untyped-call]
                    message, channel, self.session.pack
                )
                self.write_message(packed, binary=True)
            else:
                message["channel"] = channel
                self.write_message(json.dumps(message, default=json_default))

    def ask(self, channel: str, header: dict[str, Any], content: dict[str, Any]) -> None:
        """Send a request to the kernel as if the front end did."""
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
        }
        if (stream := self.channels.get(channel)) is not None and not stream.closed():
            self.session.send(stream, message)


class _WatchedSession(Session):
    """Shows the headers of what is sent on a front end's channels.

    Args:
        watch: gets channel, header and metadata, and gives the header to send, or None
            if the message is not to be sent.
    """

    def __init__(
        self, watch: Callable[[str, bytes, bytes], bytes | None], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._watch = watch

    def send_raw(self, stream: Any, msg_list: list[bytes], *args: Any, **kw: Any) -> None:
        """Called for each message of a front end that speaks V1."""
        if (channel := _channel_of(stream)) is not None:
            header = self._watch(channel, msg_list[0], msg_list[2])
            if header is None:
                return
            msg_list = [header, *msg_list[1:]]
        super().send_raw(stream, msg_list, *args, **kw)

    def send(self, stream: Any, msg_or_type: Any, *args: Any, **kw: Any) -> Any:
        """Called for each message of another front end, and for our own."""
        channel = _channel_of(stream)
        if channel is not None and isinstance(msg_or_type, dict):
            packed = self.pack(msg_or_type["header"])
            metadata = self.pack(msg_or_type.get("metadata") or {})
            header = self._watch(channel, packed, metadata)
            if header is None:
                return None
            if header is not packed:
                msg_or_type = {**msg_or_type, "header": msgspec.json.decode(header)}
        return super().send(stream, msg_or_type, *args, **kw)


def _channel_of(stream: Any) -> str | None:
    """Of the streams that a front end's messages take; there are others for our own."""
    return getattr(stream, "channel", None)
