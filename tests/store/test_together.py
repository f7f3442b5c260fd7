"""Several processes on one store at once."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest

from jupyter_cr.store import Store
from tests.store.harness import directories, program, take, wait_for_line

WORK = """
import random, sys, time
from pathlib import Path
from datetime import datetime, timezone
from jupyter_cr.errors import NoSuchSnapshot, StoreBusy
from jupyter_cr.store import Store
from tests.store.harness import fill, header

root, what, seconds, seed = sys.argv[1:]
store = Store(Path(root))
chance = random.Random(seed)
deadline = time.monotonic() + float(seconds)
done = 0

def write():
    name = f"{seed}-{done}"
    pages = chance.randbytes(chance.randrange(1, 3 << 20))
    with store.create(name, parent=store.position(seed)) as writer:
        now = datetime.now(timezone.utc).isoformat()
        fill(writer, header(name, now, kernel_id=seed), pages)
        writer.show_saved(0.5)
        writer.commit(durable=False)
    assert store.position(seed) == name
    # Nobody but this process removes or renames its newest.
    with store.open(name) as reader:
        reader.verify_pages()
    if chance.random() < 0.4:
        store.rename(name, f"renamed-{name}")
        name = f"renamed-{name}"
    if chance.random() < 0.5:
        freed = store.remove([name])
        assert freed.names == (name,)

def read():
    for snapshot in store.list():
        # What is read may be removed meanwhile, but never while it is open.
        try:
            reader = store.open(snapshot.name)
        except (NoSuchSnapshot, StoreBusy):
            continue
        with reader:
            reader.verify_pages()

def collect():
    freed = store.gc()
    assert freed.found == (), freed

def prune():
    store.prune("last 3")

work = {"write": write, "read": read, "gc": collect, "prune": prune}
while time.monotonic() < deadline:
    work.get(what, store.rebuild)()
    done += 1
print(done, flush=True)
"""


def run_together(store: Store, seconds: float, *kinds: str) -> dict[str, int]:
    """How often each has done it."""
    counts = {}
    with ExitStack() as stack:
        processes = [
            (kind, stack.enter_context(program(WORK, store.root, kind, seconds, f"{n}")))
            for n, kind in enumerate(kinds)
        ]
        for kind, process in processes:
            counts[kind] = int(wait_for_line(process) or -1)
            assert process.wait(timeout=60) == 0, kind
    return counts


def assert_sound(store: Store) -> None:
    listed = store.list()
    assert {snapshot.state for snapshot in listed} <= {"durable"}
    for snapshot in listed:
        with store.open(snapshot.name) as reader:
            reader.verify_pages()
    freed = store.gc()
    assert (freed.names, freed.found, freed.held) == ((), (), ())
    assert {path.name for path in directories(store)} == {s.id for s in listed}


def test_two_writers_and_a_collector(store: Store) -> None:
    counts = run_together(store, 2, "write", "write", "gc")
    assert all(count > 0 for count in counts.values()), counts
    assert_sound(store)


def test_writers_readers_and_all_who_remove(store: Store) -> None:
    counts = run_together(store, 3, "write", "write", "read", "gc", "prune")
    assert all(count > 0 for count in counts.values()), counts
    assert_sound(store)


def test_the_catalogue_is_made_anew_again_and_again(store: Store) -> None:
    counts = run_together(store, 3, "write", "write", "read", "rebuild")
    assert all(count > 0 for count in counts.values()), counts
    assert_sound(store)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_for_longer(store: Store) -> None:
    kinds = ("write", "write", "write", "read", "read", "gc", "prune", "rebuild")
    counts = run_together(store, 60, *kinds)
    assert all(count > 0 for count in counts.values()), counts
    assert_sound(store)


TAKE = """
import sys
from pathlib import Path
from jupyter_cr.errors import NameTaken
from jupyter_cr.store import Store
from tests.store.harness import fill, header
store = Store(Path(sys.argv[1]))
store.list()
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    try:
        with store.create(str(number)) as writer:
            fill(writer, header(str(number)))
            writer.commit(durable=False)
        print(number)
    except NameTaken:
        pass
"""


def test_of_those_who_want_a_name_one_gets_it(store: Store) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(program(TAKE, store.root)) for _ in range(4)]
        for process in processes:
            assert wait_for_line(process) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        taken = [int(n) for p in processes for n in p.communicate(timeout=50)[0].split()]
    assert sorted(taken) == list(range(20))
    assert_sound(store)


def test_a_store_is_made_once(store: Store) -> None:
    """By whoever is first."""
    code = WORK.replace("print(done", "print(len(store.names())")
    command = [sys.executable, "-c", code, store.root, "write", "0.1"]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [process.wait(timeout=50) for process in processes] == [0] * 4
    assert_sound(store)


def test_two_stores_in_one_process(store: Store) -> None:
    with Store(store.root) as other:
        take(store, "one")
        assert other.names() == ["one"]
        other.rename("one", "two")
        assert store.names() == ["two"]
        store.remove(["two"])
        assert other.list() == []
