"""How a block of pages is stored: as it is, or packed with LZ4.

Of the libraries that were tried on the memory of a kernel with pandas and matplotlib
(88.6 MiB, one thread, MB/s in and out): LZ4 31.3 MiB at 735 and 1851, Zstandard at its
first level 22.8 MiB at 479 and 1182. A disk takes raw bytes at about 1000, so LZ4 is
what costs a checkpoint and a restore no time.
"""

from __future__ import annotations

import lz4.block

__all__ = ["DROPPED", "ENCRYPTED", "LZ4", "RAW", "pack", "unpack"]

RAW, LZ4 = 0, 1
ENCRYPTED = 0x40
"""Added to either: what it says is the plain text, see `jupyter_cr.image.cipher`."""
DROPPED = 0xFF
"""Of a block that no snapshot needs any more: its bytes are gone, its place is kept."""

_WORTH_IT = 7 / 8
"""Of the size: what packs no better is stored as it is, which can be read without us."""


def pack(data: bytes | bytearray | memoryview) -> tuple[int, bytes]:
    """The codec that suits, and the bytes to store. Lets go of the interpreter lock."""
    packed: bytes = lz4.block.compress(data, store_size=False)
    if len(packed) <= len(data) * _WORTH_IT:
        return LZ4, packed
    return RAW, bytes(data)


def unpack(codec: int, stored: bytes, size: int) -> bytes:
    """What was packed.

    Args:
        size: of the result, in bytes.

    Raises:
        ValueError: no such codec, or not what `pack` gave.
    """
    if codec == RAW:
        data = stored
    elif codec == LZ4:
        try:
            data = lz4.block.decompress(stored, uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(str(error)) from error
    else:
        raise ValueError(f"no codec has number {codec}")
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, not {size}")
    return data
