"""Snapshots of before there was a catalogue: left alone, but not without a word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_cr.cli import main
from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.image.frame import encode_preamble
from jupyter_cr.store import Store
from tests.store.harness import take


def put_older(store: Store, *names: str) -> None:
    """As the store was then."""
    for name in names:
        directory = store.root / name
        directory.mkdir(mode=0o700, parents=True)
        (directory / "manifest").write_bytes(encode_preamble(1) + b"records")
        (directory / "pages").write_bytes(bytes(4096))


def test_they_are_told_of_once(store: Store) -> None:
    assert store.untold() == []
    take(store, "one")
    assert store.untold() == []
    put_older(store, "old", "older")
    assert store.untold() == ["old", "older"]
    assert store.untold() == []
    assert Store(store.root).untold() == []
    put_older(store, os.fsdecode(b"oldest \xff"))
    assert store.untold() == [os.fsdecode(b"oldest \xff")]
    assert store.untold() == []
    assert store.names() == ["one"]
    store.gc()
    assert (store.root / "old" / "pages").exists()
    shutil.rmtree(store.root / "old")
    assert store.untold() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda old: (old / "pages").unlink(),
        lambda old: (old / "manifest").unlink(),
        lambda old: (old / "manifest").write_bytes(b"something else"),
        lambda old: old.symlink_to(old.rename(old.with_name(".away"))),
    ],
    ids=["no pages", "no manifest", "another manifest", "a link"],
)
def test_what_is_none_of_ours(store: Store, spoil: Callable[[Path], object]) -> None:
    put_older(store, "old")
    assert store.names() == []
    spoil(store.root / "old")
    assert "old" not in store.untold()


def test_whoever_asks_for_one_is_told(store: Store) -> None:
    put_older(store, "old")
    for ask in (store.open, store.summary, store.path):
        with pytest.raises(NoSuchSnapshot, match="of before the first release") as caught:
            ask("old")
        assert caught.value.hint.endswith(f"rm -r {store.root}/old")


def test_a_list_tells(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_CR_HOME", str(store.root))
    put_older(store, "an old one")
    assert main(["list", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")
    assert main(["list"]) == 0
    told = capsys.readouterr().err
    assert f"In {store.root}, of before the first release" in told
    assert f"rm -r -- '{store.root}/an old one'" in told
    assert main(["list"]) == 0
    assert capsys.readouterr().err == ""
