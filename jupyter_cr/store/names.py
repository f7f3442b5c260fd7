"""Names of snapshots, and tags: what is allowed, and what is taken when none is given."""

from __future__ import annotations

import re
import time
from collections.abc import Container

from jupyter_cr.errors import UsageError

__all__ = ["MAX_BYTES", "check_name", "check_tag", "suggest_name"]

MAX_BYTES = 128
"""Leaves room, in a file name of 255 bytes, for what is put around it."""

_UNFIT = re.compile(r"[^A-Za-z0-9._+-]+")


def check_name(name: str) -> str:
    """Return `name` if it may be a snapshot's.

    Raises:
        UsageError: says what is wrong with it.
    """
    hint = "Letters, digits, dots, dashes and the like, as in: before-training"
    if not name:
        raise UsageError("A snapshot's name cannot be empty.", hint)
    if name[0] in ".-":
        raise UsageError(
            f"A snapshot's name cannot begin with {name[0]!r}: {name!r}.", hint
        )
    if "/" in name or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"A snapshot's name has no slash, no control character and no space around "
            f"it: {name!r}.",
            hint,
        )
    if len(name.encode()) > MAX_BYTES:
        raise UsageError(
            f"A snapshot's name has {MAX_BYTES} bytes at most: {name!r}.", hint
        )
    return name


def check_tag(tag: str) -> str:
    """Return `tag` if it may be one: one word that can be told from an option.

    Raises:
        UsageError: says what is wrong with it.
    """
    if not tag.isprintable() or not tag or tag[0] == "-" or re.search(r"[\s,;]", tag):
        raise UsageError(
            f"A tag is a word without spaces, commas and semicolons: {tag!r}.",
            "As in: release, or paper-3",
        )
    if len(tag.encode()) > MAX_BYTES:
        raise UsageError(f"A tag has {MAX_BYTES} bytes at most: {tag!r}.", "As in: release")
    return tag


def suggest_name(base: str, taken: Container[str]) -> str:
    """A name that is free: ``BASE-YYYYMMDD-HHMMSS`` in local time, or with ``-2`` and so
    on after it.

    Args:
        base: the kernel's name or the process's; made fit where it is not.
        taken: names there are.
    """
    fit = _UNFIT.sub("-", base).strip("-.")[:64] or "process"
    stem = f"{fit}-{time.strftime('%Y%m%d-%H%M%S')}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name
