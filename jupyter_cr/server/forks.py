"""Forks that a kernel asks for to run something in (`jupyter_cr.glue.forking`). A process
of its own makes and ends them, and talks with the kernel: it goes on if this server is
killed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from jupyter_cr.glue.forking.keeper import KeeperRequest
from jupyter_cr.server.service import SnapshotService
from jupyter_cr.store import store_root

__all__ = ["ForksRequest", "keep_forks"]

_START_LIMIT_S = 20.0


class ForksRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    """Of the snapshot that they are made from, which goes with them."""


async def keep_forks(
    service: SnapshotService,
    kernel_id: str,
    request: ForksRequest,
    connection: socket.socket,
) -> None:
    """Start that process, and wait until it has taken the kernel's snapshot.

    Args:
        connection: with the kernel; stays the caller's.

    Raises:
        NoSuchProcess, TargetError: there is no such kernel here.
    """
    async with service.basis(kernel_id) as basis:
        asked = KeeperRequest(
            name=request.name,
            pid=basis.pid,
            connection_file=basis.connection_file,
            notebook=basis.notebook,
            document=msgspec.Raw(basis.document or b"null"),
        )
        ours, theirs = socket.socketpair()
        with ours:
            # What a kernel and its process say to each other is waited for.
            connection.setblocking(True)
            with theirs:
                await asyncio.to_thread(_start, connection.fileno(), theirs.fileno())
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(msgspec.json.encode(asked) + b"\n")
            # A byte when the kernel goes on, and the end when its snapshot is complete.
            await reader.read(1)
            basis.go_on()
            await reader.read()
            writer.close()


def _start(connection: int, control: int) -> None:
    command: Sequence[str] = [
        sys.executable,
        "-m",
        "jupyter_cr.glue.forking.keeper_process",
        str(control),
    ]
    starter = subprocess.Popen(
        command,
        stdin=connection,
        stdout=connection,
        pass_fds=(control,),
        # Not the server's, where anybody's modules may lie about.
        cwd="/",
        env={**os.environ, "JUPYTER_CR_HOME": os.fspath(store_root())},
        start_new_session=True,
    )
    try:
        # It ends at once; its child does the work.
        starter.wait(_START_LIMIT_S)
    except BaseException:
        starter.kill()
        starter.wait()
        raise
