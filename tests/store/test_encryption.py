"""Snapshots that can be read by their key only."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jupyter_cr.bundles import export_snapshot, import_snapshot
from jupyter_cr.errors import CorruptImage, LockedImage, StorageError, UsageError
from jupyter_cr.store import Store
from jupyter_cr.store.key_file import KEY_VARIABLE, make_key
from tests.store.harness import fill, header, pack_of, take

PAGE = 4096
SECRET = b"the password is swordfish. " * 160


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "key"
    make_key(path)
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    return path


def another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path / "another")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "another"))


def content(store: Store, name: str) -> bytes:
    with store.open(name) as reader:
        assert reader.is_encrypted == (KEY_VARIABLE in os.environ)
        reader.verify_pages()
        found = b""
        for piece in reader.pieces(0, reader.page_bytes):
            assert piece.fd < 0 or not reader.is_encrypted, "nobody else can decrypt it"
            found += piece.unpack() if piece.unpack else bytes(piece.length)
        return found if reader.is_encrypted else reader.read(0, reader.page_bytes)


def everything(store: Store) -> bytes:
    """What is on disk of images and packs."""
    files = [
        path for part in ("snapshots", "packs") for path in store.root.glob(f"{part}/**/*")
    ]
    return b"".join(path.read_bytes() for path in files if path.is_file())


def test_nothing_can_be_read_without_the_key(
    store: Store, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = SECRET[:PAGE] + os.urandom(300 * PAGE)
    take(store, "one", pages=pages)
    assert content(store, "one") == pages
    assert b"swordfish" not in everything(store)
    assert pages[PAGE : PAGE + 100] not in everything(store)
    assert key.read_text().strip() not in everything(store).decode("latin-1")
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(LockedImage, match=r"encrypted with the key [0-9a-f]{16}") as caught:
        store.open("one")
    assert KEY_VARIABLE in caught.value.hint
    another_key(tmp_path, monkeypatch)
    with pytest.raises(LockedImage):
        store.open("one")
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert content(store, "one") == pages


def test_pages_are_shared_all_the_same(store: Store, key: Path) -> None:
    pages = os.urandom(2000 * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=pages + os.urandom(PAGE))
    assert pack_of(store.path("two")).stat().st_size < 2 * PAGE
    store.remove(["one"])
    assert content(store, "two")[: len(pages)] == pages


def test_plain_and_encrypted_snapshots_share_nothing(
    store: Store, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is plain must be readable without a key, and what is encrypted stays so."""
    pages = os.urandom(2000 * PAGE)
    take(store, "encrypted", pages=pages)
    monkeypatch.delenv(KEY_VARIABLE)
    take(store, "plain", pages=pages)
    assert content(store, "plain") == pages
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    with store.open("plain") as base, store.create("third", base=base) as writer:
        assert writer.base is None
        fill(writer, header("third"), pages)
        writer.commit(durable=False)
    with store.open("third") as reader:
        assert reader.usage.keys() == {store.path("encrypted").name}


