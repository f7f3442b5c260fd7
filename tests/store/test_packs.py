"""Packs in a store: snapshots share them, and what nobody needs goes."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import pytest

from jupyter_cr.store import Store
from tests.store.harness import fill, header, pack_of, program, take, wait_for_line

PAGE = 4096
MANY = 2000
"""Pages enough for some samples."""


def packs(store: Store) -> list[str]:
    return sorted(os.listdir(store.root / "packs"))


def content(store: Store, name: str) -> bytes:
    with store.open(name) as reader:
        reader.verify_pages()
        return reader.read(0, reader.page_bytes)


def test_equal_pages_are_stored_once(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    first = take(store, "one", pages=pages)
    other = pages[: MANY // 2 * PAGE] + os.urandom(10 * PAGE)
    take(store, "two", pages=other)
    assert pack_of(store.path("two")).stat().st_size == 10 * PAGE
    one, two = store.summary("one"), store.summary("two")
    assert one.own >= MANY * PAGE
    assert one.shared == 0
    assert two.own < 30 * PAGE
    assert two.shared == MANY // 2 * PAGE
    assert two.bytes == two.own + two.shared
    assert content(store, "two") == other
    assert content(store, "one") == pages
    assert first.name in {path.split(".")[0] for path in packs(store)}


def test_whatever_is_removed_the_others_are_whole(store: Store) -> None:
    chance = random.Random(7)
    pages = bytearray(chance.randbytes(MANY * PAGE))
    expected = {}
    for number in range(8):
        at = chance.randrange(MANY - 300) * PAGE
        pages[at : at + 300 * PAGE] = chance.randbytes(300 * PAGE)
        expected[str(number)] = bytes(pages)
        take(store, str(number), pages=bytes(pages))
    names = list(expected)
    chance.shuffle(names)
    while names:
        before = usage(store.root)
        freed = store.remove([names.pop()]).bytes
        assert freed == before - usage(store.root)
        for name in names:
            assert content(store, name) == expected[name]
    assert packs(store) == []
    assert store.gc().bytes == 0


def usage(root: Path) -> int:
    """Bytes on disk of images and packs."""
    parts = (root / "snapshots", root / "packs")
    files = (path for part in parts for path in part.rglob("*") if path.is_file())
    return sum(path.stat().st_blocks * 512 for path in files)


def test_what_nobody_needs_of_a_pack_goes(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    pack = pack_of(take(store, "one", pages=pages))
    part = pages[: MANY // 4 * PAGE]
    take(store, "two", pages=part)
    assert not pack_of(store.path("two")).exists()
    freed = store.remove(["one"])
    assert freed.bytes >= (MANY * 3 // 4 - 32) * PAGE
    assert pack.stat().st_blocks * 512 <= (MANY // 4 + 64) * PAGE
    assert content(store, "two") == part
    # What is left is found again.
    take(store, "three", pages=part)
    assert not pack_of(store.path("three")).exists()


def test_what_is_removed_while_it_is_read_is_whole_until_then(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    with store.open("one") as reader:
        assert store.remove(["one"]).held == ("one",)
        store.gc()
        assert reader.read(0, reader.page_bytes) == pages
        reader.verify_pages()
    assert packs(store) == []


def test_what_a_writer_has_found_stays(store: Store) -> None:
    """Although nobody else needs it any more."""
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    with store.create("two") as writer:
        fill(writer, header("two"), pages)
        with Store(store.root) as other:
            other.remove(["one"])
            other.gc()
        writer.commit(durable=False)
    assert content(store, "two") == pages
    assert store.summary("two").shared == MANY * PAGE


def test_what_a_writer_had_found_goes_with_it(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    with store.create("two") as writer:
        fill(writer, header("two"), pages)
        store.remove(["one"])
        assert len(packs(store)) == 3
    store.gc()
    assert packs(store) == []


def test_a_catalogue_made_anew_knows_its_packs(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=pages + os.urandom(PAGE))
    before = [store.summary(name) for name in ("one", "two")]
    store.close()
    (store.root / "catalogue.sqlite").unlink()
    assert [store.summary(name) for name in ("one", "two")] == before
    take(store, "three", pages=pages)
    assert not pack_of(store.path("three")).exists()
    store.remove(["one", "three"])
    assert content(store, "two")[: MANY * PAGE] == pages


def test_a_catalogue_made_anew_while_somebody_writes(store: Store) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    with store.create("two") as writer:
        fill(writer, header("two"), pages + os.urandom(PAGE))
        with Store(store.root) as other:
            other.rebuild()
            other.remove(["one"])
            other.gc()
        writer.commit(durable=False)
    assert content(store, "two")[: MANY * PAGE] == pages


def test_what_a_later_release_wrote_is_left_alone(store: Store) -> None:
    """There is no telling which packs it needs."""
    from jupyter_cr.image.frame import VERSION, encode_preamble

    directory = take(store, "later", pages=os.urandom(MANY * PAGE))
    manifest = directory / "manifest"
    manifest.write_bytes(encode_preamble(VERSION + 1) + manifest.read_bytes()[20:])
    before = packs(store)
    store.rebuild()
    store.gc()
    assert store.state("later") == "future"
    assert packs(store) == before


WRITER = """
import os, sys
from pathlib import Path
from jupyter_cr.store import Store
from tests.store.harness import fill, header
with Store(Path(sys.argv[1])).create("two") as writer:
    fill(writer, header("two"), os.urandom(9 << 20))
    print("filled", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_no_pack(store: Store) -> None:
    take(store, "one")
    before = packs(store)
    with program(WRITER, store.root) as writer:
        assert wait_for_line(writer) == "filled"
        store.gc()
        assert len(packs(store)) > len(before), "it is at it"
    store.gc()
    assert store.names() == ["one"]
    assert packs(store) == before


def test_stray_packs_are_found(store: Store) -> None:
    take(store, "one")
    stray = store.root / "packs" / "0123456789abcdef.pack"
    stray.write_bytes(bytes(1 << 20))
    assert store.gc().bytes >= 1 << 20
    assert not stray.exists()


def test_an_interrupted_drop_is_brought_to_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=pages[: 500 * PAGE])

    def die(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jupyter_cr.store.packs.drop_blocks", die)
        with pytest.raises(KeyboardInterrupt):
            store.remove(["one"])
    take(store, "three", pages=pages[: 500 * PAGE])
    assert pack_of(store.path("three")).exists(), "what is to go is found by nobody"
    assert store.gc().bytes >= 1400 * PAGE
    assert content(store, "two") == pages[: 500 * PAGE]


def test_with_many_snapshots_nothing_is_looked_up_in_vain(store: Store) -> None:
    """A pack that has been found is not claimed again with every segment."""
    pages = os.urandom(3 * 1024 * PAGE)
    take(store, "one", pages=pages)
    written = []
    store.close()
    with store.create("two") as writer:
        connection = sqlite3.connect(store.root / "catalogue.sqlite")
        fill(writer, header("two"), pages)
        written = connection.execute("SELECT count(*) FROM claims").fetchone()
        connection.close()
        writer.commit(durable=False)
    assert written == (1,)
