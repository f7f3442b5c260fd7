"""The handler of ``jupyter_cr_request`` on an ipykernel's control channel, so that it
answers while a cell runs (`jupyter_cr.kernels.glue_protocol`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from jupyter_cr.glue.hooks import catch_up, run_checkpoint_hooks
from jupyter_cr.glue.queue import WaitingCells
from jupyter_cr.kernels.glue_protocol import REPLY, REQUEST, Notice, NoticeReply

__all__ = ["install", "uninstall"]

_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


def install(kernel: Any, waiting: WaitingCells) -> None:
    """Let an ``ipykernel.kernelbase.Kernel`` understand the request."""

    async def handle(
        stream: Any, ident: Sequence[bytes], parent: Mapping[str, Any]
    ) -> None:
        notice, reply = _answer(parent["content"], waiting)
        kernel.session.send(stream, REPLY, msgspec.to_builtins(reply), parent, ident)
        if notice is not None and reply.key_taken and notice.key is not None:
            # All parts of the kernel share this Session.
            kernel.session.key = notice.key.encode()

    kernel.control_handlers[REQUEST] = handle


def uninstall(kernel: Any) -> None:
    """Forget it."""
    kernel.control_handlers.pop(REQUEST, None)


def _answer(content: Any, waiting: WaitingCells) -> tuple[Notice | None, NoticeReply]:
    try:
        notice = msgspec.convert(content, Notice)
    except msgspec.ValidationError as error:
        problem = f"The {REQUEST} is not understood: {error}."
        return None, NoticeReply(status="error", errors=(problem,))
    if notice.event == "checkpoint":
        errors = run_checkpoint_hooks()
    else:
        # First: cells may wait for it, and hooks may take their time.
        waiting.abandon(notice.abandoned)
        errors = catch_up(notice.event)
        if notice.connection_file:
            errors = (*errors, *_take_connection_file(notice.connection_file))
    in_time = notice.until is None or time.time() < notice.until
    taken = notice.key is not None and in_time
    return notice, NoticeReply(errors=errors, key_taken=taken)


def _take_connection_file(path: str) -> tuple[str, ...]:
    """Let a fork know its own ports, as %connect_info shows them, and not remove its
    original's file when it ends."""
    from ipykernel.kernelapp import IPKernelApp

    if not IPKernelApp.initialized():
        return ()
    app = IPKernelApp.instance()
    app.connection_file = path
    try:
        with open(path, "rb") as file:
            connection = msgspec.json.decode(file.read(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        return (f"The fork's connection file cannot be read: {error}",)
    ports = {name: connection[name] for name in _PORTS if name in connection}
    for name, port in ports.items():
        setattr(app, name, port)
    app.kernel.record_ports(ports)
    return ()
