"""A disk without room: nothing half-done is listed, and removing makes room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jupyter_cr.errors import StorageError
from jupyter_cr.store import Store
from tests.store.harness import directories, fill, header, program, take, wait_for_line

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """On 24 MiB."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(root)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mount is not permitted here")
    try:
        with Store(root) as store:
            yield store
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def leave_no_room(store: Store) -> Path:
    ballast = store.root / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_snapshot_that_does_not_fit(store: Store) -> None:
    take(store, "one")
    with pytest.raises(StorageError) as caught:
        take(store, "two", pages=os.urandom(30 << 20))
    assert "jupyter cr rm" in caught.value.hint
    assert [(s.name, s.state) for s in store.list()] == [("one", "durable")]
    assert directories(store) == [store.path("one")]
    take(store, "two")


def test_no_room_at_all(store: Store) -> None:
    take(store, "one", kernel_id="kernel")
    take(store, "two")
    leave_no_room(store)
    for change in (
        lambda: take(store, "three"),
        lambda: store.annotate("one", "x" * 100_000),
    ):
        with pytest.raises(StorageError) as caught:
            change()
        assert "No space left" in caught.value.message
        assert "JUPYTER_CR_HOME" in caught.value.hint
    with Store(store.root) as other:
        for reading in (store, other):
            assert [snapshot.name for snapshot in reading.list()] == ["one", "two"]
            assert reading.position("kernel") == "one"
            with reading.open("one") as reader:
                reader.verify_pages()
    assert store.remove(["one"]).names == ("one",)
    assert store.names() == ["two"]
    assert directories(store) == [store.path("two")]
    take(store, "three")


def test_no_room_for_one_who_comes_new(store: Store) -> None:
    """Not even for what SQLite wants beside its file."""
    take(store, "one", kernel_id="kernel")
    take(store, "two")
    store.close()
    assert not list(store.root.glob("*-wal"))
    leave_no_room(store)
    with Store(store.root) as other:
        assert other.names() == ["one", "two"]
        assert other.position("kernel") == "one"
        freed = other.remove(["one", "two"])
        assert freed.bytes > 0
        assert other.names() == []
        assert directories(other) == []
        take(other, "one")


def test_no_room_for_a_store(store: Store) -> None:
    leave_no_room(store)
    with pytest.raises(StorageError, match="No space left"):
        store.create("one")
    assert store.list() == []
    (store.root / "ballast").unlink()
    take(store, "one")


def test_no_room_for_making_it_anew(store: Store) -> None:
    take(store, "one")
    store.close()
    (store.root / "catalogue.sqlite").unlink()
    ballast = leave_no_room(store)
    assert store.names() == ["one"]
    with pytest.raises(StorageError, match="No space left"):
        store.rebuild()
    ballast.unlink()
    assert not (store.root / "catalogue.sqlite").exists()
    assert store.names() == ["one"]


WRITE = """
import os, sys, time
from pathlib import Path
from jupyter_cr.store import Store
from tests.store.harness import fill, header
writer = Store(Path(sys.argv[1])).create("killed")
fill(writer, header("killed"), os.urandom(12 << 20))
pack = Path(sys.argv[1]) / "packs" / f"{writer.id}.pack"
while pack.stat().st_size < 1 << 20:
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_has_filled_it_with_is_freed(store: Store) -> None:
    take(store, "one")
    with program(WRITE, store.root) as process:
        assert wait_for_line(process) == "ready"
        leave_no_room(store)
        process.kill()
        process.wait()
    freed = store.gc()
    assert freed.names == ("killed",)
    assert freed.bytes >= 1 << 20
    assert store.names() == ["one"]
    with store.create("two") as writer:
        fill(writer, header("two"))
        writer.commit()
