"""What is left in a store of before there was a catalogue: ``ROOT/NAME/manifest`` and
``pages``, image format 1, which was in no release. It cannot be read any more, is nobody's
to delete but its owner's, and should not be thought lost without a word."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from jupyter_cr.errors import StorageError, printable
from jupyter_cr.image.frame import MAGIC
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.image.record_file import write_whole

__all__ = ["is_older", "older_lines", "older_of", "untold_of"]

_PAGES = "pages"
_TOLD = ".older"
"""Names of those that somebody has been told of, one a line."""


def is_older(root: Path, name: str) -> bool:
    """Whether that is the name of such a snapshot."""
    directory = os.path.join(root, name)
    try:
        if os.path.islink(directory) or not os.path.isfile(f"{directory}/{_PAGES}"):
            return False
        with open(f"{directory}/{MANIFEST}", "rb") as manifest:
            return manifest.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def older_of(root: Path) -> list[str]:
    """Names of such snapshots."""
    with suppress(OSError), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_older(root, entry.name))
    return []


def older_lines(root: Path, names: Sequence[str]) -> tuple[str, str]:
    """What is to be said of some: what they are, and the next step."""
    return (
        f"In {root}, of before the first release, and not read any more: "
        f"{printable(', '.join(names))}.",
        "Use the version that took them, or delete them: "
        + printable(shlex.join(["rm", "-r", "--", *(str(root / name) for name in names)])),
    )


def untold_of(root: Path) -> list[str]:
    """Names of such snapshots, unless they have been given before: whoever asks tells
    somebody. Where nothing can be written they are given again."""
    found = older_of(root)
    if not found:
        return []
    told: set[str] = set()
    with suppress(OSError):
        told = {os.fsdecode(name) for name in (root / _TOLD).read_bytes().split(b"\n")}
    untold = [name for name in found if name not in told]
    if untold:
        lines = "".join(f"{name}\n" for name in found)
        with suppress(StorageError):
            write_whole(root / _TOLD, os.fsencode(lines), durable=False)
    return untold
