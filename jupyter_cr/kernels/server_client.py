"""Asking the server that looks after a kernel, from a command of the same user: only that
server knows its front ends, and it must not take a restore for a crash."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgspec

from jupyter_cr.errors import EngineError
from jupyter_cr.kernels.lines import ErrorLine, ProgressLine, ResultLine, decode_line
from jupyter_cr.kernels.records import find_guardian, private_dir
from jupyter_cr.kernels.socket_address import short_address

__all__ = ["ask_guardian"]


def ask_guardian(
    kernel_id: str,
    op: str,
    progress: Callable[[str, float], None] | None = None,
    **arguments: Any,
) -> msgspec.Raw | None:
    """Have the server that looks after a kernel do something with it, and wait for it.

    Args:
        op: ``checkpoint``, ``restore`` or ``fork``; `arguments` as
            `jupyter_cr.server.service` takes them.

    Returns:
        The result, in JSON; None if no living server says that it looks after it.

    Raises:
        CheckpointRestoreError: as the server says.
        EngineError: the server died meanwhile.
    """
    guardian = find_guardian(kernel_id)
    if guardian is None:
        return None
    for path in sorted(private_dir().glob(f"server-{guardian}*.sock")):
        with socket.socket(socket.AF_UNIX) as channel, short_address(path) as address:
            try:
                channel.connect(address)
            except OSError:
                continue
            request = {"op": op, "kernel_id": kernel_id, **arguments}
            channel.sendall(msgspec.json.encode(request) + b"\n")
            return _read_answer(channel, progress, guardian)
    return None


def _read_answer(
    channel: socket.socket, progress: Callable[[str, float], None] | None, server: int
) -> msgspec.Raw:
    with channel.makefile("rb") as lines:
        for line in lines:
            said = decode_line(line)
            if isinstance(said, ErrorLine):
                raise said.as_error()
            if isinstance(said, ResultLine):
                return said.result
            if isinstance(said, ProgressLine) and progress is not None:
                progress(said.phase, said.fraction)
    raise EngineError(
        f"The server, process {server}, ended before it was done.",
        "jupyter cr list shows what there is; start the server again.",
    )
