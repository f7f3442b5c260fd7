"""Asking for a snapshot, a restore or a fork of oneself: of the Jupyter server, through
its socket (`jupyter_cr.server.kernel_socket`), or else of a helper process.

No answer ever comes before the tree has been frozen and let go again, and a copy's socket
has nobody at its other end any more. So whoever is restored or forked while it asks reads
the end of the file instead of an answer.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from jupyter_cr.errors import CheckpointRestoreError, NoSuchProcess
from jupyter_cr.glue.helper import Helper, connection_file
from jupyter_cr.glue.hooks import catch_up
from jupyter_cr.glue.whereabouts import Role, Whereabouts, find_out
from jupyter_cr.kernels.glue_protocol import LOOKED_AT, look_address
from jupyter_cr.kernels.lines import ErrorLine, ResultLine, StartedLine, decode_line
from jupyter_cr.kernels.socket_address import short_address

__all__ = ["Conversation", "Copied", "ask", "ask_server", "converse"]

_HANGING_UP_S = 20.0


class Conversation:
    """With somebody outside who goes on listening, and clears up behind us when we hang
    up, or end. A context manager that hangs up.

    Attributes:
        answer: the first one, in JSON.
    """

    def __init__(self, channel: socket.socket, answer: msgspec.Raw) -> None:
        self._channel = channel
        self._lines = channel.makefile("rb")
        self.answer = answer

    def ask(self, op: str, **arguments: Any) -> msgspec.Raw:
        """Say something, and wait for the answer, in JSON.

        Raises:
            CheckpointRestoreError: as it says; or nobody listens any more.
        """
        with suppress(OSError):
            self._channel.sendall(msgspec.json.encode({"op": op, **arguments}) + b"\n")
        answer = _read_lines(self._lines)
        if isinstance(answer, _Lost):
            raise CheckpointRestoreError(
                f"Whoever was asked for the {op} has ended.{answer.said}", "Try again."
            )
        return answer

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *error: object) -> None:
        """Hang up, and wait until nothing is left of what was done for us."""
        with self._channel, self._lines, suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
            self._channel.settimeout(_HANGING_UP_S)
            while self._channel.recv(1 << 16):
                pass


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """No answer: this is a restored or forked copy of the one that had asked. Its hooks
    have run."""

    role: Role
    snapshot: str
    """That it was made from."""
    warnings: tuple[str, ...] = ()
    """Sentences: hooks that failed."""


def ask(op: str, **arguments: Any) -> msgspec.Raw | Copied:
    """Have something done, and wait for it, however long that takes. On
    KeyboardInterrupt it is called off.

    Args:
        op: as the kernel socket knows it; `arguments` are those of the operation.

    Returns:
        The result, in JSON.

    Raises:
        CheckpointRestoreError: it was not done; or nobody knows.
    """
    before = find_out()
    answer = _ask_server(op, arguments)
    if answer is None:
        with Helper(op, arguments, before) as helper:
            answer = _read_answer(helper.socket, helper.note_start)
    if not isinstance(answer, _Lost):
        return answer
    return _lost(op, answer, before)


def converse(op: str, **arguments: Any) -> Conversation | Copied:
    """As `ask`, of somebody who then goes on listening.

    Raises:
        CheckpointRestoreError: it was not done; or nobody knows.
    """
    before = find_out()
    with ExitStack() as stack:
        found = _find_server(op, arguments, stack)
        if found is None:
            helper = Helper(op, arguments, before)
            stack.enter_context(helper.socket)
            found = helper.socket, _read_answer(helper.socket)
        channel, answer = found
        if not isinstance(answer, _Lost):
            stack.pop_all()
            return Conversation(channel, answer)
    return _lost(op, answer, before)


def _lost(op: str, answer: _Lost, before: Whereabouts) -> Copied:
    here = find_out()
    if here.snapshot.startswith(LOOKED_AT):
        _be_looked_at(here.snapshot.removeprefix(LOOKED_AT))
    if here == before:
        raise CheckpointRestoreError(
            f"Whoever was asked for the {op} has ended, or has hung up, before it was "
            "done." + answer.said,
            "See what there is with %snapshots, and try again.",
        )
    return _copied(here)


def ask_server(op: str, **arguments: Any) -> msgspec.Raw | None:
    """The result, in JSON; None if there is no server that says anything.

    Raises:
        CheckpointRestoreError: as the server says.
    """
    answer = _ask_server(op, arguments)
    return answer if isinstance(answer, msgspec.Raw) else None


class _Lost(msgspec.Struct):
    """The end of the file came first."""

    said: str = ""


def _be_looked_at(token: str) -> NoReturn:
    """This is a copy that is to say what variables it has, and nothing else: it waits here
    for its end."""
    # Imported where needed: by hardly anybody.
    from jupyter_cr.kernels import inspector

    report: Callable[[Any], str] = inspector.report_shell
    shell = None
    if (module := sys.modules.get("IPython")) is not None:
        shell = module.get_ipython()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as channel:
        channel.connect(look_address(token))
        channel.sendall(report(shell).encode())
    while True:
        time.sleep(1000)


def _copied(here: Whereabouts) -> Copied:
    role, snapshot = here.role, here.snapshot
    if role not in ("restored", "forked"):
        role, snapshot = _ask_who_we_are() or ("restored", snapshot)
    return Copied(role=role, snapshot=snapshot, warnings=catch_up(role))


class _WhoAmI(msgspec.Struct):
    role: Role
    snapshot: str = ""


def _ask_who_we_are() -> tuple[Role, str] | None:
    answer = ask_server("whoami")
    if answer is None:
        return None
    found = msgspec.json.decode(answer, type=_WhoAmI)
    return found.role, found.snapshot


def _ask_server(op: str, arguments: dict[str, Any]) -> msgspec.Raw | _Lost | None:
    """None if there is no server, or none whose kernel this is."""
    with ExitStack() as stack:
        found = _find_server(op, arguments, stack)
        return found and found[1]


def _find_server(
    op: str, arguments: dict[str, Any], stack: ExitStack
) -> tuple[socket.socket, msgspec.Raw | _Lost] | None:
    """The connection, which is closed with the stack, and the answer."""
    line = msgspec.json.encode({"op": op, **arguments}) + b"\n"
    for path in _iter_sockets():
        with ExitStack() as trying:
            channel = trying.enter_context(socket.socket(socket.AF_UNIX))
            try:
                with short_address(path) as address:
                    channel.connect(address)
                channel.sendall(line)
            except OSError:
                # Its server is gone.
                continue
            with suppress(NoSuchProcess):
                answer = _read_answer(channel)
                stack.push(trying.pop_all())
                return channel, answer
    return None


def _iter_sockets() -> Iterator[Path]:
    """The newest first."""
    found: dict[Path, float] = {}
    for directory in _directories():
        for path in (directory / "jupyter-cr").glob("server-*.sock"):
            with suppress(OSError):
                found[path] = path.stat().st_mtime
    yield from sorted(found, key=lambda path: -found[path])


def _directories() -> Iterator[Path]:
    """Where a server may have its socket: beside the connection file that it wrote for
    this kernel, or in Jupyter's own directory."""
    if (path := connection_file()) is not None:
        yield Path(path).parent
    # Imported where needed: 25 ms.
    from jupyter_core.paths import jupyter_runtime_dir

    yield Path(jupyter_runtime_dir())


def _read_answer(
    channel: socket.socket, note_start: Callable[[int], None] | None = None
) -> msgspec.Raw | _Lost:
    """The last line of the answer.

    Args:
        note_start: is given the pid of the engine's process, if that is told.

    Raises:
        CheckpointRestoreError: as the answer says.
    """
    with channel.makefile("rb") as lines:
        return _read_lines(lines, note_start)


def _read_lines(
    lines: BinaryIO, note_start: Callable[[int], None] | None = None
) -> msgspec.Raw | _Lost:
    said: list[str] = []
    while True:
        try:
            line = lines.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            return _Lost("".join(f"\n{text}" for text in said[-20:]))
        try:
            message = decode_line(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # What a helper has printed: a traceback, if anything.
            said.append(line.decode(errors="replace").rstrip())
            continue
        if isinstance(message, StartedLine) and note_start is not None:
            note_start(message.pid)
        if isinstance(message, ResultLine):
            return message.result
        if isinstance(message, ErrorLine):
            raise message.as_error()
