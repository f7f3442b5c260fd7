"""Messages between front ends and kernels, as far as they are looked at:
https://jupyter-client.readthedocs.io/en/stable/messaging.html"""

from __future__ import annotations

import time
import uuid
from typing import Any, NamedTuple

import msgspec

from jupyter_cr.image import InputPrompt
from jupyter_cr.kernels.glue_protocol import REPLY, REQUEST
from jupyter_cr.server.subshells import LIST_SUBSHELLS

__all__ = [
    "COMMS",
    "QUESTIONS",
    "UNTRACKED",
    "Execution",
    "Header",
    "Input",
    "Prompt",
    "Reply",
    "as_dict",
    "new_header",
    "read_cell_id",
    "read_execution",
    "read_header",
    "read_input",
    "read_prompt",
    "read_reply",
    "without_subshell",
]

UNTRACKED = (REQUEST, REPLY, LIST_SUBSHELLS, "list_subshell_reply")
"""Message types of which a kernel's state does not tell what its user has it do
(`AsyncMappingKernelManager.untracked_message_types`)."""


class Header(msgspec.Struct, frozen=True):
    """What is looked at of a message's header."""

    msg_id: str = ""
    msg_type: str = ""
    session: str = ""
    subshell_id: str | None = None


class _Metadata(msgspec.Struct, frozen=True, rename={"cell_id_of_lab": "cellId"}):
    """What front ends tell of a cell: JupyterLab, Notebook and VS Code the one, others
    the other."""

    cell_id_of_lab: str = ""
    cell_id: str = ""


class Prompt(msgspec.Struct, frozen=True):
    """Content of an ``input_request``."""

    prompt: str = ""
    password: bool = False

    def as_record(self) -> InputPrompt:
        return InputPrompt(text=self.prompt, is_password=self.password)


class Input(msgspec.Struct, frozen=True):
    """Content of an ``execute_input``."""

    execution_count: int = 0
    code: str = ""


class _Asked(msgspec.Struct, frozen=True):
    """Content of an ``execute_request``."""

    code: str = ""
    silent: bool = False
    store_history: bool = True
    stop_on_error: bool = True


class Execution(NamedTuple):
    """A cell that somebody wants to be run."""

    msg_id: str
    cell_id: str
    code: str
    stop_on_error: bool


class Reply(msgspec.Struct, frozen=True):
    """Content of a reply."""

    status: str = ""


read_header = msgspec.json.Decoder(Header).decode
_asked = msgspec.json.Decoder(_Asked).decode
read_input = msgspec.json.Decoder(Input).decode
_metadata = msgspec.json.Decoder(_Metadata).decode
read_prompt = msgspec.json.Decoder(Prompt).decode
read_reply = msgspec.json.Decoder(Reply).decode

QUESTIONS = frozenset(
    (
        "complete_request",
        "history_request",
        "inspect_request",
        "is_complete_request",
        "kernel_info_request",
    )
)
"""That change nothing that a person has made in a kernel."""
COMMS = frozenset(("comm_open", "comm_msg", "comm_close"))
"""With which widgets do."""


def read_execution(header: bytes, metadata: bytes, content: bytes) -> Execution | None:
    """What a message asks for, if it is a cell: an ``execute_request`` of the main shell
    that is neither silent nor kept out of the history."""
    try:
        read, asked = read_header(header), _asked(content)
    except msgspec.MsgspecError:
        return None
    if read.msg_type != "execute_request" or read.subshell_id:
        return None
    if asked.silent or not asked.store_history:
        return None
    return Execution(read.msg_id, read_cell_id(metadata), asked.code, asked.stop_on_error)


def read_cell_id(metadata: bytes) -> str:
    """Of the cell that a request is for; empty if the front end does not tell."""
    try:
        read = _metadata(metadata)
    except msgspec.MsgspecError:
        return ""
    return read.cell_id_of_lab or read.cell_id


def without_subshell(header: bytes) -> bytes:
    """As for the main shell."""
    fields = as_dict(header)
    del fields["subshell_id"]
    return msgspec.json.encode(fields)


def as_dict(header: bytes) -> dict[str, Any]:
    """All of a header."""
    decoded: dict[str, Any] = msgspec.json.decode(header)
    return decoded


def new_header(msg_type: str, session: str, msg_id: str = "") -> dict[str, Any]:
    """Of a message in the name of a front end's session."""
    return {
        "msg_id": msg_id or uuid.uuid4().hex,
        "msg_type": msg_type,
        "session": session,
        "username": "",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": "5.3",
    }
