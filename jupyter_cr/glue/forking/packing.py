"""Values and exceptions on their way from a fork to the process that wants them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jupyter_cr.errors import ForkFailed
from jupyter_cr.glue.forking.messages import Packed, Raised

__all__ = ["Described", "pack", "pack_error", "unpack", "unpack_error"]

_TEXT_LIMIT = 10_000
"""Characters of a value's representation."""


class Described:
    """In place of a value that cannot be pickled and has ended with its fork: its type,
    and how it looked there. Shown in a notebook, it looks the same.

    Attributes:
        type_name: with the module.
        text: its ``repr()``.
        data: of its rich output, by media type.
    """

    def __init__(self, type_name: str, text: str, data: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.text = text
        self.data = dict(data)

    def __repr__(self) -> str:
        return self.text or f"<{self.type_name}, which has ended with its fork>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.data or {"text/plain": repr(self)}


def pack(value: object) -> Packed:
    """In the fork."""
    kind = _type_name(value)
    # Whatever __reduce__ and the like of users' classes raise.
    with suppress(Exception):
        return Packed(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), kind)
    return Packed(None, kind, _text(value), _bundle(value))


def unpack(packed: Packed) -> Any:
    """The value, or a `Described`."""
    if packed.pickled is not None:
        try:
            return pickle.loads(packed.pickled)
        except Exception as error:  # noqa: BLE001 - whatever others' classes raise
            # Of a class that there is in the fork only, for example.
            text = f"<{packed.type_name}, which cannot be unpickled here: {error}>"
            return Described(packed.type_name, text, {})
    return Described(packed.type_name, packed.text, packed.data or {})


def pack_error(error: BaseException, traceback: tuple[str, ...]) -> Raised:
    """In the fork."""
    pickled = None
    with suppress(Exception):
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        # Many exceptions take other arguments than they have in `args`.
        pickle.loads(pickled)
    with_module = _type_name(error)
    return Raised(
        pickled, with_module.removeprefix("builtins."), _message(error), traceback
    )


def unpack_error(raised: Raised) -> BaseException:
    """The exception, with its traceback there as its cause."""
    error: BaseException | None = None
    if raised.pickled is not None:
        with suppress(Exception):
            error = pickle.loads(raised.pickled)
    if not isinstance(error, BaseException):
        # By the name that it has there.
        name = raised.type_name.rpartition(".")[2]
        error = type(name, (ForkFailed,), {})(raised.message)
    error.__cause__ = _There("\n".join(raised.traceback))
    vars(error)["_render_traceback_"] = lambda: list(raised.traceback)
    return error


class _There(Exception):
    """A traceback of another process (as in `concurrent.futures.process`)."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}\n"""'


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT_LIMIT]
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return ""


def _text(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever its __repr__ raises
        return ""
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "..."


def _bundle(value: object) -> Mapping[str, Any]:
    from jupyter_cr.glue.forking.running import current_shell

    shell = current_shell()
    if shell is None:
        return {}
    with suppress(Exception):
        data, _ = shell.display_formatter.format(value)
        return dict(data)
    return {}
