"""What is said between a process and its forks, over a socket of their own.

Each message is pickled by itself, and holds what users' code has made as bytes, so that a
value that cannot be unpickled spoils nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = [
    "Call",
    "Finished",
    "Message",
    "Packed",
    "Prepared",
    "Printed",
    "Raised",
    "Shown",
    "Source",
    "Task",
    "receive",
    "send",
]


@dataclass(frozen=True)
class Prepared:
    """To a fork: call what was in its memory already, with one of the parameters there."""

    index: int


@dataclass(frozen=True)
class Source:
    """To a fork: run code, as a cell. `variables`: pickled, set before."""

    code: str
    variables: bytes


@dataclass(frozen=True)
class Call:
    """To a fork: call a function. `call`: pickled (function, arguments, keywords)."""

    call: bytes


@dataclass(frozen=True)
class Printed:
    """From a fork: text on ``stdout`` or ``stderr``."""

    stream: str
    text: str


@dataclass(frozen=True)
class Shown:
    """From a fork: a rich output, or the value of an expression."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    transient: Mapping[str, Any]
    update: bool
    is_result: bool


@dataclass(frozen=True)
class Packed:
    """A value: pickled, or described where that is not possible."""

    pickled: bytes | None
    type_name: str
    text: str = ""
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Raised:
    """An exception. `pickled` is None where it cannot be."""

    pickled: bytes | None
    type_name: str
    message: str
    traceback: tuple[str, ...]
    """As IPython shows it, or as Python prints it."""


@dataclass(frozen=True)
class Finished:
    """From a fork: what came of a task. Exactly one of the two is there."""

    value: Packed | None
    raised: Raised | None
    elapsed_s: float


Task = Prepared | Source | Call
Message = Printed | Shown | Finished


def send(connection: Connection, message: Task | Message) -> None:
    """Raises:
    OSError: the other end is gone.
    """
    # Not Connection.send(), which would make copies of open sockets and the like.
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """The next message.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    return pickle.loads(connection.recv_bytes())
