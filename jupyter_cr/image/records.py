"""Which record classes an image may hold, and under which numbers.

A record class is a `msgspec.Struct`. To make one known, give it the next free number
in `RECORDS`: one line. A number that has been in a release is never given to another
class, and a class that is no longer written stays, so that older images can be read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import msgspec

__all__ = [
    "RECORDS",
    "CellFacts",
    "Document",
    "Header",
    "InputPrompt",
    "KernelFacts",
    "NotebookFacts",
    "Outcome",
    "ProcessOutcome",
    "RunningRequest",
    "class_of",
    "number_of",
]


class KernelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What Jupyter knew of the target, where it is a kernel."""

    connection_file: str = ""
    """Absolute path; empty if the target has none."""
    connection: bytes = b""
    """The file's content, as it was."""
    kernel_id: str = ""
    kernel_name: str = ""
    """Of the kernel spec, e.g. ``python3``."""


class InputPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel has asked a front end for (``input_request``)."""

    text: str = ""
    is_password: bool = False


class RunningRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A front end's request that had not been answered: the tree goes on with it."""

    msg_id: str
    msg_type: str = "execute_request"
    session: str = ""
    """Of the websocket by which it came: the kernel's name for who is to be answered."""
    cell_id: str = ""
    begun: bool = True
    """Whether the kernel was at it, or had it in its queue."""
    channel: str = "shell"
    subshell: str = ""
    """To which it was addressed; empty for the main shell."""
    prompt: InputPrompt | None = None
    """What it waited for, if for input."""


class CellFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that was run."""

    number: int = 0
    """As in its prompt."""
    source: str = ""
    """Its first line that is not empty; cut, if it is long."""


class NotebookFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which document the kernel was working for, and which of its cells."""

    path: str = ""
    """As the server names it, relative to its root; empty if there was none."""
    type: str = "notebook"
    running: tuple[RunningRequest, ...] = ()
    session_name: str = ""
    """As the kernel was told it (JPY_SESSION_NAME): the path on the server's machine."""
    last_cell: CellFacts | None = None
    """The one that had been run last; None if that is not known."""
    running_cell: CellFacts | None = None
    """The one that ran."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is, where and when it was taken. The first record."""

    name: str
    note: str = ""
    created: str
    """UTC, ISO 8601 with microseconds."""
    pid: int
    """Of the target, as seen by whoever took the snapshot."""
    comm: str = ""
    """Its name (proc_pid_comm(5))."""
    kernel: KernelFacts = KernelFacts()
    release: str
    """Of Linux, as in uname(2)."""
    machine: str
    """As in uname(2), e.g. ``x86_64``."""
    tool: str
    """Version of jupyter-cr that wrote it."""
    notebook: NotebookFacts = NotebookFacts()
    automatic: str = ""
    """Why it was taken without being asked for, e.g. ``before restore``; empty if it was
    asked for."""


class ProcessOutcome(msgspec.Struct, frozen=True):
    """What was taken of one process."""

    pid: int
    comm: str
    threads: int
    descriptors: int
    bytes: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The notebook as it was, beside the processes."""

    content: bytes
    """JSON, in the notebook format (nbformat)."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the checkpoint went."""

    downtime_ms: float
    elapsed_ms: float
    bytes: int
    processes: tuple[ProcessOutcome, ...] = ()
    memory_only: bool = False
    """Whether its twins alone have its pages: there is nothing left without them."""


RECORDS: Mapping[int, str] = MappingProxyType(
    {
        1: "jupyter_cr.image.records:Header",
        # 2: retired before the first release.
        3: "jupyter_cr.image.records:Outcome",
        4: "jupyter_cr.engine.machine:Machine",
        5: "jupyter_cr.engine.identity:Identity",
        6: "jupyter_cr.engine.state.process:Record",
        7: "jupyter_cr.engine.open_file_table:FileTable",
        8: "jupyter_cr.engine.machine:FileIdentities",
        9: "jupyter_cr.engine.pages:Record",
        10: "jupyter_cr.engine.shared_memory:Record",
        11: "jupyter_cr.image.records:Document",
        12: "jupyter_cr.image.page_map:PageExtents",
        13: "jupyter_cr.image.pack:PackBlocks",
        14: "jupyter_cr.image.pack:PackPages",
    }
)
"""Type number -> ``module:class``. Imported when such a record is read, so that listing
snapshots does not need the engine."""

_NUMBERS = {name: number for number, name in RECORDS.items()}


def number_of(cls: type[msgspec.Struct]) -> int:
    """The type number of a record class.

    Raises:
        KeyError: it has none.
    """
    return _NUMBERS[f"{cls.__module__}:{cls.__qualname__}"]


@cache
def class_of(number: int) -> type[msgspec.Struct]:
    """The record class of a type number.

    Raises:
        KeyError: there is none.
    """
    module, _, name = RECORDS[number].partition(":")
    found: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return found
