"""The bytes of a file of records: preamble, frames, trailer (grammar: see the package)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from jupyter_cr.errors import CorruptImage, FutureImage

__all__ = [
    "DAMAGED",
    "TRAILER_TYPE",
    "VERSION",
    "Frame",
    "Trailer",
    "encode_frame",
    "encode_preamble",
    "iter_frames",
    "link_checksums",
]

MAGIC = b"\x89JCR\r\n\x1a\n"
VERSION = 2
OLDEST = 2
TRAILER_TYPE = 0xFFFF

_PREAMBLE = struct.Struct("<8sIQ")
_HEAD = struct.Struct("<HIQ")
_COVERED = struct.Struct("<HI")
_CHECKSUM = struct.Struct("<Q")

DAMAGED = "It cannot be used; `jupyter cr rm` removes it. Take another snapshot."


class Trailer(msgspec.Struct, frozen=True, array_like=True):
    """Says that the file is whole."""

    records: int
    """Count of records before this one."""
    offset: int
    """Where the trailer begins, in bytes."""
    chain: int
    """Checksum of the checksums of all records before this one."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One sound record of a file, not yet decoded."""

    index: int
    offset: int
    """Of its head, in bytes."""
    type: int
    checksum: int
    payload: memoryview


def encode_preamble(version: int = VERSION) -> bytes:
    """The first bytes of a file of records."""
    covered = _PREAMBLE.pack(MAGIC, version, 0)[: -_CHECKSUM.size]
    return covered + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(covered))


def _checksum(type_number: int, payload: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(_COVERED.pack(type_number, len(payload)))
    digest.update(payload)
    return digest.intdigest()


def encode_frame(type_number: int, payload: bytes) -> tuple[bytes, int]:
    """The head that goes before `payload`, and the checksum in it.

    Raises:
        OverflowError: a payload of 4 GiB or more.
    """
    if len(payload) > 0xFFFFFFFF:
        raise OverflowError(f"a record of {len(payload)} bytes")
    checksum = _checksum(type_number, payload)
    return _HEAD.pack(type_number, len(payload), checksum), checksum


def link_checksums(chain: xxhash.xxh3_64, checksum: int) -> None:
    """Add one record's checksum to the chain that the trailer closes."""
    chain.update(_CHECKSUM.pack(checksum))


def _check_preamble(data: memoryview, path: Path) -> None:
    if len(data) < _PREAMBLE.size:
        raise CorruptImage(
            f"{path} ends after {len(data)} bytes, in its preamble.", DAMAGED
        )
    magic, version, checksum = _PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise CorruptImage(f"{path} is no file of jupyter-cr (magic, offset 0).", DAMAGED)
    if checksum != xxhash.xxh3_64_intdigest(data[: _PREAMBLE.size - _CHECKSUM.size]):
        raise CorruptImage(f"{path}: the preamble (offset 0) is damaged.", DAMAGED)
    if version > VERSION:
        raise FutureImage(
            f"{path} has format version {version}; this release reads up to {VERSION}.",
            "Use the release of jupyter-cr that wrote it, or a later one.",
        )
    if version < OLDEST:
        raise CorruptImage(
            f"{path} has format version {version}, which was in no release.", DAMAGED
        )


def _frame_at(data: memoryview, index: int, offset: int, path: Path) -> Frame:
    where = f"{path}: record {index} at offset {offset}"
    if len(data) - offset < _HEAD.size:
        raise CorruptImage(f"{where} is missing: the file ends at {len(data)}.", DAMAGED)
    type_number, length, checksum = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    if len(data) - start < length:
        raise CorruptImage(f"{where} is cut short: the file ends at {len(data)}.", DAMAGED)
    payload = data[start : start + length]
    if _checksum(type_number, payload) != checksum:
        raise CorruptImage(f"{where} does not match its checksum.", DAMAGED)
    return Frame(index, offset, type_number, checksum, payload)


def _check_trailer(frame: Frame, chain: int, end: int, path: Path) -> None:
    where = f"{path}: the trailer at offset {frame.offset}"
    try:
        trailer = msgspec.msgpack.decode(frame.payload, type=Trailer)
    except msgspec.MsgspecError as error:
        raise CorruptImage(f"{where} cannot be decoded: {error}.", DAMAGED) from error
    if trailer != Trailer(frame.index, frame.offset, chain):
        raise CorruptImage(
            f"{where} tells of {trailer.records} records and {trailer.offset} bytes; "
            f"there are {frame.index} and {frame.offset}, or they are others.",
            DAMAGED,
        )
    if end != frame.offset + _HEAD.size + len(frame.payload):
        raise CorruptImage(f"{where} is not the end of the file ({end} bytes).", DAMAGED)


def iter_frames(data: memoryview, path: Path) -> Iterator[Frame]:
    """All records of a file, each checked; the trailer is checked, not given.

    Args:
        data: the whole file.
        path: where it is, for messages.

    Raises:
        CorruptImage: names the file, the record and its offset.
        FutureImage: a later format version.
    """
    _check_preamble(data, path)
    chain = xxhash.xxh3_64()
    offset = _PREAMBLE.size
    index = 0
    while True:
        frame = _frame_at(data, index, offset, path)
        if frame.type == TRAILER_TYPE:
            _check_trailer(frame, chain.intdigest(), len(data), path)
            return
        link_checksums(chain, frame.checksum)
        yield frame
        index += 1
        offset += _HEAD.size + len(frame.payload)
