"""Errors as problem documents (RFC 9457): whatever goes wrong becomes one here."""

from __future__ import annotations

__all__ = ["MEDIA_TYPE", "Problem", "problem_of"]

import re
from http import HTTPStatus

import msgspec
from tornado.web import HTTPError

from jupyter_cr.errors import CheckpointRestoreError, EngineError

MEDIA_TYPE = "application/problem+json"

_TYPES = "https://schema.jupyter.org/jupyter_cr/problems/"
"""An error's type is this and the kind of error: ``.../no-such-snapshot``."""

_HINTS = {
    401: "Send the server's token: `Authorization: token TOKEN`.",
    403: "Send the server's token: `Authorization: token TOKEN`. With it, this user is "
    "not permitted to do that.",
    404: "jupyter-cr/openapi.yaml lists what there is.",
    405: "jupyter-cr/openapi.yaml lists what there is.",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document, with what the command line would say of the same error."""

    type: str = "about:blank"
    title: str
    """The kind of error, in words."""
    status: int
    detail: str
    """What happened, naming the object."""
    hint: str = ""
    """The next step."""
    error: str
    """The kind of error, as its class is called in `jupyter_cr.errors`."""
    exit_code: int
    not_kept: bool = False
    """Whether it is only that what runs now could not be kept before a restore."""


def problem_of(error: BaseException) -> Problem:
    """What to tell of an error."""
    if isinstance(error, CheckpointRestoreError):
        return _problem_of_ours(error)
    if isinstance(error, HTTPError):
        return _problem_of_http(error)
    return _problem_of_ours(
        EngineError(
            f"{type(error).__name__}: {error}",
            "This is a bug; the traceback is in the server's log.",
        )
    )


def _problem_of_ours(error: CheckpointRestoreError) -> Problem:
    kind = type(error).__name__
    words = re.findall("[A-Z][a-z]*", kind)
    return Problem(
        type=_TYPES + "-".join(words).lower(),
        title=" ".join(words).capitalize(),
        status=error.http_status,
        detail=error.message,
        hint=error.hint,
        error=kind,
        exit_code=error.exit_code,
        not_kept=error.not_kept,
    )


def _problem_of_http(error: HTTPError) -> Problem:
    title = error.reason or _phrase(error.status_code)
    return Problem(
        title=title,
        status=error.status_code,
        # HTTPError has doubled the percent signs of a message without arguments.
        detail=error.log_message % error.args if error.log_message else title,
        hint=_HINTS.get(error.status_code, ""),
        error="HTTPError",
        exit_code=CheckpointRestoreError.exit_code,
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
