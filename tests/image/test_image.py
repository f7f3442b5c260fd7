"""Writing and reading images; what is damaged is noticed, wherever the damage is."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import xxhash

from jupyter_cr.errors import CorruptImage, FutureImage, NoSuchSnapshot, StorageError
from jupyter_cr.image import Document, ImageWriter, Outcome, records
from jupyter_cr.image.frame import MAGIC, encode_frame, encode_preamble
from jupyter_cr.image.page_map import PageExtents
from jupyter_cr.image.record_file import RecordEncoder
from jupyter_cr.image.records import RECORDS, class_of, number_of
from tests.image.images import (
    HEADER,
    OUTCOME,
    begin_image,
    open_descriptors,
    open_image,
    packs_of,
    read_all,
    write_image,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pages = os.urandom((2 << 20) + 5)
    before = open_descriptors()
    directory = write_image(tmp_path / "one", pages, durable=True)
    with open_image(directory) as reader:
        assert reader.header == HEADER
        assert reader.outcome == OUTCOME
        assert list(reader.records(Outcome)) == [OUTCOME]
        assert reader.read(0, len(pages)) == pages
        assert reader.read(len(pages), 4091) == bytes(4091)
        assert reader.page_bytes == (2 << 20) + 4096
        reader.verify_pages()
        header, outcome, extents = reader
    assert (header, outcome) == (HEADER, OUTCOME)
    assert isinstance(extents, PageExtents)
    assert extents.packs == ("one",)
    assert open_descriptors() == before


def test_the_grammar_is_the_one_in_the_documentation(tmp_path: Path) -> None:
    data = (write_image(tmp_path / "one", b"abc") / "manifest").read_bytes()
    magic, version, checksum = struct.unpack_from("<8sIQ", data)
    assert (magic, version) == (b"\x89JCR\r\n\x1a\n", 2)
    assert checksum == xxhash.xxh3_64_intdigest(data[:12])
    offset, types, sums = 20, [], b""
    while offset < len(data):
        number, length, checksum = struct.unpack_from("<HIQ", data, offset)
        payload = data[offset + 14 : offset + 14 + length]
        assert checksum == xxhash.xxh3_64_intdigest(data[offset : offset + 6] + payload)
        types.append(number)
        if number == 0xFFFF:
            assert msgspec.msgpack.decode(payload) == [
                3,
                offset,
                xxhash.xxh3_64_intdigest(sums),
            ]
        sums += struct.pack("<Q", checksum)
        offset += 14 + length
    assert types == [1, 3, 12, 0xFFFF]


@pytest.mark.parametrize("number", RECORDS)
def test_every_number_stands_for_a_record_class(number: int) -> None:
    assert 0 < number < 0xFFFF
    assert issubclass(class_of(number), msgspec.Struct)
    assert number_of(class_of(number)) == number
    msgspec.msgpack.Decoder(class_of(number))


def test_a_class_without_a_number_is_a_bug(tmp_path: Path) -> None:
    with begin_image(tmp_path / "one") as writer, pytest.raises(KeyError, match="Later"):
        writer.add(Later(1))


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one", b"abc")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = [*directory.iterdir(), *packs_of(directory).iterdir()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one", b"abc")
    path = directory / "manifest"
    sound = path.read_bytes()
    for position in range(len(sound)):
        for bit in range(8):
            damaged = bytearray(sound)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises((CorruptImage, FutureImage), match="manifest"):
                read_all(directory)
    path.write_bytes(sound)
    read_all(directory)


def test_every_overwritten_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    sound = path.read_bytes()
    for position, value in enumerate(sound):
        for other in {0x00, 0xFF, value ^ 0xFF} - {value}:
            path.write_bytes(sound[:position] + bytes([other]) + sound[position + 1 :])
            with pytest.raises((CorruptImage, FutureImage), match="manifest"):
                read_all(directory)


def test_a_manifest_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one", b"abc")
    path = directory / "manifest"
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(CorruptImage, match=r"manifest.*(ends|missing|cut)"):
            read_all(directory)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 14, b"x" * 100])
def test_anything_after_the_trailer_is_noticed(tmp_path: Path, tail: bytes) -> None:
    directory = write_image(tmp_path / "one")
    with (directory / "manifest").open("ab") as file:
        file.write(tail)
    with pytest.raises(CorruptImage, match="not the end"):
        read_all(directory)


def split_frames(data: bytes) -> list[bytes]:
    frames, offset = [], 20
    while offset < len(data):
        end = offset + 14 + struct.unpack_from("<HI", data, offset)[1]
        frames.append(data[offset:end])
        offset = end
    return frames


@pytest.mark.parametrize(
    "order", [(0, 2, 3), (0, 1, 1, 2, 3), (0, 2, 1, 3), (3,), (1, 2, 3)]
)
def test_records_lost_doubled_or_moved_are_noticed(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    data = path.read_bytes()
    frames = split_frames(data)
    path.write_bytes(data[:20] + b"".join(frames[i] for i in order))
    with pytest.raises(CorruptImage, match=r"trailer at offset \d+ tells of"):
        read_all(directory)


def test_a_later_version_is_named(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    path.write_bytes(encode_preamble(7) + path.read_bytes()[20:])
    with pytest.raises(
        FutureImage, match="version 7; this release reads up to 2"
    ) as caught:
        read_all(directory)
    assert "later" in caught.value.hint


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_that_was_in_no_release(tmp_path: Path, version: int) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    path.write_bytes(encode_preamble(version) + path.read_bytes()[20:])
    with pytest.raises(CorruptImage, match=f"version {version}, which was in no release"):
        read_all(directory)


class Later(msgspec.Struct):
    """A record of a release to come."""

    value: int


def number_as(patch: pytest.MonkeyPatch, cls: type[msgspec.Struct], number: int) -> None:
    name = f"{cls.__module__}:{cls.__qualname__}"
    patch.setitem(vars(records)["_NUMBERS"], name, number)


def test_an_unknown_record_is_of_a_later_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        number_as(patch, Later, 999)
        with begin_image(tmp_path / "one") as writer:
            writer.add(Later(1))
            writer.commit(durable=False)
    with pytest.raises(FutureImage, match=r"record 1 at offset \d+ is of type 999"):
        open_image(tmp_path / "one")


def test_a_record_that_is_not_what_its_class_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        number_as(patch, Later, number_of(Outcome))
        with begin_image(tmp_path / "one") as writer:
            writer.add(Later(1))
            writer.commit(durable=False)
    with open_image(tmp_path / "one") as reader:
        assert reader.header == HEADER
        with pytest.raises(CorruptImage, match=r"record 1 at offset \d+ is no Outcome"):
            list(reader)


def test_a_manifest_needs_its_header_and_its_page_map(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    encoder = RecordEncoder()
    encoder.add(OUTCOME)
    path.write_bytes(encoder.whole())
    with pytest.raises(CorruptImage, match="the first record is no Header"):
        open_image(directory)
    encoder = RecordEncoder()
    encoder.add(HEADER)
    path.write_bytes(encoder.whole())
    with pytest.raises(CorruptImage, match="0 records are a PageExtents"):
        open_image(directory)


@pytest.mark.parametrize(
    ("packed", "what"),
    [
        (b"x" * 11, "11 bytes are no extents"),
        (struct.pack("<III", 0, 0, 0), "empty"),
        (struct.pack("<III", 1, 1, 0), "pack 1 is not listed"),
    ],
)
def test_a_page_map_that_makes_no_sense(tmp_path: Path, packed: bytes, what: str) -> None:
    directory = write_image(tmp_path / "one")
    encoder = RecordEncoder()
    encoder.add(HEADER)
    encoder.add(PageExtents(packs=("one",), packed=packed))
    (directory / "manifest").write_bytes(encoder.whole())
    with pytest.raises(CorruptImage, match=rf"manifest: .*{what}"):
        open_image(directory)


@pytest.mark.parametrize(
    "name", ["../one", "/etc/passwd", "a/b", ".", "a\0b", "ä", "x" * 99]
)
def test_a_pack_is_in_its_directory(tmp_path: Path, name: str) -> None:
    """Wherever a manifest would send its reader."""
    directory = write_image(tmp_path / "one")
    encoder = RecordEncoder()
    encoder.add(HEADER)
    encoder.add(PageExtents(packs=(name,), packed=struct.pack("<III", 1, 0, 0)))
    (directory / "manifest").write_bytes(encoder.whole())
    with pytest.raises(CorruptImage, match=r"manifest: .*is no pack's name"):
        open_image(directory)


def test_a_missing_manifest_is_damage(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    (directory / "manifest").unlink()
    before = open_descriptors()
    with pytest.raises(CorruptImage, match=r"manifest is missing"):
        open_image(directory)
    assert open_descriptors() == before


def test_a_file_that_is_no_manifest(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    for content in (b"", MAGIC, b"\x7fELF" + bytes(100), MAGIC.replace(b"\r\n", b"\n") * 9):
        (directory / "manifest").write_bytes(content)
        with pytest.raises(CorruptImage):
            open_image(directory)


def test_no_such_snapshot(tmp_path: Path) -> None:
    with pytest.raises(NoSuchSnapshot):
        open_image(tmp_path / "none")


def test_nothing_is_left_of_what_was_not_committed(tmp_path: Path) -> None:
    before = open_descriptors()
    with begin_image(tmp_path / "one"):
        pass
    with suppress(KeyError), begin_image(tmp_path / "one") as writer:
        writer.append(os.urandom(9 << 20))
        writer.publish()
        raise KeyError
    assert os.listdir(tmp_path) == ["packs"]
    assert os.listdir(tmp_path / "packs") == []
    assert open_descriptors() == before


def test_a_published_image_has_all_but_its_pages(tmp_path: Path) -> None:
    with begin_image(tmp_path / "one") as writer:
        writer.add(OUTCOME)
        writer.publish()
        with open_image(tmp_path / "one") as reader:
            assert not reader.is_complete
            assert list(reader) == [HEADER, OUTCOME]
            assert reader.page_bytes == 0
            with pytest.raises(CorruptImage, match="there are 0 pages"):
                reader.read(0, 4096)
        writer.append(b"x")
        writer.commit(durable=False)
    with open_image(tmp_path / "one") as reader:
        assert reader.is_complete
        assert reader.read(0, 2) == b"x\0"
    assert os.listdir(tmp_path / "one") == ["manifest"]


def test_attached_files_are_beside_the_image(tmp_path: Path) -> None:
    with begin_image(tmp_path / "one") as writer:
        writer.attach("twins", b"first")
        writer.commit(durable=False)
        writer.attach("twins", b"second")
    assert (tmp_path / "one" / "twins").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path / "one")) == ["manifest", "twins"]
    read_all(tmp_path / "one")


def test_large_manifests_are_written_in_order(tmp_path: Path) -> None:
    with begin_image(tmp_path / "one") as writer:
        for number in range(3000):
            writer.add(Outcome(downtime_ms=number, elapsed_ms=0, bytes=number << 30))
        writer.add(Document(content=b"x" * (1 << 20)))
        writer.commit(durable=False)
    with open_image(tmp_path / "one") as reader:
        assert [o.downtime_ms for o in reader.records(Outcome)] == list(range(3000))


def test_no_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as caught:
        ImageWriter(tmp_path / "one", tmp_path / "missing", seed=1)
    assert "JUPYTER_CR_HOME" in caught.value.hint


def test_a_record_of_4_gib_is_refused_before_it_is_hashed() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(OverflowError):
        encode_frame(1, Huge())


DISK_FULL = """
import os, sys
from pathlib import Path
from msgspec import structs
from jupyter_cr.errors import StorageError
from tests.image.images import HEADER, begin_image, write_image

disk, what = Path(sys.argv[1]), sys.argv[2]
try:
    with begin_image(disk / "one") as writer:
        if what == "manifest":
            for _ in range(300):
                writer.add(structs.replace(HEADER, note="x" * 10_000))
        else:
            while True:
                writer.append(os.urandom(65536))
        writer.commit()
except StorageError as error:
    assert "No space left" in error.message, error.message
    assert str(disk) in error.message, error.message
    assert "jupyter cr rm" in error.hint
else:
    sys.exit("the disk was not full")
assert os.listdir(disk) == ["packs"], os.listdir(disk)
assert os.listdir(disk / "packs") == [], os.listdir(disk / "packs")
write_image(disk / "one", b"there is room again")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
@pytest.mark.parametrize("what", ["manifest", "pages"])
def test_a_full_disk(tmp_path: Path, what: str) -> None:
    script = tmp_path / "full.py"
    script.write_text(textwrap.dedent(DISK_FULL))
    disk = tmp_path / "disk"
    disk.mkdir()
    result = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" "$1" "$4"',
            *("sh", disk, sys.executable, script, what),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
