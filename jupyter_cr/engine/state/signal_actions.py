"""Signal dispositions: handlers, masks and flags (sigaction(2)).

Shared by the threads of a process. System call rt_sigaction takes Linux's own
struct: handler, flags, restorer, mask, 8 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jupyter_cr.tracer.calls import Call, Out
from jupyter_cr.tracer.remote import Result

__all__ = ["Record", "collect", "collect_calls", "rebuild_calls"]

_SIZE = 32
_MASK_SIZE = 8
_SIGKILL, _SIGSTOP = 9, 19
_NUMBERS = tuple(n for n in range(1, 65) if n not in (_SIGKILL, _SIGSTOP))


class Record(msgspec.Struct, frozen=True):
    """Actions that are not the default: signal number -> struct sigaction."""

    actions: dict[int, bytes]


def collect_calls() -> list[Call]:
    return [Call("rt_sigaction", (n, 0, Out(_SIZE), _MASK_SIZE)) for n in _NUMBERS]


def collect(results: Sequence[Result]) -> Record:
    actions = {n: result.outs[0] for n, result in zip(_NUMBERS, results, strict=True)}
    return Record({n: action for n, action in actions.items() if any(action)})


def rebuild_calls(record: Record) -> list[Call]:
    default = bytes(_SIZE)
    return [
        Call("rt_sigaction", (n, record.actions.get(n, default), 0, _MASK_SIZE))
        for n in _NUMBERS
    ]
