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

from jupyter_cr.errors import (
    CorruptImage,
    FutureImage,
    NoSuchSnapshot,
    StorageError,
)
from jupyter_cr.image import (
    Header,
    ImageReader,
    ImageWriter,
    KernelFacts,
    Outcome,
    PageBlocks,
    records,
)
from jupyter_cr.image.frame import MAGIC, encode_frame, encode_preamble
from jupyter_cr.image.records import RECORDS, class_of, number_of

HEADER = Header(
    name="one",
    note="größer",
    created="2026-01-02T03:04:05.000006+00:00",
    pid=123,
    comm="python3",
    kernel=KernelFacts(connection_file="/run/kernel-1.json", connection=b"{}"),
    release="6.1",
    machine="x86_64",
    tool="0.1.0",
)
OUTCOME = Outcome(downtime_ms=12.5, elapsed_ms=80.0, bytes=4096)


def new(directory: Path) -> Path:
    """Made, as a store would."""
    directory.mkdir(mode=0o700)
    return directory


def write_image(directory: Path, pages: bytes = b"", *, durable: bool = False) -> Path:
    with ImageWriter(new(directory)) as writer:
        writer.add(HEADER)
        os.pwrite(writer.pages_fd, pages, 0)
        writer.add(OUTCOME)
        writer.commit(durable=durable)
    return directory


def read_all(directory: Path) -> list[msgspec.Struct]:
    with ImageReader(directory) as reader:
        reader.verify_pages()
        return list(reader)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pages = os.urandom((2 << 20) + 5)
    before = open_descriptors()
    directory = write_image(tmp_path / "one", pages, durable=True)
    with ImageReader(directory) as reader:
        assert reader.header == HEADER
        assert reader.outcome == OUTCOME
        assert list(reader.records(Outcome)) == [OUTCOME]
        assert os.pread(reader.pages_fd, len(pages) + 1, 0) == pages
        reader.verify_pages()
        header, outcome, blocks = reader
    assert (header, outcome) == (HEADER, OUTCOME)
    assert isinstance(blocks, PageBlocks)
    assert blocks.length == len(pages)
    assert open_descriptors() == before


def test_the_grammar_is_the_one_in_the_documentation(tmp_path: Path) -> None:
    data = (write_image(tmp_path / "one", b"abc") / "manifest").read_bytes()
    magic, version, checksum = struct.unpack_from("<8sIQ", data)
    assert (magic, version) == (b"\x89JCR\r\n\x1a\n", 1)
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
    assert types == [1, 3, 2, 0xFFFF]


@pytest.mark.parametrize("number", RECORDS)
def test_every_number_stands_for_a_record_class(number: int) -> None:
    assert 0 < number < 0xFFFF
    assert issubclass(class_of(number), msgspec.Struct)
    assert number_of(class_of(number)) == number
    msgspec.msgpack.Decoder(class_of(number))


def test_a_class_without_a_number_is_a_bug(tmp_path: Path) -> None:
    with (
        ImageWriter(new(tmp_path / "one")) as writer,
        pytest.raises(KeyError, match="Later"),
    ):
        writer.add(Later(1))


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one", b"abc")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_pages_hashed_behind_the_writing_are_the_same(tmp_path: Path, length: int) -> None:
    pages = os.urandom(length)
    with ImageWriter(new(tmp_path / "behind")) as writer:
        writer.add(HEADER)
        for start in range(0, length, 700_000):
            os.pwrite(writer.pages_fd, pages[start : start + 700_000], start)
            writer.advance(min(start + 700_000, length))
        writer.commit(durable=False)
    write_image(tmp_path / "after", pages)
    assert read_all(tmp_path / "behind")[-1] == read_all(tmp_path / "after")[-1]


def test_advancing_past_the_end_is_an_error(tmp_path: Path) -> None:
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.advance(1 << 20)
        with pytest.raises(StorageError, match="too early"):
            writer.commit()
    assert os.listdir(tmp_path) == []


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
        FutureImage, match="version 7; this release reads up to 1"
    ) as caught:
        read_all(directory)
    assert "later" in caught.value.hint


