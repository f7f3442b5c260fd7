"""Names and tags: what is allowed, and what is made up."""

from __future__ import annotations

import pytest

from jupyter_cr.errors import NameTaken, NoSuchSnapshot, UsageError
from jupyter_cr.store import Store, check_name, suggest_name
from tests.store.harness import take


def test_a_name_is_taken_once(store: Store) -> None:
    take(store, "one")
    with pytest.raises(NameTaken):
        store.create("one")
    with pytest.raises(NameTaken):
        store.check_free("one")
    store.check_free("two")


def test_a_name_is_taken_from_the_beginning(store: Store) -> None:
    with store.create("one") as writer:
        assert store.names() == ["one"]
        with pytest.raises(NameTaken):
            Store(store.root).create("one")
        writer.discard()
    assert store.names() == []
    take(store, "one")


@pytest.mark.parametrize("name", ["a", "größe", "a b", "x" * 128, "1.2", "@", "日本"])
def test_good_names(store: Store, name: str) -> None:
    assert check_name(name) == name
    take(store, name)
    assert store.names() == [name]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "a/b", "a\n", "a\0", " a", "a ", "x" * 129, "é" * 65],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert caught.value.hint


def test_lone_surrogates_are_no_name() -> None:
    with pytest.raises(UsageError):
        check_name("a\udcff")


def test_suggested_names_are_free(store: Store) -> None:
    first = store.suggest_name("Python 3 (ipykernel)")
    assert check_name(first).startswith("Python-3-ipykernel-2")
    assert suggest_name("../x", ()).startswith("x-2")
    assert suggest_name("日本", ()).startswith("process-2")
    with store.create(first):
        names = {store.suggest_name("Python 3 (ipykernel)") for _ in range(2)}
        assert first not in names


def test_names_like_it_are_offered(store: Store) -> None:
    take(store, "before-training")
    with pytest.raises(NoSuchSnapshot) as caught:
        store.open("before-trainin")
    assert "before-training" in caught.value.hint
    with pytest.raises(NoSuchSnapshot) as caught:
        store.open("xyz")
    assert "jupyter cr list" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["..", ".", "../one", ".tmp-one-1", "", "/etc", "snapshots", "catalogue.sqlite"]
)
def test_only_snapshots_can_be_named(store: Store, name: str) -> None:
    take(store, "one")
    for operation in (
        store.open,
        store.state,
        store.path,
        lambda name: store.remove([name]),
        lambda name: store.rename(name, "two"),
        lambda name: store.annotate(name, "x"),
        lambda name: store.tag(name, ["x"]),
        lambda name: store.set_position("kernel", name),
    ):
        with pytest.raises(NoSuchSnapshot):
            operation(name)
    assert store.names() == ["one"]


def test_an_id_is_no_name(store: Store) -> None:
    id_ = take(store, "one").name
    with pytest.raises(NoSuchSnapshot):
        store.open(id_)


def test_rename(store: Store) -> None:
    directory = take(store, "one", named=False)
    take(store, "two")
    with pytest.raises(NameTaken):
        store.rename("one", "two")
    with pytest.raises(UsageError):
        store.rename("one", "../three")
    with pytest.raises(NoSuchSnapshot):
        store.rename("none", "three")
    store.rename("one", "one")
    store.rename("one", "three")
    assert sorted(store.names()) == ["three", "two"]
    assert store.path("three") == directory
    assert store.summary("three").named, "somebody has asked for it by now"
    with store.open("three") as reader:
        assert (reader.name, reader.header.name) == ("three", "one")
    take(store, "one")


def test_notes(store: Store) -> None:
    take(store, "one")
    assert store.summary("one").note == "a note"
    store.annotate("one", "another\nnote ✓")
    assert store.summary("one").note == "another\nnote ✓"
    store.annotate("one", "")
    assert store.summary("one").note == ""


def test_tags(store: Store) -> None:
    take(store, "one")
    assert store.tag("one", ["release", "b"], []) == ("b", "release")
    assert store.tag("one", ["b", "größe"], ["release", "none"]) == ("b", "größe")
    assert store.summary("one").tags == ("b", "größe")
    for tag in ("", "a b", "a,b", "-a", "a\n", "x" * 200):
        with pytest.raises(UsageError) as caught:
            store.tag("one", [tag])
        assert caught.value.hint
