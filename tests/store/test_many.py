"""Ten thousand snapshots."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from jupyter_cr.store import Store
from tests.store.harness import take
from tests.store.many import take_many

T = TypeVar("T")

COUNT = 10_000


def timed(what: str, work: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = work()
    print(f"{what}: {(time.perf_counter() - began) * 1e3:.1f} ms")
    return result


@pytest.fixture
def many(store: Store) -> Store:
    """Ten thousand of 200 kernels."""
    take_many(store, COUNT)
    return store


def newest(root: Path, **query: str) -> list[str]:
    with Store(root) as store:
        found = store.list(limit=50, newest_first=True, **query)  # type: ignore[arg-type]
        return [snapshot.name for snapshot in found]


@pytest.mark.timeout(300)
def test_the_newest_of_ten_thousand(many: Store) -> None:
    names = timed("opened, newest 50", lambda: newest(many.root))
    assert names == [f"snapshot-{number}" for number in range(COUNT - 2, COUNT - 52, -1)]
    names = timed("of one kernel", lambda: newest(many.root, kernel_id="kernel-7"))
    assert len(names) == 50
    assert names[0] == f"snapshot-{COUNT - 200 + 7}"
    assert len(timed("all", many.list)) == COUNT
    assert timed("one", lambda: many.summary("snapshot-77")).parent == "one"
    timed("renamed", lambda: many.rename("snapshot-77", "renamed"))
    timed("taken", lambda: take(many, "another"))
    timed("removed", lambda: many.remove(["renamed"]))
    pruned = timed("policy", lambda: many.prune("last 10, all named", dry_run=True))
    assert pruned.removed == ()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_they_are_found_again(many: Store) -> None:
    timed("made anew", many.rebuild)
    assert len(many.names()) == COUNT
    freed = timed("collected", many.gc)
    assert (freed.names, freed.found) == ((), ())