def test_version_zero_never_was(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    path = directory / "manifest"
    path.write_bytes(encode_preamble(0) + path.read_bytes()[20:])
    with pytest.raises(CorruptImage, match="version 0"):
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
        with ImageWriter(new(tmp_path / "one")) as writer:
            writer.add(HEADER)
            writer.add(Later(1))
            writer.commit(durable=False)
    with pytest.raises(FutureImage, match=r"record 1 at offset \d+ is of type 999"):
        ImageReader(tmp_path / "one")


def test_a_record_that_is_not_what_its_class_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        number_as(patch, Later, number_of(Outcome))
        with ImageWriter(new(tmp_path / "one")) as writer:
            writer.add(HEADER)
            writer.add(Later(1))
            writer.commit(durable=False)
    with ImageReader(tmp_path / "one") as reader:
        assert reader.header == HEADER
        with pytest.raises(CorruptImage, match=r"record 1 at offset \d+ is no Outcome"):
            list(reader)


def test_a_manifest_needs_its_header_and_its_page_blocks(tmp_path: Path) -> None:
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.add(OUTCOME)
        writer.commit(durable=False)
    with pytest.raises(CorruptImage, match="no Header"):
        ImageReader(tmp_path / "one")


@pytest.mark.parametrize("position", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 4])
def test_a_flipped_byte_of_the_pages_names_its_block(tmp_path: Path, position: int) -> None:
    directory = write_image(tmp_path / "one", os.urandom((3 << 20) + 5))
    with (directory / "pages").open("r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ 0x10]))
    with ImageReader(directory) as reader:
        block = position >> 20
        with pytest.raises(CorruptImage, match=rf"block {block} at offset {block << 20} "):
            reader.verify_pages()


@pytest.mark.parametrize("change", [-1, 1, -(1 << 20), 1 << 20])
def test_pages_of_another_length_are_noticed_when_opened(
    tmp_path: Path, change: int
) -> None:
    directory = write_image(tmp_path / "one", bytes(2 << 20))
    os.truncate(directory / "pages", (2 << 20) + change)
    with pytest.raises(CorruptImage, match=f"it should have {2 << 20}"):
        ImageReader(directory)


@pytest.mark.parametrize("name", ["manifest", "pages"])
def test_a_missing_file_is_damage(tmp_path: Path, name: str) -> None:
    directory = write_image(tmp_path / "one")
    (directory / name).unlink()
    before = open_descriptors()
    with pytest.raises(CorruptImage, match=name):
        ImageReader(directory)
    assert open_descriptors() == before


def test_a_file_that_is_no_manifest(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    for content in (b"", MAGIC, b"\x7fELF" + bytes(100), MAGIC.replace(b"\r\n", b"\n") * 9):
        (directory / "manifest").write_bytes(content)
        with pytest.raises(CorruptImage):
            ImageReader(directory)


def test_no_such_snapshot(tmp_path: Path) -> None:
    with pytest.raises(NoSuchSnapshot):
        ImageReader(tmp_path / "none")


def test_the_manifest_appears_when_all_is_there(tmp_path: Path) -> None:
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.add(HEADER)
        with pytest.raises(CorruptImage, match="is missing"):
            ImageReader(tmp_path / "one")
        assert not writer.committed
        writer.commit()
        assert writer.committed
        read_all(tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == ["manifest", "pages"]


def test_a_directory_in_which_somebody_has_written_is_refused(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "one")
    with pytest.raises(StorageError, match="File exists"):
        ImageWriter(directory)
    read_all(directory)


def test_nothing_is_left_of_what_was_not_committed(tmp_path: Path) -> None:
    before = open_descriptors()
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.add(HEADER)
    with suppress(KeyError), ImageWriter(new(tmp_path / "one")) as writer:
        os.pwrite(writer.pages_fd, bytes(3 << 20), 0)
        writer.advance(3 << 20)
        raise KeyError
    assert os.listdir(tmp_path) == []
    assert open_descriptors() == before


def test_attached_files_are_beside_the_image(tmp_path: Path) -> None:
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.add(HEADER)
        writer.attach("twins", b"first")
        writer.commit(durable=False)
        writer.attach("twins", b"second")
    assert (tmp_path / "one" / "twins").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path / "one")) == ["manifest", "pages", "twins"]
    read_all(tmp_path / "one")


def test_large_manifests_are_written_in_order(tmp_path: Path) -> None:
    with ImageWriter(new(tmp_path / "one")) as writer:
        writer.add(HEADER)
        for number in range(3000):
            writer.add(Outcome(downtime_ms=number, elapsed_ms=0, bytes=number << 30))
        writer.add(Header(**{**msgspec.structs.asdict(HEADER), "note": "x" * (1 << 20)}))
        writer.commit(durable=False)
    with ImageReader(tmp_path / "one") as reader:
        assert [o.downtime_ms for o in reader.records(Outcome)] == list(range(3000))


def test_no_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as caught:
        ImageWriter(tmp_path / "missing")
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
from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import StorageError
from jupyter_cr.image import ImageWriter
from tests.image.test_image import HEADER, new, write_image

disk, what = Path(sys.argv[1]), sys.argv[2]
try:
    with ImageWriter(new(disk / "one")) as writer:
        writer.add(HEADER)
        if what == "manifest":
            for _ in range(300):
                writer.add(structs.replace(HEADER, note="x" * 10_000))
        else:
            with storage_errors(writer.directory / "pages"):
                while True:
                    os.write(writer.pages_fd, b"x" * 65536)
        writer.commit()
except StorageError as error:
    assert "No space left" in error.message, error.message
    assert str(disk) in error.message, error.message
    assert "jupyter cr rm" in error.hint
else:
    sys.exit("the disk was not full")
assert os.listdir(disk) == [], os.listdir(disk)
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
