"""Pages in packs: each is stored once, and what is damaged is noticed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from jupyter_cr.errors import CorruptImage, ImageError
from jupyter_cr.image import ImageReader
from jupyter_cr.image.codecs import DROPPED, LZ4, RAW
from jupyter_cr.image.pack import BLOCK_PAGES, Pack, drop_blocks
from tests.image.images import (
    PAGE,
    AllPacks,
    begin_image,
    flip,
    index_of,
    open_descriptors,
    open_image,
    pack_of,
    packs_of,
    write_image,
)

BLOCK = BLOCK_PAGES * PAGE
TEXT = b"".join(b"line %09d of many\n" % number for number in range(20000))[: 100 * PAGE]


def stored_bytes(directory: Path) -> int:
    return pack_of(directory).stat().st_size


def contents(reader: ImageReader) -> bytes:
    return reader.read(0, reader.page_bytes)


def test_equal_pages_are_stored_once(tmp_path: Path) -> None:
    page = os.urandom(PAGE)
    others = os.urandom(3 * PAGE)
    with open_image(write_image(tmp_path / "one", page * 1000 + others + page)) as reader:
        assert contents(reader) == page * 1000 + others + page
    assert stored_bytes(tmp_path / "one") == 4 * PAGE


def test_zeros_are_not_stored(tmp_path: Path) -> None:
    with open_image(write_image(tmp_path / "one", bytes(5000 * PAGE))) as reader:
        assert contents(reader) == bytes(5000 * PAGE)
        (piece,) = reader.pieces(0, reader.page_bytes)
        assert piece.is_zeros
        assert reader.zero_bytes == 5000 * PAGE
    assert os.listdir(packs_of(tmp_path / "one")) == []


def test_what_packs_well_is_packed(tmp_path: Path) -> None:
    data = TEXT + os.urandom(BLOCK)
    with open_image(write_image(tmp_path / "one", data)) as reader:
        assert contents(reader) == data
        reader.verify_pages()
    assert stored_bytes(tmp_path / "one") < len(TEXT) / 2 + 2 * BLOCK
    with Pack(packs_of(tmp_path / "one"), "one") as pack:
        assert {block.codec for block in pack.blocks} == {RAW, LZ4}


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_appends_is_read_as_it_was_written(
    tmp_path: Path, seed: int
) -> None:
    """With an earlier image, of which parts are taken over, and other packs."""
    chance = random.Random(seed)
    pool = [chance.randbytes(PAGE) for _ in range(200)] + [bytes(PAGE), TEXT[:PAGE]]

    def some_pages(most: int) -> bytes:
        return b"".join(chance.choices(pool, k=chance.randrange(1, most)))

    base_pages = some_pages(1000)
    write_image(tmp_path / "base", base_pages)
    expected = bytearray()
    before = open_descriptors()
    with (
        open_image(tmp_path / "base") as base,
        begin_image(tmp_path / "two", base=base, known=AllPacks(tmp_path / "packs")) as w,
    ):
        for _ in range(chance.randrange(60)):
            if chance.random() < 0.5:
                data = some_pages(100)
                data = data[: chance.choice([len(data), len(data) - 7, 1])]
                assert w.append(data) == len(expected)
                expected += data + bytes(-len(data) % PAGE)
            else:
                total = len(base_pages) // PAGE
                first = chance.randrange(total)
                end = chance.randrange(first, total) + 1
                assert w.append_unchanged(first * PAGE, (end - first) * PAGE) == len(
                    expected
                )
                expected += base_pages[first * PAGE : end * PAGE]
        w.commit(durable=False)
    with open_image(tmp_path / "two") as reader:
        assert contents(reader) == expected
        for _ in range(10):
            start = chance.randrange(len(expected) + 1)
            length = chance.randrange(len(expected) - start + 1)
            assert reader.read(start, length) == expected[start : start + length]
            assert by_pieces(reader, start, length) == expected[start : start + length]
        reader.check(0, len(expected))
        reader.verify_pages()
    assert open_descriptors() <= before


def by_pieces(reader: ImageReader, start: int, length: int) -> bytes:
    found = bytearray()
    for piece in reader.pieces(start, length):
        assert piece.offset == start + len(found)
        if piece.is_zeros:
            found += bytes(piece.length)
        elif piece.unpack is not None:
            data = piece.unpack()
            assert len(data) == piece.length
            found += data
        else:
            found += os.pread(piece.fd, piece.length, piece.at)
    return bytes(found)


def test_a_second_image_stores_what_has_changed(tmp_path: Path) -> None:
    first = os.urandom(4000 * PAGE)
    changed = bytearray(first)
    for page in range(0, 4000, 100):
        changed[page * PAGE] ^= 1
    write_image(tmp_path / "one", first)
    known = AllPacks(tmp_path / "packs")
    write_image(tmp_path / "two", bytes(changed), known=known)
    assert stored_bytes(tmp_path / "two") == 40 * PAGE
    assert known.asked
    shutil.rmtree(tmp_path / "one")
    with open_image(tmp_path / "two") as reader:
        assert contents(reader) == changed
        assert set(reader.usage) == {"one", "two"}


def test_with_another_seed_pages_have_other_hashes(tmp_path: Path) -> None:
    """So nobody can prepare pages that a store takes for one."""
    pages = os.urandom(40 * PAGE)
    write_image(tmp_path / "one", pages)
    with Pack(packs_of(tmp_path / "one"), "one") as pack:
        ours = set(pack.hashes)
    import xxhash

    assert not ours & {xxhash.xxh3_128_digest(pages[:PAGE], 0)}


def test_a_damaged_index_of_another_pack_costs_space_only(tmp_path: Path) -> None:
    pages = os.urandom(2000 * PAGE)
    write_image(tmp_path / "one", pages)
    flip(index_of(tmp_path / "one"), 100)
    write_image(tmp_path / "two", pages, known=AllPacks(tmp_path / "packs"))
    with open_image(tmp_path / "two") as reader:
        assert contents(reader) == pages
        assert set(reader.usage) == {"two"}


@pytest.mark.parametrize("position", [0, BLOCK - 1, BLOCK, 3 * BLOCK + 4])
def test_a_flipped_byte_names_its_block(tmp_path: Path, position: int) -> None:
    write_image(tmp_path / "one", os.urandom(3 * BLOCK + PAGE))
    flip(pack_of(tmp_path / "one"), position)
    number = position // BLOCK
    said = rf"one\.pack: block {number} at offset {number * BLOCK} does not match"
    with open_image(tmp_path / "one") as reader:
        for check in (
            reader.verify_pages,
            reader.verify_raw,
            lambda: reader.check(position, 1),
            lambda: reader.read(position, 1),
        ):
            with pytest.raises(CorruptImage, match=said):
                check()


def test_a_flipped_byte_of_what_is_packed_is_noticed(tmp_path: Path) -> None:
    write_image(tmp_path / "one", TEXT)
    flip(pack_of(tmp_path / "one"), 50)
    with open_image(tmp_path / "one") as reader:
        with pytest.raises(CorruptImage, match="block 0 at offset 0 does not match"):
            reader.read(0, 1)
        with pytest.raises(CorruptImage, match="block 0 at offset 0 does not match"):
            reader.check(0, 1)


def test_every_flipped_byte_of_an_index_is_noticed(tmp_path: Path) -> None:
    write_image(tmp_path / "one", TEXT[: 40 * PAGE])
    path = index_of(tmp_path / "one")
    sound = path.read_bytes()
    for position in range(len(sound)):
        flip(path, position)
        with (
            open_image(tmp_path / "one") as reader,
            pytest.raises(ImageError, match="index"),
        ):
            reader.verify_pages()
        flip(path, position)
    assert path.read_bytes() == sound


@pytest.mark.parametrize("change", [-1, 1, -BLOCK, BLOCK])
def test_a_pack_of_another_length_is_noticed(tmp_path: Path, change: int) -> None:
    path = pack_of(write_image(tmp_path / "one", os.urandom(2 * BLOCK)))
    os.truncate(path, 2 * BLOCK + change)
    said = f"it should have {2 * BLOCK}"
    with open_image(tmp_path / "one") as reader, pytest.raises(CorruptImage, match=said):
        reader.read(0, 1)


@pytest.mark.parametrize("of", [pack_of, index_of])
def test_a_missing_pack_is_damage(tmp_path: Path, of: object) -> None:
    assert callable(of)
    path = of(write_image(tmp_path / "one", os.urandom(BLOCK)))
    path.unlink()
    with open_image(tmp_path / "one") as reader:
        before = open_descriptors()
        with pytest.raises(
            CorruptImage, match=rf"{path.name} cannot be read: No such file"
        ):
            reader.verify_pages()
        assert open_descriptors() == before


def test_pages_that_a_pack_has_not_got(tmp_path: Path) -> None:
    write_image(tmp_path / "one", os.urandom(100 * PAGE))
    write_image(tmp_path / "two", os.urandom(10 * PAGE))
    for of in (pack_of, index_of):
        of(tmp_path / "two").replace(of(tmp_path / "one"))
    with (
        open_image(tmp_path / "one") as reader,
        pytest.raises(CorruptImage, match=r"needs page 99 of .*one\.pack, which has 10"),
    ):
        reader.verify_pages()


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_blocks_that_nobody_needs_are_dropped(tmp_path: Path) -> None:
    data = TEXT * 4 + os.urandom(64 * BLOCK)
    write_image(tmp_path / "one", data)
    write_image(tmp_path / "two", data[-10 * BLOCK :], known=AllPacks(tmp_path / "packs"))
    with open_image(tmp_path / "two") as two:
        needed = two.usage["one"]
    before = on_disk(pack_of(tmp_path / "one"))
    freed = drop_blocks(packs_of(tmp_path / "one"), "one", needed)
    after = on_disk(pack_of(tmp_path / "one"))
    assert freed == before - after
    assert after <= 12 * BLOCK
    with open_image(tmp_path / "two") as two:
        assert contents(two)[-10 * BLOCK :] == data[-10 * BLOCK :]
        two.verify_pages()
    said = "block 0 at offset 0 has been dropped"
    with open_image(tmp_path / "one") as one, pytest.raises(CorruptImage, match=said):
        one.read(0, 1)
    with Pack(packs_of(tmp_path / "one"), "one") as pack:
        kept = sum(b.pages for b in pack.blocks if b.codec != DROPPED)
        assert len(pack.hashes) == kept
    assert drop_blocks(packs_of(tmp_path / "one"), "one", needed) == 0


def test_what_was_interrupted_before_its_holes_were_made_is_brought_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "one", os.urandom(8 * BLOCK))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jupyter_cr.image.pack.fallocate_punch", die)
        with pytest.raises(KeyboardInterrupt):
            drop_blocks(packs_of(tmp_path / "one"), "one", [(0, 1)])
    assert drop_blocks(packs_of(tmp_path / "one"), "one", [(0, 1)]) == 7 * BLOCK
    with open_image(tmp_path / "one") as reader:
        reader.check(0, PAGE)


def test_a_pack_that_is_being_read_may_lose_blocks(tmp_path: Path) -> None:
    """Whoever reads has the index of before; of what it needs, nothing is taken."""
    data = os.urandom(8 * BLOCK)
    write_image(tmp_path / "one", data)
    with open_image(tmp_path / "one") as reader:
        assert reader.read(0, 1) == data[:1]
        drop_blocks(packs_of(tmp_path / "one"), "one", [(0, BLOCK_PAGES)])
        assert reader.read(0, BLOCK) == data[:BLOCK]
