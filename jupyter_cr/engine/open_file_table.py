"""The record that holds all open files of a tree."""

from __future__ import annotations

import msgspec

from jupyter_cr.engine.descriptors import File

__all__ = ["FileTable"]


class FileTable(msgspec.Struct, frozen=True):
    """Numbered from 0, in order."""

    files: tuple[File, ...]
