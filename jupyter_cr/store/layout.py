"""Where things are in a store."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PACKS", "SNAPSHOTS", "packs_beside", "root_of"]

SNAPSHOTS = "snapshots"
PACKS = "packs"


def root_of(directory: Path) -> Path:
    """The store that a snapshot's directory is in."""
    return directory.parent.parent


def packs_beside(directory: Path) -> Path:
    """The packs of that store."""
    return root_of(directory) / PACKS
