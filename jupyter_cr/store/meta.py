"""``meta``: a small file beside each image, with what the image cannot say, because it
never changes: how the snapshot is called now, its note, its tags, and where it comes from.
The catalogue is made anew from it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jupyter_cr.image.record_file import write_whole

__all__ = ["META", "Meta", "read_meta", "write_meta"]

META = "meta"
_MAX_BYTES = 1 << 20


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the catalogue knows of a snapshot, and its image does not."""

    name: str = ""
    note: str | None = None
    """None: the one in the image."""
    tags: tuple[str, ...] = ()
    parent: str = ""
    """Id of the snapshot that the kernel was at before."""
    signer: str = ""
    """Public key (hexadecimal) of whoever has exported it, if it came from elsewhere."""
    named: bool = True
    removed: bool = False
    """Only its readers keep it."""


def read_meta(directory: Path) -> Meta:
    """Of a snapshot; an empty one where there is none, or it is damaged."""
    try:
        with open(directory / META, "rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Meta)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Meta()


def write_meta(directory: Path, meta: Meta) -> None:
    """Replace a snapshot's.

    Raises:
        StorageError: disk full, or not writable.
    """
    write_whole(directory / META, msgspec.json.encode(meta), durable=False)
