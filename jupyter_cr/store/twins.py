"""A snapshot's live twins: what makes it warm, and must end with it.

The engine parks them, and notes them in a file beside the image; it alone knows what
that file says.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["are_twins_alive", "end_twins"]

_TWINS = "twins"
_DAMAGED = (OSError, ValueError, KeyError, TypeError)
"""What reading a file that somebody has cut or edited may end in."""


def are_twins_alive(directory: Path) -> bool:
    """Whether all twins of a snapshot are there; without any, or where the file cannot
    be understood, they are not."""
    if not (directory / _TWINS).exists():
        return False
    # Imported where needed: few snapshots are warm.
    from jupyter_cr.engine.twin import read_twins

    try:
        return bool(read_twins(directory))
    except _DAMAGED:
        return False


def end_twins(directory: Path) -> None:
    """End the twins of a snapshot, if it has any."""
    if (directory / _TWINS).exists():
        from jupyter_cr.engine.twin import release_twins

        with suppress(*_DAMAGED):
            release_twins(directory)
