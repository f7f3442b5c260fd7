"""Subshells of a kernel (https://github.com/jupyter/enhancement-proposals/pull/91) that a
restore has taken away.

JupyterLab has a kernel make a subshell for each kind of comm, and addresses comm messages
to it for as long as the page is open. A snapshot from before has no such subshell, and
ipykernel does not handle what is addressed to it: no widget would move again. Such
messages go to the main shell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = ["LIST_SUBSHELLS", "Subshells"]

LIST_SUBSHELLS = "list_subshell_request"


class _Listed(msgspec.Struct, frozen=True):
    """Content of a ``list_subshell_reply``."""

    subshell_id: list[str] = []


_listed = msgspec.json.Decoder(_Listed).decode


@dataclass
class Subshells:
    """Those of one kernel that front ends have used."""

    _used: set[str] = field(default_factory=set)
    _doubtful: set[str] = field(default_factory=set)
    _question: str = ""
    _is_asked: bool = True

    def is_gone(self, subshell_id: str) -> bool:
        """Whether the kernel may not have it any more. Otherwise it is in use."""
        if subshell_id in self._doubtful:
            return True
        self._used.add(subshell_id)
        return False

    def doubt(self) -> None:
        """The kernel's processes are others."""
        self._doubtful |= self._used
        self._used.clear()
        self._is_asked = False

    def question(
        self, new_header: Callable[[str, str], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """What the kernel has to be asked on its control channel, if anything: the header
        of a request without content."""
        if self._is_asked or not self._doubtful:
            return None
        self._is_asked = True
        header = new_header(LIST_SUBSHELLS, "")
        self._question = header["msg_id"]
        return header

    def is_question(self, msg_id: str) -> bool:
        """Whether a request was ours, and no front end's."""
        return msg_id != "" and msg_id == self._question

    def hear(self, parent: str, content: bytes) -> bool:
        """Whether a reply is to our question, and no front end's."""
        if not self.is_question(parent):
            return False
        self._doubtful.difference_update(_listed(content).subshell_id)
        return True
