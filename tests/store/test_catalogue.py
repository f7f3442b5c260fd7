"""The catalogue: lost, damaged, replaced under others' hands, and made anew."""

from __future__ import annotations

import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_cr.errors import StorageError, StoreBusy
from jupyter_cr.store import Snapshot, Store
from tests.store.harness import directories, fill, header, program, take, wait_for_line


def populate(store: Store) -> list[Snapshot]:
    take(store, "root", "2026-01-01T00:00:00+00:00", kernel_id="kernel", named=False)
    take(store, "leaf", "2026-01-02T00:00:00+00:00", kernel_id="kernel", parent="root")
    take(store, "other", "2026-01-03T00:00:00+00:00", kernel_id="another")
    store.rename("leaf", "named later")
    store.tag("named later", ["a", "b"])
    store.annotate("root", "")
    return store.list()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        for offset in range(100, path.stat().st_size, 50):
            file.seek(offset)
            file.write(b"\xff\x00damage")


def drop_a_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE snapshots")
    connection.close()


def forge_a_state(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE snapshots SET state = 'fine', tags = '{'")
    connection.close()


DAMAGE = {
    "lost": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "no database": lambda path: path.write_bytes(b"not a database" * 500),
    "scribbled over": scribble,
    "without a table": drop_a_table,
    "with a row that makes no sense": forge_a_state,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_it_is_made_anew(store: Store, how: str) -> None:
    before = populate(store)
    store.close()
    DAMAGE[how](store.root / "catalogue.sqlite")
    with Store(store.root) as other:
        assert other.list() == before
        assert other.position("kernel") == "named later"
        take(other, "new")
    assert len(store.list()) == 4


@pytest.mark.parametrize("how", DAMAGE)
def test_under_the_hands_of_one_who_has_it_open(store: Store, how: str) -> None:
    before = populate(store)
    DAMAGE[how](store.root / "catalogue.sqlite")
    store.gc()
    assert store.list() == before
    connection = sqlite3.connect(store.root / "catalogue.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_what_others_have_made_anew_is_taken(store: Store) -> None:
    populate(store)
    with Store(store.root) as other:
        assert len(other.list()) == 3
        store.rebuild()
        other.rename("other", "renamed")
        assert "renamed" in store.names()
        store.remove(["renamed"])
        assert "renamed" not in other.names()
    # Closing what was replaced has not touched what it was replaced by.
    take(store, "last")
    assert "last" in Store(store.root).names()


def test_rows_and_directories_that_only_one_side_knows(store: Store) -> None:
    populate(store)
    directory = store.path("other")
    shutil.copytree(directory, directory.with_name("0123456789abcdef"))
    shutil.rmtree(store.path("root"))
    freed = store.gc()
    assert freed.found == ("other-2",)
    assert sorted(store.names()) == ["named later", "other", "other-2"]
    assert store.summary("named later").parent == ""
    assert store.gc().found == ()


def test_a_later_releases_catalogue_is_left_alone(store: Store) -> None:
    populate(store)
    store.close()
    path = store.root / "catalogue.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="later release") as caught:
        store.list()
    assert "move the file away" in caught.value.hint
    path.unlink()
    assert len(store.list()) == 3


def test_an_earlier_releases_catalogue_is_made_anew(store: Store) -> None:
    before = populate(store)
    store.close()
    connection = sqlite3.connect(store.root / "catalogue.sqlite")
    connection.executescript("DROP TABLE snapshots; PRAGMA user_version = 0;")
    connection.close()
    assert store.list() == before


def test_a_link_in_its_place_is_refused(store: Store, tmp_path: Path) -> None:
    populate(store)
    store.close()
    path = store.root / "catalogue.sqlite"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link"):
        store.list()
    with pytest.raises(StorageError, match="is a link"):
        take(store, "one")


def test_names_in_damaged_files_do_not_leave_the_store(store: Store) -> None:
    directory = take(store, "one")
    for content in (
        b'{"name": "../../etc"}',
        b'{"name": "/tmp/x", "parent": "../x", "tags": ["a"]}',
        b'{"name": "\xff"}',
        b"",
        b"[]",
        b'{"name": 7}',
    ):
        (directory / "meta").write_bytes(content)
        store.rebuild()
        assert store.names() == ["one"], content
    (directory / "manifest").write_bytes(b"")
    store.rebuild()
    assert store.names() == [directory.name]
    assert store.state(directory.name) == "corrupt"


def test_two_with_one_name_are_both_there(store: Store) -> None:
    directory = take(store, "one")
    shutil.copytree(directory, directory.with_name("0" * 16))
    shutil.copytree(directory, directory.with_name("f" * 16))
    store.rebuild()
    assert sorted(store.names()) == ["one", "one-2", "one-3"]
    for name in store.names():
        with store.open(name) as reader:
            reader.verify_pages()


def test_it_is_made_anew_while_snapshots_are_written_and_removed(store: Store) -> None:
    take(store, "read")
    reader = store.open("read")
    store.remove(["read"])
    with store.create("written") as writer:
        (store.root / "catalogue.sqlite").unlink()
        with Store(store.root) as other:
            assert [(s.name, s.state) for s in other.list()] == [("written", "saving")]
            with pytest.raises(StoreBusy):
                other.remove(["written"])
            assert other.gc().held == (reader.directory.name,)
        fill(writer, header("written"))
        writer.commit(durable=False)
    assert store.state("written") == "durable"
    reader.verify_pages()
    reader.close()
    assert directories(store) == [store.path("written")]


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_who_waits_too_long_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_cr.store.catalogue._BUSY_S", 0.1)
    take(store, "one")
    store.close()
    with program(HOLD, store.root / "catalogue.sqlite") as process:
        assert wait_for_line(process) == "held"
        assert store.names() == ["one"], "readers need not wait"
        with pytest.raises(StoreBusy, match="somebody else") as caught:
            store.rename("one", "two")
        assert (caught.value.exit_code, caught.value.http_status) == (17, 409)
        process.communicate("")
    store.rename("one", "two")


LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_how_far_a_snapshot_is_is_not_waited_for(store: Store) -> None:
    with store.create("one") as writer, program(LOCK, store.root / "lock") as process:
        assert wait_for_line(process) == "locked"
        writer.show_saved(0.5)
        assert store.summary("one").saved == 0.0
        process.communicate("")
        fill(writer, header("one"))
        writer.commit(durable=False)
    assert store.state("one") == "durable"


def test_a_network_file_system_has_a_rollback_journal(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_cr.store.catalogue.is_remote", lambda root: True)
    before = populate(store)
    connection = sqlite3.connect(store.root / "catalogue.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    assert Store(store.root).list() == before
    monkeypatch.undo()
    store.rebuild()
    store.list()
    connection = sqlite3.connect(store.root / "catalogue.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_one_store_in_many_threads(store: Store) -> None:
    take(store, "one")

    def work(number: int) -> None:
        for turn in range(20):
            store.tag("one", [f"{number}-{turn}"])
            store.list()
            store.position("kernel")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(store.summary("one").tags) == 80


def test_a_forked_process_has_a_connection_of_its_own(store: Store) -> None:
    take(store, "one")
    if not (pid := os.fork()):
        status = 1
        try:
            store.rename("one", "two")
            status = int(store.names() != ["two"])
            store.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    store.rename("two", "three")
    assert Store(store.root).names() == ["three"]
