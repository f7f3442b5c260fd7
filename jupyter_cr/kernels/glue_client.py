"""Talking with the part of us that lives in a kernel (`jupyter_cr.kernels.glue_protocol`),
from outside: its hooks run, and a fork gets a session key of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from jupyter_cr.kernels.glue_protocol import (
    CARD_NAME,
    REPLY,
    REQUEST,
    Card,
    Event,
    Notice,
    NoticeReply,
)

if TYPE_CHECKING:
    from jupyter_client.asynchronous.client import AsyncKernelClient

__all__ = [
    "ask_kernel",
    "find_card",
    "kernel_client",
    "notify",
    "renew_key",
    "tell_kernel",
]

LIMITS_S: Mapping[Event, float] = {"checkpoint": 2.0, "restored": 5.0, "forked": 5.0}
"""For the reply, the hooks included. A snapshot is not to wait long for a kernel whose
threads cannot run (the interpreter lock is held, say)."""

_CARD_LINK = f"/memfd:{CARD_NAME} (deleted)"
_MAX_BYTES = 4096
_MARGIN_S = 0.5
_RETRY_S = 0.2


def find_card(pid: int) -> Card | None:
    """The calling card of a kernel; None if it has none, or may not be looked at.

    Args:
        pid: as seen from here. If it is only a launcher with one child, that is asked.
    """
    seen: set[int] = set()
    while pid not in seen:
        seen.add(pid)
        if (card := _card_of(pid)) is not None:
            return card
        children = list(_iter_children(pid))
        if len(children) == 1:
            pid = children[0]
    return None


def _card_of(pid: int) -> Card | None:
    directory = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(directory):
            # It may close any of them while we look.
            with suppress(OSError, msgspec.MsgspecError):
                if os.readlink(f"{directory}/{name}") == _CARD_LINK:
                    return _read_card(f"{directory}/{name}")
    return None


def _read_card(path: str) -> Card:
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(_MAX_BYTES), type=Card)


def _iter_children(pid: int) -> Iterator[int]:
    """proc_pid_task_tid_children(5)."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                yield from map(int, (task / "children").read_text().split())


@asynccontextmanager
async def kernel_client(connection: Mapping[str, Any]) -> AsyncIterator[AsyncKernelClient]:
    """A client of a kernel, as long as it is needed."""
    # Imported where needed: 150 ms.
    import zmq.asyncio
    from jupyter_client.asynchronous.client import AsyncKernelClient

    context = zmq.asyncio.Context()
    client = AsyncKernelClient(context=context)
    client.load_connection_info(cast(Any, dict(connection)))
    try:
        yield client
    finally:
        client.stop_channels()
        context.destroy(linger=0)


async def ask_kernel(
    client: AsyncKernelClient,
    channel: Any,
    kind: str,
    content: Mapping[str, Any],
    until: float,
) -> dict[str, Any] | None:
    """The content of the reply; None if there was none in time, or none that was signed
    with our key (`until`: seconds, time.monotonic)."""
    message = client.session.msg(kind, dict(content))
    channel.send(message)
    while (left := until - time.monotonic()) > 0:
        # Empty: it has not come; ValueError: signed with another key.
        with suppress(queue.Empty, ValueError):
            reply = await channel.get_msg(timeout=left)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                answer: dict[str, Any] = reply["content"]
                return answer
    return None


async def notify(
    connection: Mapping[str, Any], notice: Notice, limit: float
) -> NoticeReply | None:
    """Send a notice on a kernel's control channel, and wait for the reply.

    Args:
        connection: as in the kernel's connection file, with the key it has now.
        notice: its `until` is set here, if it has a key.
        limit: seconds.

    Returns:
        None if there was no reply within the limit.
    """
    if notice.key is not None:
        until = time.time() + max(limit - _MARGIN_S, limit / 2)
        notice = msgspec.structs.replace(notice, until=until)
    async with kernel_client(connection) as client:
        content = await ask_kernel(
            client,
            client.control_channel,
            REQUEST,
            msgspec.to_builtins(notice),
            time.monotonic() + limit,
        )
    try:
        return None if content is None else msgspec.convert(content, NoticeReply)
    except msgspec.ValidationError as error:
        return NoticeReply(status="error", errors=(f"Its {REPLY} is wrong: {error}.",))


