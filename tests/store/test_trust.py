"""What comes from elsewhere is not restored before its owner has said so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jupyter_cr import operations
from jupyter_cr.errors import StorageError, Untrusted
from jupyter_cr.store import Store
from tests.store.harness import fill, header, take


def smuggle(store: Store, tmp_path: Path, *, with_signature: bool = True) -> None:
    """A snapshot of somebody else's, put into a store by hand."""
    other = Store(tmp_path / "elsewhere")
    directory = take(other, "theirs")
    if not with_signature:
        (directory / "signature").unlink()
    for part in ("snapshots", "packs"):
        shutil.copytree(other.root / part, store.root / part, dirs_exist_ok=True)
    store.rebuild()


def refuse(store: Store, name: str) -> Untrusted:
    for bring in (operations.bring_restored, operations.bring_fork):
        with pytest.raises(Untrusted, match="was not taken here") as caught:
            bring(name, store=store)
    return caught.value


def test_what_was_taken_here_is_trusted(store: Store) -> None:
    take(store, "one")
    assert store.summary("one").trusted
    with store.open("one") as reader:
        assert reader.is_trusted
    store.rename("one", "two")
    store.annotate("two", "a note")
    with store.open("two") as reader:
        assert reader.is_trusted
    store.rebuild()
    assert store.summary("two").trusted


@pytest.mark.parametrize("with_signature", [True, False])
def test_what_is_from_elsewhere_is_not(
    store: Store, tmp_path: Path, with_signature: bool
) -> None:
    take(store, "ours")
    smuggle(store, tmp_path, with_signature=with_signature)
    trusted = {snapshot.name: snapshot.trusted for snapshot in store.list()}
    assert trusted == {"ours": True, "theirs": False}
    assert "jupyter cr trust theirs" in refuse(store, "theirs").hint
    store.trust("theirs")
    assert store.summary("theirs").trusted
    with store.open("theirs") as reader:
        assert reader.is_trusted
    store.rebuild()
    assert store.summary("theirs").trusted


def test_one_that_was_imported(store: Store) -> None:
    with store.create("one", trusted=False) as writer:
        fill(writer, header("one"))
        writer.commit(durable=False)
    assert not store.summary("one").trusted
    refuse(store, "one")
    operations.trust_snapshot("one", store=store)
    assert store.summary("one").trusted


def test_a_manifest_that_was_exchanged(store: Store) -> None:
    one, two = take(store, "one"), take(store, "two")
    shutil.copy(two / "manifest", one / "manifest")
    assert not store.summary("one").trusted
    refuse(store, "one")
    shutil.copy(two / "signature", one / "signature")
    with store.open("one") as reader:
        assert reader.is_trusted, "it is ours, under another name"


@pytest.mark.parametrize("content", [b"", b"hmac-sha256 ", b"\xff" * 2000])
def test_a_damaged_signature_is_none(store: Store, content: bytes) -> None:
    directory = take(store, "one")
    (directory / "signature").write_bytes(content)
    refuse(store, "one")


def test_a_secret_is_the_stores_own(tmp_path: Path) -> None:
    secrets = set()
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        take(store, "one")
        secrets.add((store.root / "secret").read_text())
        assert (store.root / "secret").stat().st_mode & 0o777 == 0o600
    assert len(secrets) == 2


def test_without_its_secret_a_store_trusts_nothing(store: Store) -> None:
    take(store, "one")
    (store.root / "secret").write_text("?")
    with pytest.raises(StorageError, match=r"secret .* is damaged") as caught:
        take(store, "two")
    assert "jupyter cr trust" in caught.value.hint
    refuse(store, "one")
    (store.root / "secret").unlink()
    take(store, "two")
    refuse(store, "one")
    store.trust("one")
    with store.open("one") as reader:
        assert reader.is_trusted
