"""Where things are in a store."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PACKS", "SNAPSHOTS", "packs_beside"]

SNAPSHOTS = "snapshots"
PACKS = "packs"


def packs_beside(directory: Path) -> Path:
    """The packs of the store that a snapshot's directory is in."""
    return directory.parent.parent / PACKS