async def tell_kernel(
    pid: int,
    connection: Mapping[str, Any],
    event: Event,
    snapshot: str,
    *,
    kernel_id: str = "",
    abandoned: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Let a kernel run its hooks, if it has any of ours.

    Args:
        pid: its process, as seen from here.
        connection: as in its connection file.
        event: what is about to happen (``checkpoint``), or has happened.
        snapshot: name; empty if it has none yet.
        abandoned: `Notice.abandoned`.

    Returns:
        Sentences: hooks that failed, or that the kernel did not answer in time.
    """
    if await asyncio.to_thread(find_card, pid) is None:
        return ()
    notice = Notice(
        event=event, snapshot=snapshot, kernel_id=kernel_id, abandoned=abandoned
    )
    reply = await notify(connection, notice, LIMITS_S[event])
    if reply is None:
        return (
            f"The kernel did not say within {LIMITS_S[event]:.0f} s that its hooks for "
            f"{event!r} have run.",
        )
    return reply.errors


async def renew_key(
    pid: int,
    connection: Mapping[str, Any],
    key: str,
    *,
    snapshot: str,
    connection_file: str = "",
    abandoned: tuple[str, ...] = (),
) -> bool:
    """Tell a fork that it is one, which runs its hooks, and give it a key of its own. A
    Python kernel that has nothing of ours gets the key by a line of code, if it is idle.

    Args:
        pid: its process, as seen from here.
        connection: as in its connection file, with its original's key.
        key: the new one.
        connection_file: the fork's own, if it is to keep that one.
        abandoned: `Notice.abandoned`.

    Returns:
        Whether it has the new key; otherwise it has the one in `connection`.
    """
    limit = LIMITS_S["forked"]
    if await asyncio.to_thread(find_card, pid) is not None:
        notice = Notice(
            event="forked",
            snapshot=snapshot,
            key=key,
            connection_file=connection_file,
            abandoned=abandoned,
        )
        reply = await notify(connection, notice, limit)
        if reply is not None:
            return reply.key_taken
        return await _has_key(connection, key, limit)
    return await _renew_by_code(connection, key, limit)


async def _has_key(connection: Mapping[str, Any], key: str, limit: float) -> bool:
    """Whether a kernel answers to a key, on its control channel, within some time."""
    until = time.monotonic() + limit
    async with kernel_client({**connection, "key": key}) as client:
        while (now := time.monotonic()) < until:
            # What comes too early for the key is not answered, ever: ask again.
            patience = min(until, now + _RETRY_S)
            channel = client.control_channel
            if (
                await ask_kernel(client, channel, "kernel_info_request", {}, patience)
                is not None
            ):
                return True
    return False


_CODE = (
    "__import__('time').time() < {until!r} and "
    "__import__('IPython').get_ipython().kernel.session.__setattr__('key', {key!r})"
)
"""An expression, so that it leaves no names behind; and not to be run late, when nobody
would know any more that the key has changed."""


async def _renew_by_code(connection: Mapping[str, Any], key: str, limit: float) -> bool:
    async with kernel_client(connection) as client:
        shell = client.shell_channel
        # It is idle if it answers on the shell channel.
        patience = time.monotonic() + limit / 4
        info = await ask_kernel(client, shell, "kernel_info_request", {}, patience)
        if info is None or info.get("implementation") != "ipython":
            return False
        content = {
            "code": _CODE.format(until=time.time() + limit / 4, key=key.encode()),
            "silent": True,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        shell.send(client.session.msg("execute_request", content))
        return await _has_key(connection, key, limit / 2)
