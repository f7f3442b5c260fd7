"""Nobody deletes what somebody writes or reads, and what is left is found."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from jupyter_cr.errors import NameTaken, NoSuchSnapshot, StoreBusy
from jupyter_cr.store import Store, TwinLimits
from tests.store.harness import (
    SIZE,
    directories,
    fill,
    header,
    program,
    take,
    twins_of,
    wait_for_line,
)


def test_a_removed_snapshot_goes_with_its_last_reader(store: Store) -> None:
    take(store, "one")
    first, second = store.open("one"), Store(store.root).open("one")
    freed = store.remove(["one"])
    assert (freed.bytes, freed.names, freed.held) == (0, ("one",), ("one",))
    assert store.names() == []
    with pytest.raises(NoSuchSnapshot):
        store.open("one")
    take(store, "one", pages=b"another")  # The name is free.
    first.close()
    first.close()
    assert len(directories(store)) == 2
    assert store.gc().held == (second.directory.name,)
    second.verify_pages()
    second.close()
    assert directories(store) == [store.path("one")]


WRITE = """
import os, sys
from pathlib import Path
from jupyter_cr.store import Store, TwinLimits
from tests.store.harness import fill, header
store = Store(Path(sys.argv[1]))
writer = store.create("one", parent="above")
fill(writer, header("one"))
if sys.argv[2] == "twins":
    writer.attach("twins", sys.argv[3].encode())
if sys.argv[2] == "published":
    writer.publish()
if sys.argv[2] == "whole":
    super(type(writer), writer).commit()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_what_a_living_process_writes_stays(store: Store) -> None:
    take(store, "above")
    with program(WRITE, store.root, "") as process:
        assert wait_for_line(process) == "ready"
        assert store.clean().names == ()
        assert store.gc().names == ()
        snapshot = store.summary("one")
        assert (snapshot.state, snapshot.saved, snapshot.parent) == ("saving", 0.0, "above")
        assert snapshot.bytes > 0
        with pytest.raises(StoreBusy, match="still being saved"):
            store.open("one")
        with pytest.raises(StoreBusy):
            store.remove(["above", "one"])
        assert sorted(store.names()) == ["above", "one"]
        with pytest.raises(NameTaken):
            store.create("one")
        # What a person does meanwhile is not lost.
        store.tag("one", ["tag"])
        store.rename("one", "two")
        assert store.summary("two").tags == ("tag",)


@pytest.mark.parametrize("state", ["", "published"])
def test_what_a_killed_process_wrote_is_cleared(store: Store, state: str) -> None:
    take(store, "above")
    with program(WRITE, store.root, state) as process:
        assert wait_for_line(process) == "ready"
        assert store.state("one") == ("live" if state else "saving")
        process.kill()
        process.wait()
        assert [snapshot.name for snapshot in store.list()] == ["above"]
        assert len(directories(store)) == 1
        take(store, "one")


def test_its_name_is_free_at_once(store: Store) -> None:
    with program(WRITE, store.root, "") as process:
        assert wait_for_line(process) == "ready"
        with pytest.raises(NameTaken):
            store.check_free("one")
        process.kill()
        process.wait()
    store.check_free("one")
    assert store.names() == []
    take(store, "one")
    assert directories(store) == [store.path("one")]


