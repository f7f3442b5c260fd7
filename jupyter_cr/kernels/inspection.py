"""Looking at the variables in a snapshot: in a fork of it, which is thrown away."""

from __future__ import annotations

import ast
import asyncio
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from jupyter_cr.errors import CheckpointRestoreError
from jupyter_cr.kernels import inspector
from jupyter_cr.kernels.connection import Connection, fork_connection, parse_connection
from jupyter_cr.kernels.glue_client import ask_kernel, find_card, kernel_client, notify
from jupyter_cr.kernels.glue_protocol import LOOKED_AT, Notice, look_address
from jupyter_cr.kernels.throwaway import ThrowAway
from jupyter_cr.store.reader import StoredReader

__all__ = ["Inside", "Variable", "look_inside"]

_LIMIT_S = 60.0
_IDLE_LIMIT_S = 10.0
_NOTICE_LIMIT_S = 5.0
_MOST = 64 << 20


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One variable, as `jupyter_cr.kernels.inspector` describes it."""

    name: str
    type: str
    shape: str = ""
    """Or length."""
    value: str = ""
    """A few words."""
    digest: str = ""
    """Equal for equal values; empty if nobody can tell."""


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    variables: tuple[Variable, ...] = ()
    left_out: int = 0
    """Of them: there were too many."""
    problem: str = ""
    """Why nothing was found, as a sentence."""


class _CannotTell(Exception):
    """Its text says why."""


def look_inside(reader: StoredReader) -> Inside:
    """The variables in a snapshot."""
    if not reader.is_trusted:
        return Inside(
            problem=f"Snapshot {reader.name} was not taken here: to look at its variables "
            f"is to run its code, which `jupyter cr trust {reader.name}` permits."
        )
    try:
        return _look(reader)
    except _CannotTell as reason:
        return Inside(problem=str(reason))
    except CheckpointRestoreError as error:
        return Inside(problem=f"{reader.name} could not be looked at: {error.message}")


def _look(reader: StoredReader) -> Inside:
    token = secrets.token_hex(16)
    content = reader.header.kernel.connection
    recorded = parse_connection(content) if content else None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(look_address(token))
        listener.listen(1)
        listener.setblocking(False)
        fork = ThrowAway(reader.name, f"{LOOKED_AT}{token}")
        try:
            connection = recorded and fork_connection(recorded, fork.ports)
            abandoned = tuple(r.msg_id for r in reader.header.notebook.running)
            said = asyncio.run(_first(listener, fork.pid, connection, abandoned))
        finally:
            fork.end()
            fork.close()
    try:
        return msgspec.json.decode(said, type=Inside)
    except msgspec.MsgspecError as error:
        raise _CannotTell(f"What {reader.name} says is not understood: {error}.") from error


async def _first(
    listener: socket.socket,
    pid: int,
    connection: Connection | None,
    abandoned: tuple[str, ...],
) -> bytes:
    """What a copy says that had just asked for its snapshot, and so can be asked there; or
    what the kernel answers."""
    asking = [asyncio.ensure_future(_heard(listener))]
    if connection is not None:
        asking.append(asyncio.ensure_future(_asked(pid, connection, abandoned)))
    # Where it is not a kernel, nobody else will answer.
    until = time.monotonic() + (_LIMIT_S if connection is not None else _IDLE_LIMIT_S / 2)
    failures: list[str] = []
    try:
        while asking and (left := until - time.monotonic()) > 0:
            done, _ = await asyncio.wait(
                asking, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                asking.remove(task)
                try:
                    return task.result()
                except _CannotTell as reason:
                    failures.append(str(reason))
            if failures:
                break
    finally:
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)
    raise _CannotTell(failures[0] if failures else "It is no kernel that could be asked.")


async def _heard(listener: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    channel, _ = await loop.sock_accept(listener)
    with channel:
        channel.setblocking(False)
        said = b""
        while piece := await loop.sock_recv(channel, 1 << 20):
            said += piece
            if len(said) > _MOST:
                break
    return said


def _expression() -> str:
    source = Path(inspector.__file__).read_text(encoding="utf-8")
    return (
        f"(lambda n: (exec(compile({source!r}, '<jupyter-cr>', 'exec'), n), "
        "n['report_shell'](get_ipython()))[1])"
        "({'__name__': 'jupyter_cr_inspector', '__builtins__': __builtins__})"
    )


async def _asked(pid: int, connection: Connection, abandoned: tuple[str, ...]) -> bytes:
    if await asyncio.to_thread(find_card, pid) is not None:
        # Until it has heard that, it runs nothing; and what had waited it never does.
        notice = Notice(event="forked", abandoned=abandoned)
        await notify(connection, notice, _NOTICE_LIMIT_S)
    async with kernel_client(connection) as client:
        shell = client.shell_channel
        idle_until = time.monotonic() + _IDLE_LIMIT_S
        info = await ask_kernel(client, shell, "kernel_info_request", {}, idle_until)
        if info is None:
            raise _CannotTell("A cell was running, so that the kernel cannot be asked.")
        language = str(info.get("language_info", {}).get("name", "?"))
        if language != "python":
            raise _CannotTell(f"There is no inspector for {language}.")
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "user_expressions": {"variables": _expression()},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        until = time.monotonic() + _LIMIT_S
        reply = await ask_kernel(client, shell, "execute_request", content, until)
    return _text_in(reply)


def _text_in(reply: Mapping[str, Any] | None) -> bytes:
    if reply is None:
        raise _CannotTell(f"The kernel did not answer within {_LIMIT_S:.0f} s.")
    found = reply.get("user_expressions", {}).get("variables", {})
    with suppress(KeyError, ValueError, SyntaxError):
        return str(ast.literal_eval(found["data"]["text/plain"])).encode()
    raise _CannotTell(
        f"The kernel could not be asked: {found.get('ename')}: {found.get('evalue')}"
    )
