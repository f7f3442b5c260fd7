"""What is said between a kernel and those outside who snapshot, restore or fork it.

A kernel that listens shows a *calling card*: an open memfd named ``jupyter-cr``, seen
from outside as /proc/PID/fd/N, a link to ``/memfd:jupyter-cr (deleted)``, whose content
is a `Card` in JSON. It is part of the kernel's memory, so restores and forks show it too.

Whoever finds it may send a ``jupyter_cr_request`` on the kernel's control channel, with
a `Notice` as content. The ``jupyter_cr_reply`` has a `NoticeReply` as content, and is
signed with the key that the request was signed with; after that a new key is taken.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "ASKED_WITHIN",
    "CARD_NAME",
    "KEEPER_NAME",
    "LOOKED_AT",
    "REPLY",
    "REQUEST",
    "WHATEVER_WAITS",
    "Card",
    "Event",
    "Notice",
    "NoticeReply",
    "look_address",
]

CARD_NAME = "jupyter-cr"

KEEPER_NAME = "jupyter-cr"
"""argv[0] of the processes around a rebuilt tree (`jupyter_cr.engine.identity`)."""

ASKED_WITHIN = "within"
"""argv[4] of theirs, if the tree itself has asked for what it has become."""

WHATEVER_WAITS = "*"
"""In `Notice.abandoned`: all that waits, where its ids are not known."""

LOOKED_AT = "/look/"
"""Begins what stands in the place of the snapshot's name (argv[2] of theirs) for a fork
that is only to be looked at; a token follows. No snapshot's name has a slash."""


def look_address(token: str) -> str:
    """Of the socket at which somebody listens who looks at a fork."""
    return f"\0jupyter-cr/look-{token}"


REQUEST, REPLY = "jupyter_cr_request", "jupyter_cr_reply"

Event = Literal["checkpoint", "restored", "forked"]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel understands."""

    protocol: int = 1
    hooks: tuple[str, ...] = ("checkpoint", "restore", "fork")
    aborts: bool = False
    """Whether it leaves out requests that are `Notice.abandoned`."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a ``jupyter_cr_request``: what is about to happen, or has happened."""

    event: Event
    snapshot: str = ""
    """Its name; empty if it has none yet."""
    kernel_id: str = ""
    connection_file: str = ""
    """Of a fork: its own, so that it tells of its own ports and never removes its
    original's file."""
    key: str | None = None
    """With which messages are to be signed after the reply; None to keep the one."""
    abandoned: tuple[str, ...] = ()
    """Ids of requests that wait in its queue and are to be answered with status
    "aborted", since the kernel had asked itself for what it has become."""
    until: float | None = None
    """When whoever asks will have stopped listening, and the key must not be changed any
    more (seconds, time.time); None: never."""


class NoticeReply(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a ``jupyter_cr_reply``."""

    status: Literal["ok", "error"] = "ok"
    errors: tuple[str, ...] = ()
    """Sentences: hooks that failed; or what was not understood (``error``)."""
    key_taken: bool = False
    """Whether the next message is signed with the new key."""