def test_a_store_whose_key_is_lost(
    store: Store, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = os.urandom(2000 * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=pages)
    monkeypatch.delenv(KEY_VARIABLE)
    assert store.state("one") == "durable", "as it was when it was looked at"
    store.rebuild()
    listed = {snapshot.name: snapshot for snapshot in store.list()}
    assert {name: s.state for name, s in listed.items()} == {
        "one": "locked",
        "two": "locked",
    }
    assert "is encrypted with the key" in listed["one"].problem
    assert store.prune("last 1").removed == ()
    store.gc()
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert store.state("one") == "durable"
    assert store.summary("two").logical == len(pages)
    assert content(store, "one") == content(store, "two") == pages
    monkeypatch.delenv(KEY_VARIABLE)
    store.remove(["one"])
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert content(store, "two") == pages


def test_every_part_has_its_place(store: Store, key: Path) -> None:
    """Blocks and files that have been exchanged are noticed, although each is sound."""
    first, second = (take(store, name, pages=os.urandom(40 * PAGE)) for name in "ab")
    for suffix in (".pack", ".index"):
        here, there = (pack_of(path).with_suffix(suffix) for path in (first, second))
        here.write_bytes(there.read_bytes())
    with store.open("a") as reader, pytest.raises(CorruptImage, match="decrypted"):
        reader.verify_pages()
    (first / "manifest").write_bytes((second / "manifest").read_bytes())
    with pytest.raises(CorruptImage, match="decrypted"):
        store.open("a")


def test_a_bundle_is_not_encrypted(
    store: Store, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to somebody who has not got the key; so it is said in the documentation."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    pages = os.urandom(2 * PAGE)
    take(store, "one", pages=pages)
    stream = io.BytesIO()
    export_snapshot("one", stream, store=store)
    assert pages in stream.getvalue()


class Watched(io.BytesIO):
    """A stream, and a store that is looked into whenever it is read or written."""

    def __init__(self, store: Store, content: bytes = b"") -> None:
        super().__init__(content)
        self.seen: set[str] = set()
        """Kinds of what could be found in files on their way."""
        self._store = store

    def look(self, *_: object) -> None:
        for path in self._store.root.rglob(".staging-*/*/**/*"):
            with suppress(OSError):
                found = path.read_bytes()
                self.seen.update(
                    path.suffix or path.name for mark in MARKS if mark in found
                )
                if path.suffix == ".pack" and any(found):
                    self.seen.add("something")

    def read(self, size: int | None = -1, /) -> bytes:
        self.look()
        return super().read(size)

    def write(self, data: Any, /) -> int:
        self.look()
        return super().write(data)


MARKS = (os.urandom(PAGE), b"x86_64")
"""In pages, and in a manifest."""
PAGES = MARKS[0] + os.urandom(100 * PAGE)


@pytest.mark.parametrize("encrypted", [True, False])
def test_nothing_is_in_the_clear_on_its_way(
    store: Store,
    key: Path,
    encrypted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into a bundle, out of one, and from elsewhere; without a key, it is."""
    pytest.importorskip("fsspec")
    from jupyter_cr.store.remote import RemoteStore

    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_CR_HOME", str(store.root))
    # These snapshots are of no processes.
    monkeypatch.setattr("jupyter_cr.bundles._missing", lambda reader: ())
    expected = {"something"} if encrypted else {"something", ".pack", "manifest"}
    with Store(tmp_path / "plain") as plain:
        monkeypatch.delenv(KEY_VARIABLE)
        take(plain, "one", pages=PAGES)
        RemoteStore(f"file://{tmp_path}/remote").push(plain, "one")
    if encrypted:
        monkeypatch.setenv(KEY_VARIABLE, str(key))
    remote = RemoteStore(f"file://{tmp_path}/remote")
    pulling = Watched(store)
    remote.pull("one", store, "three", pulling.look)
    assert pulling.seen == expected
    remote.open("one").verify_pages()
    take(store, "one", pages=PAGES)
    bundle = Watched(store)
    export_snapshot("one", bundle, store=store)
    assert bundle.seen == expected
    assert PAGES[:PAGE] in bundle.getvalue()
    incoming = Watched(store, bundle.getvalue())
    import_snapshot(incoming, "it", name="two", store=store)
    assert incoming.seen == expected
    for name in ("one", "two", "three"):
        assert content(store, name) == PAGES
    # Nor does anything stay.
    left = [path for path in store.root.rglob("*") if path.is_file()]
    assert encrypted != any(mark in path.read_bytes() for path in left for mark in MARKS)


@pytest.mark.parametrize("content", ["", "xyz", "ab" * 31])
def test_a_key_file_that_is_none(
    store: Store, key: Path, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"bad-{len(content)}"
    path.write_text(content)
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    with pytest.raises(UsageError, match="holds no key"):
        take(store, "one")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be read: No such file") as caught:
        take(store, "one")
    assert "jupyter cr new-key" in caught.value.hint
    assert store.names() == []


def test_a_key_is_never_written_over(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_text()
    with pytest.raises(StorageError, match="File exists"):
        make_key(key)
    assert key.read_text() == before


def test_what_is_encrypted_is_not_pushed(store: Store, key: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    from jupyter_cr.store.remote import RemoteStore

    take(store, "one")
    remote = RemoteStore(f"file://{tmp_path}/remote", tmp_path / "cache")
    with pytest.raises(UsageError, match="would not be where it is pushed to"):
        remote.push(store, "one")
    assert remote.names() == []