def test_its_twins_end(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    twins = twins_of(sleeper.pid).decode()
    with program(WRITE, store.root, "twins", twins) as process:
        assert wait_for_line(process) == "ready"
        process.kill()
        process.wait()
    assert store.gc().names == ("one",)
    assert sleeper.wait(timeout=10) == -signal.SIGKILL


def test_what_was_whole_when_its_writer_was_killed_is_kept(store: Store) -> None:
    take(store, "above", kernel_id="kernel")
    with program(WRITE, store.root, "whole") as process:
        assert wait_for_line(process) == "ready"
        assert store.state("one") == "saving"
        process.kill()
        process.wait()
    snapshot = store.summary("one")
    assert (snapshot.state, snapshot.parent, snapshot.note) == (
        "durable",
        "above",
        "a note",
    )
    assert (snapshot.saved, snapshot.processes, snapshot.logical) == (1.0, 1, SIZE)
    with store.open("one") as reader:
        reader.verify_pages()


def test_a_lease_does_not_outlive_its_holder_in_a_fork(store: Store) -> None:
    """A process that the reader has forked has all that it had open."""
    take(store, "one")
    reader = store.open("one")
    go, gone = os.pipe()
    if not (pid := os.fork()):
        os.close(gone)
        os.read(go, 1)
        os._exit(0)
    os.close(go)
    reader.close()
    assert store.remove(["one"]).held == ()
    os.close(gone)
    os.waitpid(pid, 0)


READ = """
import sys
from pathlib import Path
from jupyter_cr.store import Store, TwinLimits
reader = Store(Path(sys.argv[1])).open("one")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_readers_lease_is_void(store: Store) -> None:
    take(store, "one")
    with program(READ, store.root) as process:
        assert wait_for_line(process) == "ready"
        assert store.remove(["one"]).held == ("one",)
        assert store.clean().held != ()
        process.kill()
        process.wait()
    freed = store.gc()
    assert (len(freed.names), freed.held) == (1, ())
    assert freed.bytes > 0
    assert directories(store) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace")
def test_leases_hold_across_pid_namespaces(store: Store) -> None:
    command = [*("unshare", "--pid", "--fork", "--mount-proc"), sys.executable]
    if subprocess.run([*command, "-c", ""], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    take(store, "above")
    with subprocess.Popen(
        [*command, "-c", WRITE, str(store.root), ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert wait_for_line(process) == "ready"
        store.gc()
        assert store.state("one") == "saving"
        process.communicate("")
    store.gc()
    assert store.names() == ["above"]


def test_what_was_begun_and_not_ended_leaves_nothing(store: Store) -> None:
    for error in (KeyError, KeyboardInterrupt):
        with suppress(error), store.create("one") as writer:
            fill(writer, header("one"))
            raise error
        assert store.list() == []
        assert directories(store) == []
    take(store, "one")


def test_a_snapshot_without_its_lease_file_is_read_and_removed(store: Store) -> None:
    (take(store, "one") / "lease").unlink()
    with store.open("one") as reader:
        reader.verify_pages()
        assert store.remove(["one"]).held == ("one",)
    assert directories(store) == []


def test_no_descriptor_is_left(store: Store) -> None:
    take(store, "first")
    # What earlier tests have left, if anything.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        take(store, str(number))
        with store.open(str(number)):
            store.list()
        store.tag(str(number), ["x"])
        store.remove([str(number)])
    store.gc()
    assert len(os.listdir("/proc/self/fd")) == before
    assert json.loads((store.path("first") / "meta").read_bytes())["name"] == "first"


def test_a_live_one_that_is_read_stays_when_it_is_durable(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    with store.create("one") as writer:
        fill(writer, header("one"))
        writer.attach("twins", twins_of(sleeper.pid))
        writer.publish()
        with Store(store.root) as other:
            first, second = store.open("one"), other.open("one")
            assert first.header.name == "one"
            assert other.gc().names == ()
            with pytest.raises(StoreBusy):
                other.remove(["one"])
            second.close()
            writer.commit(durable=False)
    assert store.evict_twins(TwinLimits(count=0)) == (), "a fork may be made of them"
    assert store.remove(["one"]).held == ("one",)
    assert directories(store) == [first.directory]
    first.close()
    assert directories(store) == []
    assert sleeper.wait(timeout=10) == -signal.SIGKILL


def test_a_live_one_whose_writer_was_killed_goes_with_its_reader(store: Store) -> None:
    take(store, "above")
    with program(WRITE, store.root, "published") as process:
        assert wait_for_line(process) == "ready"
        reader = store.open("one")
        process.kill()
        process.wait()
    assert store.gc().names == ()
    assert store.state("one") == "live"
    reader.close()
    assert [snapshot.name for snapshot in store.list()] == ["above"]
    assert len(directories(store)) == 1
