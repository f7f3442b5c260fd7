"""The side of the process that asks: forks of it as it is now, until it has done with
them."""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

import msgspec

from jupyter_cr.errors import ForkFailed
from jupyter_cr.glue import builtin
from jupyter_cr.glue.channel import Conversation, Copied, converse
from jupyter_cr.glue.forking.messages import Task, send
from jupyter_cr.glue.forking.worker import Work, Worker
from jupyter_cr.glue.hooks import now_checkpointing

__all__ = ["Forked", "Kept", "Session"]

_START_LIMIT_S = 60.0
_SAY_LIMIT_S = 10.0
_LOOK_S = 0.5
_PEER = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""


class Kept(BaseException):
    """Raised where a snapshot that was taken of a fork goes on. Not an error, and for
    nobody but us."""


class Forked:
    """One fork that waits for something to do, or does it."""

    def __init__(self, number: int, connection: Connection) -> None:
        self.number = number
        self.connection = connection

    def begin(self, task: Task) -> None:
        """Have it do something.

        Raises:
            ForkFailed: it has ended.
        """
        try:
            send(self.connection, task)
        except OSError as error:
            raise ForkFailed("The fork has ended.", "Make a new one.") from error


class _Made(msgspec.Struct):
    number: int


class _Status(msgspec.Struct):
    status: int | None
    """Exit code, or the negative number of a signal; None while it lives."""


class Session:
    """A snapshot of this process, and the forks of it. A context manager: at its end
    there is neither.

    Args:
        work, parameters: what forks can do that need not be told them.

    Raises:
        CheckpointRestoreError: there can be none; nothing is left behind.
        Kept: this is where a fork's own snapshot goes on.
    """

    def __init__(self, work: Work = "", parameters: Sequence[object] = ()) -> None:
        # Names in this space are nobody's files, and end with us (unix(7)).
        token = secrets.token_hex(8)
        self._address = f"\0jupyter-cr/forks-{token}"
        self._key = secrets.token_bytes(32)
        self._name = f"for-forks-{token}"
        builtin.install()
        with now_checkpointing() as problems:
            answer = converse("forks", name=self._name)
        if isinstance(answer, Copied):
            raise self._become_fork(answer, work, parameters)
        self.warnings = tuple(problems)
        self._outside: Conversation = answer
        with ExitStack() as stack:
            stack.enter_context(self._outside)
            self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            self._listener.bind(self._address)
            self._listener.listen(8)
            self._stack = stack.pop_all()

    def _become_fork(
        self, copied: Copied, work: Work, parameters: Sequence[object]
    ) -> Kept:
        """This is a copy. Where /proc does not show of what, it is ours if somebody
        knows our key. What is to be raised where one goes on."""
        if copied.snapshot not in (self._name, ""):
            raise ForkFailed(
                f"This process was {copied.role} from snapshot {copied.snapshot}, in which "
                "it had just asked for forks: it has none.",
                "Run the cell again.",
            )
        try:
            connection = self._connect()
        except (OSError, EOFError, AuthenticationError) as error:
            # Whoever wants forks has ended meanwhile.
            if copied.snapshot:
                os._exit(1)
            raise ForkFailed(
                "This process had asked for forks, and has none any more.",
                "Run the cell again.",
            ) from error
        Worker(connection, work, parameters).serve()
        return Kept()

    def _connect(self) -> Connection:
        with socket.socket(socket.AF_UNIX) as channel:
            deadline = time.monotonic() + _SAY_LIMIT_S
            while True:
                try:
                    channel.connect(self._address)
                    break
                except ConnectionRefusedError:
                    # It does not listen yet.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            connection = Connection(channel.detach())
        answer_challenge(connection, self._key)
        deliver_challenge(connection, self._key)
        return connection

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fork(self) -> Forked:
        """One more.

        Raises:
            CheckpointRestoreError: it cannot be made.
            ForkFailed: it has ended at once, or does not come.
        """
        made = msgspec.json.decode(self._outside.ask("fork"), type=_Made)
        deadline = time.monotonic() + _START_LIMIT_S
        while (connection := self._accepted()) is None:
            status = self._status("look", made.number)
            if status is not None or time.monotonic() > deadline:
                self._outside.ask("end", number=made.number)
                raise ForkFailed(f"A fork {_ended(status)} before it could do anything.")
        return Forked(made.number, connection)

    def _accepted(self) -> Connection | None:
        if not select.select([self._listener], [], [], _LOOK_S)[0]:
            return None
        channel, _ = self._listener.accept()
        peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        connection = Connection(channel.detach())
        if _PEER.unpack(peer)[1] == os.geteuid():
            with suppress(OSError, EOFError, AuthenticationError):
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                return connection
        connection.close()
        return None

    def end(self, fork: Forked) -> None:
        """End a fork, if it has not ended already."""
        fork.connection.close()
        self._outside.ask("end", number=fork.number)

    def wait(self, fork: Forked) -> str:
        """How a fork has ended that is seen to be ending, as a verb."""
        return _ended(self._status("wait", fork.number))

    def keep(self, fork: Forked, name: str, *, automatic: str = "") -> None:
        """Take a snapshot of a fork that waits for something to do. It can be restored
        in the place of this process, since it is recorded as one of this process.

        Raises:
            CheckpointRestoreError: it was not taken.
        """
        self._outside.ask("keep", number=fork.number, name=name, automatic=automatic)

    def _status(self, op: str, number: int) -> int | None:
        answer = self._outside.ask(op, number=number)
        return msgspec.json.decode(answer, type=_Status).status


def _ended(status: int | None) -> str:
    if status is None:
        return "did not answer"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
