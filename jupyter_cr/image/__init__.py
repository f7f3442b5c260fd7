"""The image format: what a snapshot is on disk.

A snapshot is a directory with a ``manifest``: what the tree was, as typed records, and
where its memory is. The memory is in *packs*, which snapshots share::

    packs/PACK.pack         blocks of pages, one after the other
    packs/PACK.index        records: how each block is stored, and each page's hash
    snapshots/ID/manifest   records

Beside the manifest there may be files that are not part of the image (``twins``, and
``live``: a manifest without pages, while those are being saved). A manifest is never
changed; of a pack, blocks that nobody needs can be dropped.

**Grammar** of a file of records; integers are little-endian and unsigned, and every
checksum is XXH3-64 with seed 0::

    file      = preamble record* trailer
    preamble  = magic:8 version:u32 checksum:u64     checksum of magic and version
    magic     = 89 'J' 'C' 'R' 0D 0A 1A 0A           (hexadecimal; as PNG does it,
                                                     text-mode transfers break it)
    record    = head payload
    head      = type:u16 length:u32 checksum:u64     checksum of type, length, payload
    payload   = length bytes of MessagePack          one record class for each type
    trailer   = record of type FFFF                  and then the file ends

The trailer's payload holds the count of records before it, its own offset, and the
checksum of all their checksums in order, so a file cut at a record's end, a record lost,
doubled or moved is noticed as well.

**A manifest** begins with a `Header` (type 1). To its other records the memory of the
snapshot is one array of bytes, a multiple of 4 KiB; its one `PageExtents` (type 12) says
for each 4 KiB page which page of which pack it is, or that it is zeros.

**An index** has one `PackBlocks` (type 13) and one `PackPages` (type 14): page `n` of a
pack is in its block `n // 32`; blocks lie in the ``.pack`` file in order, without gaps,
as they are (codec 0) or as an LZ4 block (codec 1). Codec FF: the block has been dropped,
what is there means nothing, but it still takes its place.

**Encryption.** A file of records may be encrypted as a whole, and then begins with
``magic key-id:8 nonce:12``, magic being 89 'J' 'C' 'E' 0D 0A 1A 0A; what follows is
AES-256-GCM of the file, with ``ID/manifest``, ``ID/live`` or ``PACK.index`` as associated
data. In a block whose codec has bit 40 set, the 12 bytes of a nonce come before AES-256-GCM
of what the codec without it would be, with ``PACK number`` as associated data
(`jupyter_cr.image.cipher`).

**Versions.** The preamble stays as it is for ever. A release reads all versions up to
its own, from 2 on (1 was in no release); for a later one, or a type it does not know in
an otherwise sound file, it says which release to get (`FutureImage`). Type numbers are
never reused (`jupyter_cr.image.records` has the table), and fields are only added to the
end of a record class, with defaults. What is not as written is never guessed at:
`CorruptImage` names the file, the record and the offset.
"""

from __future__ import annotations

from jupyter_cr.image.reader import ImageReader
from jupyter_cr.image.records import (
    CellFacts,
    Document,
    Header,
    InputPrompt,
    KernelFacts,
    NotebookFacts,
    Outcome,
    RunningRequest,
)
from jupyter_cr.image.writer import ImageWriter

__all__ = [
    "CellFacts",
    "Document",
    "Header",
    "ImageReader",
    "ImageWriter",
    "InputPrompt",
    "KernelFacts",
    "NotebookFacts",
    "Outcome",
    "RunningRequest",
]
