"""kill -9 at any instant: what is listed as durable is, and nothing is lost or left."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from jupyter_cr.store import Store
from tests.store.harness import directories, program, take, wait_for_line

WORK = """
import io, os, random, sys
from datetime import datetime, timezone
from pathlib import Path
import jupyter_cr.bundles as bundles
from jupyter_cr.store import Store
from tests.store.harness import fill, header
bundles._missing = lambda reader: ()  # they are of no processes
root, what, seed = sys.argv[1:]
store = Store(Path(root))
chance = random.Random(seed)
number = 0
def create(commit=True):
    global number
    number += 1
    name = f"{what}-{seed}-{number}"
    with store.create(name, parent="kept") as writer:
        now = datetime.now(timezone.utc).isoformat()
        fill(writer, header(name, now, kernel_id=seed), chance.randbytes(1 << 20))
        writer.show_saved(0.5)
        if commit:
            writer.commit()
    return name
def remove():
    store.remove([create(), create()])
def rename():
    name = create()
    store.tag(name, ["tag"])
    for turn in range(20):
        store.rename(name, name := f"{what}-{seed}-{number}-{turn}")
        store.annotate(name, "x" * turn)
def collect():
    for _ in range(3):
        path = store.root / "snapshots" / f"{chance.getrandbits(64):016x}"
        path.mkdir()
        (path / "pages").write_bytes(bytes(1 << 16))
    create(commit=False)
    store.gc()
def rebuild():
    create()
    store.rebuild()
os.environ["JUPYTER_CONFIG_DIR"] = f"{root}-config"
def carry():
    stream = io.BytesIO()
    bundles.export_snapshot("also kept", stream, store=store)
    stream.seek(0)
    bundles.import_snapshot(stream, "it", store=store)
work = {"create": create, "remove": remove, "rename": rename, "gc": collect}
work["import"] = carry
create()
print("begun", flush=True)
while True:
    work.get(what, rebuild)()
"""

KINDS = ("create", "remove", "rename", "gc", "rebuild", "import")


def kill_at_random(store: Store, what: str, seed: str, longest_s: float = 0.4) -> None:
    with program(WORK, store.root, what, seed) as process:
        assert wait_for_line(process) == "begun"
        time.sleep(random.Random(seed).uniform(0, longest_s))
        process.kill()
        process.wait()


def assert_truthful(store: Store, sound: set[str]) -> None:
    """And that what killed processes have left is found."""
    listed = store.list()
    names = {snapshot.name for snapshot in listed}
    assert {snapshot.state for snapshot in listed} <= {"durable"}
    assert sound <= names
    for snapshot in listed:
        with store.open(snapshot.name) as reader:
            reader.verify_pages()
            assert reader.header.name in snapshot.name or snapshot.tags == ("tag",)
        assert snapshot.parent in ("", "kept")
    for staging in store.root.glob(".staging-*"):
        # Nobody is making it just now.
        os.utime(staging, (0, 0))
    store.gc()
    assert {path.name for path in directories(store)} == {s.id for s in store.list()}
    assert {s.name for s in store.list()} >= names
    freed = store.gc()
    assert (freed.bytes, freed.names, freed.found, freed.held) == (0, (), (), ())
    expected = {"snapshots", "packs", "lock", "secret", "reserve", "catalogue.sqlite"}
    beside = {"catalogue.sqlite-wal", "catalogue.sqlite-shm"}
    left = {path.name for path in store.root.iterdir()}
    assert expected <= left <= expected | beside
    for directory in directories(store):
        assert {path.name for path in directory.iterdir()} >= {"manifest", "meta"}


@pytest.fixture
def kept(store: Store) -> Iterator[set[str]]:
    take(store, "kept")
    take(store, "also kept")
    yield {"kept", "also kept"}
    store.rebuild()
    assert_truthful(store, {"kept", "also kept"})


@pytest.mark.parametrize("what", KINDS)
def test_killed_at_some_instants(store: Store, kept: set[str], what: str) -> None:
    for number in range(5):
        kill_at_random(store, what, f"{number}{random.randrange(10**6)}")
        assert_truthful(store, kept)
        for name in set(store.names()) - kept:
            store.remove([name])


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", KINDS)
def test_killed_at_many_instants(store: Store, kept: set[str], what: str) -> None:
    for number in range(100):
        kill_at_random(store, what, f"{number}{random.randrange(10**6)}")
        assert_truthful(store, kept)
        for name in set(store.names()) - kept:
            store.remove([name])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_among_others_that_go_on(store: Store, kept: set[str]) -> None:
    """What the living have begun is not taken for what the dead have left."""
    for number in range(40):
        seed = f"{number}{random.randrange(10**6)}"
        with program(WORK, store.root, "create", f"living-{seed}") as living:
            assert wait_for_line(living) == "begun"
            kill_at_random(store, KINDS[number % 4], seed)
            store.gc()
            assert living.poll() is None
        living.wait()
        assert_truthful(store, kept)
        for name in set(store.names()) - kept:
            store.remove([name])


def test_nothing_is_pruned_that_was_there_before(store: Store, kept: set[str]) -> None:
    kill_at_random(store, "create", "1", 0.05)
    before = {snapshot.name for snapshot in store.list()}
    assert kept < before
    kill_at_random(store, "remove", "2", 0.2)
    assert before <= {snapshot.name for snapshot in store.list()}
