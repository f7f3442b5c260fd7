"""Images that somebody has made to do harm: with sound checksums, and nonsense in them.

Whatever they say, reading ends with an `ImageError` or with bytes, in no more memory than
the files have, and touches nothing but them.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_cr.errors import ImageError
from jupyter_cr.image.frame import TRAILER_TYPE, Trailer, encode_frame, encode_preamble
from jupyter_cr.image.pack import PackBlocks, PackPages
from jupyter_cr.image.page_map import PageExtents
from jupyter_cr.image.record_file import RecordEncoder, RecordFile
from jupyter_cr.image.records import RECORDS, number_of
from tests.image.images import (
    HEADER,
    PAGE,
    index_of,
    open_image,
    pack_of,
    packs_of,
    write_image,
)

often = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PAGES = bytes(range(256)) * 16 * 40


def read_or_refuse(directory: Path) -> None:
    """All that one can do with an image."""
    try:
        with open_image(directory) as reader:
            list(reader)
            size = min(reader.page_bytes, 1 << 20)
            for piece in reader.pieces(0, size):
                if piece.unpack is not None:
                    assert len(piece.unpack()) == piece.length
            reader.read(0, size)
            reader.check(0, size)
            reader.verify_pages()
    except ImageError as error:
        said = (error.message, error.hint)
        assert all(said)


def sound_file(frames: list[tuple[int, bytes]]) -> bytes:
    """A file of records with right checksums, whatever is in them."""
    import xxhash

    data = encode_preamble()
    chain = xxhash.xxh3_64()
    for number, payload in frames:
        head, checksum = encode_frame(number, payload)
        chain.update(struct.pack("<Q", checksum))
        data += head + payload
    trailer = msgspec.msgpack.encode(Trailer(len(frames), len(data), chain.intdigest()))
    return data + encode_frame(TRAILER_TYPE, trailer)[0] + trailer


@pytest.fixture(scope="module")
def directory() -> Path:
    with tempfile.TemporaryDirectory() as place:
        yield write_image(Path(place) / "one", PAGES)  # type: ignore[misc]


numbers = st.sampled_from([*RECORDS, 2, 999])
payloads = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.text(max_size=8)
        | st.binary(max_size=40),
        lambda inner: (
            st.lists(inner, max_size=6)
            | st.dictionaries(st.text(max_size=8), inner, max_size=6)
        ),
        max_leaves=20,
    ).map(msgspec.msgpack.encode),
)


@often
@given(st.binary(max_size=400))
def test_any_bytes_for_a_manifest(directory: Path, data: bytes) -> None:
    manifest = directory / "manifest"
    sound = manifest.read_bytes()
    try:
        manifest.write_bytes(data)
        read_or_refuse(directory)
    finally:
        manifest.write_bytes(sound)


@often
@given(st.lists(st.tuples(numbers, payloads), max_size=5), st.booleans())
def test_any_records_in_a_manifest(
    directory: Path, frames: list[tuple[int, bytes]], begins_well: bool
) -> None:
    manifest = directory / "manifest"
    sound = manifest.read_bytes()
    first = [(number_of(type(HEADER)), msgspec.msgpack.encode(HEADER))]
    try:
        manifest.write_bytes(sound_file(first * begins_well + frames))
        read_or_refuse(directory)
    finally:
        manifest.write_bytes(sound)


small = st.integers(0, 80) | st.integers(0, 0xFFFFFFFF)


@often
@given(st.lists(st.tuples(small, small, small), max_size=8))
def test_any_page_map(directory: Path, extents: list[tuple[int, int, int]]) -> None:
    manifest = directory / "manifest"
    sound = manifest.read_bytes()
    encoder = RecordEncoder()
    encoder.add(HEADER)
    packed = b"".join(struct.pack("<III", *extent) for extent in extents)
    encoder.add(PageExtents(packs=("one", "none"), packed=packed))
    try:
        manifest.write_bytes(encoder.whole())
        read_or_refuse(directory)
    finally:
        manifest.write_bytes(sound)


@often
@given(
    st.lists(
        st.tuples(st.integers(0, 255), small, st.integers(0, (1 << 64) - 1)), max_size=4
    ),
    st.integers(0, 200),
    st.binary(max_size=3 * PAGE),
    st.booleans(),
)
def test_any_index(
    directory: Path,
    blocks: list[tuple[int, int, int]],
    pages: int,
    data: bytes,
    fits: bool,
) -> None:
    """Of which the data is what it says, as far as its length goes."""
    index, pack = index_of(directory), pack_of(directory)
    sound = index.read_bytes(), pack.read_bytes()
    encoder = RecordEncoder()
    encoder.add(
        PackBlocks(
            codecs=bytes(codec for codec, _, _ in blocks),
            lengths=b"".join(struct.pack("<I", length) for _, length, _ in blocks),
            checksums=b"".join(struct.pack("<Q", checksum) for _, _, checksum in blocks),
        )
    )
    encoder.add(PackPages(hashes=bytes(16 * pages)))
    try:
        index.write_bytes(encoder.whole())
        if fits and (length := sum(length for _, length, _ in blocks)) < 1 << 20:
            data = data.ljust(length, b"x")[:length]
        pack.write_bytes(data)
        read_or_refuse(directory)
    finally:
        index.write_bytes(sound[0])
        pack.write_bytes(sound[1])


@often
@given(st.data())
def test_blocks_that_unpack_to_something_else(directory: Path, data: st.DataObject) -> None:
    """With a right checksum: LZ4 has to find out."""
    import xxhash

    index, pack = index_of(directory), pack_of(directory)
    sound = index.read_bytes(), pack.read_bytes()
    stored = data.draw(st.binary(min_size=1, max_size=300))
    encoder = RecordEncoder()
    encoder.add(
        PackBlocks(
            codecs=b"\x01",
            lengths=struct.pack("<I", len(stored)),
            checksums=struct.pack("<Q", xxhash.xxh3_64_intdigest(stored)),
        )
    )
    encoder.add(PackPages(hashes=bytes(16 * data.draw(st.integers(1, 32)))))
    try:
        index.write_bytes(encoder.whole())
        pack.write_bytes(stored)
        read_or_refuse(directory)
    finally:
        index.write_bytes(sound[0])
        pack.write_bytes(sound[1])


def test_nothing_of_it_is_left(directory: Path) -> None:
    """Of all that went before."""
    assert sorted(path.name for path in directory.iterdir()) == ["manifest"]
    assert sorted(path.name for path in packs_of(directory).iterdir()) == [
        "one.index",
        "one.pack",
    ]
    manifest = directory / "manifest"
    assert RecordFile(manifest.read_bytes(), manifest).first(type(HEADER)) == HEADER
