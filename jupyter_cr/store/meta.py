"""``meta``: a small file beside each image, with what the image cannot say, because it
never changes: how the snapshot is called now, its note, its tags, and where it comes from.
The catalogue is made anew from it.

In a store elsewhere no file ever changes, so that copies of it need not be asked for: there
``meta-NUMBER-TOKEN`` comes in its place, and the one with the greatest name counts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from jupyter_cr.image.record_file import write_whole

__all__ = ["META", "Meta", "newest_meta", "next_meta", "read_meta", "write_meta"]

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

    def note_over(self, own: str) -> str:
        """The note that counts, where the image has its `own`."""
        return own if self.note is None else self.note


_LATER = re.compile(r"meta-([0-9]{8})-[0-9a-f]{8}")


def newest_meta(names: Iterable[str]) -> str:
    """Of a snapshot's files, the one that counts."""
    return max((name for name in names if _LATER.fullmatch(name)), default=META)


def next_meta(newest: str) -> str:
    """The name of the one that is to come in its place. Should several do that at once, one
    of them wins."""
    found = _LATER.fullmatch(newest)
    number = int(found[1]) + 1 if found else 1
    return f"{META}-{number:08}-{secrets.token_hex(4)}"


def read_meta(directory: Path, name: str = META) -> Meta:
    """Of a snapshot; an empty one where there is none, or it is damaged.

    Args:
        name: of the file.
    """
    try:
        with open(directory / name, "rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Meta)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Meta()


def write_meta(directory: Path, meta: Meta) -> None:
    """Replace a snapshot's.

    Raises:
        StorageError: disk full, or not writable.
    """
    write_whole(directory / META, msgspec.json.encode(meta), durable=False)
