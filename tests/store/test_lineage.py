"""Which snapshot a kernel was at, and so the tree of them."""

from __future__ import annotations

import pytest

from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.store import Store
from tests.store.harness import take


def parents(store: Store) -> dict[str, str]:
    return {snapshot.name: snapshot.parent for snapshot in store.list()}


def take_next(store: Store, name: str, kernel_id: str = "kernel") -> None:
    take(store, name, kernel_id=kernel_id, parent=store.position(kernel_id))


@pytest.fixture
def tree(store: Store) -> Store:
    """a - b - c, and after going back to a: d; another kernel's is e."""
    for name in ("a", "b", "c"):
        take_next(store, name)
    store.set_position("kernel", "a")
    take_next(store, "d")
    take_next(store, "e", "another")
    return store


TREE = {"a": "", "b": "a", "c": "b", "d": "a", "e": ""}


def test_a_kernel_is_at_what_was_taken_of_it_last(tree: Store) -> None:
    assert parents(tree) == TREE
    assert tree.position("kernel") == "d"
    assert tree.positions() == {"kernel": "d", "another": "e"}
    assert tree.position("none") == ""
    with pytest.raises(NoSuchSnapshot):
        tree.set_position("kernel", "none")


def test_it_holds_when_names_change(tree: Store) -> None:
    tree.rename("a", "root")
    tree.rename("d", "here")
    assert parents(tree) == {"root": "", "b": "root", "c": "b", "here": "root", "e": ""}
    assert tree.position("kernel") == "here"


@pytest.mark.parametrize(
    ("removed", "left", "position"),
    [
        (["b"], {"a": "", "c": "a", "d": "a", "e": ""}, "d"),
        (["a"], {"b": "", "c": "b", "d": "", "e": ""}, "d"),
        (["a", "b"], {"c": "", "d": "", "e": ""}, "d"),
        (["b", "a"], {"c": "", "d": "", "e": ""}, "d"),
        (["d"], {"a": "", "b": "a", "c": "b", "e": ""}, "a"),
        (["a", "d"], {"b": "", "c": "b", "e": ""}, ""),
        (["d", "a"], {"b": "", "c": "b", "e": ""}, ""),
        (["a", "b", "c", "d"], {"e": ""}, ""),
    ],
)
def test_children_of_what_is_removed_are_its_parents(
    tree: Store, removed: list[str], left: dict[str, str], position: str
) -> None:
    tree.remove(removed)
    for _ in range(2):
        assert parents(tree) == left
        tree.rebuild()  # It can be told from the directories, too.
    tree.remove(["e"])
    assert parents(tree) == {name: parent for name, parent in left.items() if name != "e"}


@pytest.mark.parametrize(
    ("removed", "position"),
    [(["d"], "a"), (["a", "d"], ""), (["d", "a"], ""), (["c"], "d")],
)
def test_a_kernel_at_what_is_removed_is_at_its_parent(
    tree: Store, removed: list[str], position: str
) -> None:
    tree.remove(removed)
    assert tree.position("kernel") == position


def test_a_parent_that_is_not_there_any_more_is_none(store: Store) -> None:
    take(store, "one", parent="gone")
    assert store.summary("one").parent == ""


def test_what_was_not_committed_leaves_a_kernel_where_it_was(tree: Store) -> None:
    with tree.create("f", parent="d") as writer:
        assert tree.summary("f").parent == "d"
        writer.discard()
    assert tree.position("kernel") == "d"
    assert parents(tree) == TREE
