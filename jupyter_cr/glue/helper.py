"""A process that runs the engine for us where no server does it. It leaves our tree, by
having neither us as its parent nor our session, so that it can stop and end all of it
(`jupyter_cr.engine.freeze` says what belongs to a tree)."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

import msgspec

from jupyter_cr.errors import CheckpointRestoreError, TargetError
from jupyter_cr.glue.whereabouts import Whereabouts, find_out

__all__ = ["Helper", "HelperRequest", "connection_file"]

_START_LIMIT_S = 20.0
_CANCEL_LIMIT_S = 10.0
_OUTSIDE = {
    "restore": "restore {snapshot}",
    "fork": "fork {snapshot}",
    "undo": "restore NAME",
    "forks": "fork NAME",
    "diff": "diff {before}",
}
"""Commands for what cannot be done from within a rebuilt tree."""


class HelperRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The line that the helper reads."""

    op: str
    arguments: dict[str, Any]
    pid: int
    """The root of the tree."""
    identity: str
    """Of a tree that Linux started, as `jupyter_cr.engine.identity` writes it."""
    connection_file: str | None


class Helper:
    """Runs one operation; a context manager.

    Args:
        op, arguments: as the kernel socket knows them.
        here: where this process is.

    Attributes:
        socket: gives the answer, line by line.

    Raises:
        TargetError: it cannot be done from here.
        CheckpointRestoreError: the helper does not start.
    """

    def __init__(self, op: str, arguments: dict[str, Any], here: Whereabouts) -> None:
        if op in _OUTSIDE and here.keeper:
            command = _OUTSIDE[op].format_map({"snapshot": "NAME", **arguments})
            raise TargetError(
                f"This process was itself restored or forked, by a command: no {op} can "
                "be done from inside.",
                f"In a terminal outside: jupyter cr {command}",
            )
        self._here = here
        self._engine: int | None = None
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                # By this name the engine knows it (`descriptors/unix_socket.py`).
                theirs.bind(f"\0jupyter-cr/helper-{secrets.token_hex(8)}")
                _start(theirs.fileno())
            request = HelperRequest(
                op=op,
                arguments=arguments,
                pid=os.getpid(),
                identity=f"{here.boot}:{here.start}:{os.getpid()}",
                connection_file=connection_file(),
            )
            # Whether anybody hears it is seen by the answer.
            with suppress(BrokenPipeError):
                self.socket.sendall(msgspec.json.encode(request) + b"\n")
        except (OSError, subprocess.SubprocessError) as error:
            self.socket.close()
            raise CheckpointRestoreError(
                f"No helper process can be started: {error}.",
                "Run `jupyter cr checkpoint` in a terminal instead.",
            ) from error

    def note_start(self, pid: int) -> None:
        """The engine runs as process `pid`."""
        self._engine = pid

    def __enter__(self) -> Helper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.socket:
            if kind is KeyboardInterrupt:
                self._call_off()

    def _call_off(self) -> None:
        """And wait until nothing of it is left. A copy has no engine to end."""
        if self._engine is not None and find_out() == self._here:
            with suppress(OSError):
                os.kill(self._engine, signal.SIGTERM)
                self.socket.settimeout(_CANCEL_LIMIT_S)
                while self.socket.recv(1 << 16):
                    pass


def _start(fd: int) -> None:
    """The process that we start ends at once; its child is the helper."""
    starter = subprocess.Popen(
        [sys.executable, "-m", "jupyter_cr.glue.helper_process"],
        stdin=fd,
        stdout=fd,
        stderr=fd,
        # Not ours, where anybody's modules may lie about.
        cwd="/",
        env={**os.environ, "JUPYTER_CR_HOME": os.fspath(_store_root())},
        start_new_session=True,
    )
    try:
        starter.wait(_START_LIMIT_S)
    except BaseException:
        starter.kill()
        starter.wait()
        raise


def _store_root() -> os.PathLike[str]:
    # Imported where needed: 10 ms.
    from jupyter_cr.store.root import store_root

    return store_root()


def connection_file() -> str | None:
    """Of this kernel; None if this is no ipykernel."""
    if (application := sys.modules.get("ipykernel.kernelapp")) is None:
        return None
    kernel_app = application.IPKernelApp
    if not kernel_app.initialized():
        return None
    return str(kernel_app.instance().abs_connection_file)
