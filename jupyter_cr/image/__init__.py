"""The image format: what a snapshot is on disk.

A snapshot is a directory of two files::

    manifest   what the tree was: typed records
    pages      what its memory held: bytes, addressed by offset from records

and possibly of files beside them that are not part of the image (``twins``, and what the
store has to say: `jupyter_cr.store`). The manifest appears when all is there; nothing in
the image is ever changed afterwards.

**Grammar** of ``manifest``; integers are little-endian and unsigned, and every
checksum is XXH3-64 with seed 0::

    manifest  = preamble record* trailer
    preamble  = magic:8 version:u32 checksum:u64     checksum of magic and version
    magic     = 89 'J' 'C' 'R' 0D 0A 1A 0A           (hexadecimal; as PNG does it,
                                                     text-mode transfers break it)
    record    = head payload
    head      = type:u16 length:u32 checksum:u64     checksum of type, length, payload
    payload   = length bytes of MessagePack          one record class for each type
    trailer   = record of type FFFF                  and then the file ends

The trailer's payload holds the count of records before it, its own offset, and the
checksum of all their checksums in order, so a file cut at a record's end, a
record lost, doubled or moved is noticed as well. Of the records, two are the
format's own: `Header` (type 1) is the first, `PageBlocks` (type 2) the last before
the trailer: the length of ``pages``, and a checksum for each MiB of it (the last one
may be shorter). ``pages`` has no structure of its own.

**Versions.** The preamble stays as it is for ever. A release reads all versions up to
its own; for a later one, or a type it does not know in an otherwise sound file, it
says which release to get (`FutureImage`). Type numbers are never reused
(`jupyter_cr.image.records` has the table), and fields are only added to the end of a
record class, with defaults. What is not as written is never guessed at:
`CorruptImage` names the file, the record and the offset.
"""

from __future__ import annotations

from jupyter_cr.image.reader import ImageReader
from jupyter_cr.image.records import (
    Document,
    Header,
    InputPrompt,
    KernelFacts,
    NotebookFacts,
    Outcome,
    PageBlocks,
    RunningRequest,
)
from jupyter_cr.image.writer import ImageWriter

__all__ = [
    "Document",
    "Header",
    "ImageReader",
    "ImageWriter",
    "InputPrompt",
    "KernelFacts",
    "NotebookFacts",
    "Outcome",
    "PageBlocks",
    "RunningRequest",
]
