"""The store: what it lists, opens and removes, and whose it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jupyter_cr.errors import CorruptImage, NoSuchSnapshot, StorageError
from jupyter_cr.image.frame import VERSION, encode_preamble
from jupyter_cr.store import Store, store_root
from tests.store.harness import SIZE, directories, fill, header, pack_of, take

if TYPE_CHECKING:
    from tests.conftest import User


def test_root_is_named_by_the_environment_or_jupyter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_root() == tmp_path / "store"
    monkeypatch.setenv("JUPYTER_CR_HOME", "~/elsewhere")
    assert store_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("JUPYTER_CR_HOME")
    assert store_root() == tmp_path / "data" / "cr"


def test_an_empty_store_is_made_when_first_written_to(store: Store) -> None:
    assert store.list() == []
    assert store.gc().bytes == 0
    assert not store.root.exists()
    take(store, "one")
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_asking_an_empty_directory_leaves_it_empty(tmp_path: Path) -> None:
    assert Store(tmp_path).list() == []
    with pytest.raises(NoSuchSnapshot):
        Store(tmp_path).open("one")
    assert os.listdir(tmp_path) == []


def test_nothing_in_it_is_for_others(store: Store) -> None:
    directory = take(store, "one")
    store.tag("one", ["x"])
    for path in (store.root, *store.root.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert sorted(os.listdir(directory)) == ["lease", "manifest", "meta", "signature"]


def test_snapshots_are_listed_by_time(store: Store) -> None:
    for name, day in (("b", 3), ("a", 2), ("c", 1)):
        take(store, name, f"2026-01-0{day}T00:00:00.000000+00:00")
    listed = store.list()
    assert [snapshot.name for snapshot in listed] == ["c", "a", "b"]
    snapshot = listed[0]
    assert (snapshot.state, snapshot.saved) == ("durable", 1.0)
    assert (snapshot.note, snapshot.kernel_name, snapshot.pid) == ("a note", "python3", 77)
    assert (snapshot.processes, snapshot.downtime_ms) == (1, 9.5)
    assert snapshot.logical == SIZE
    assert snapshot.own >= SIZE
    assert snapshot.bytes == snapshot.own + snapshot.shared
    assert snapshot.id == store.path("c").name
    assert store.summary("c") == snapshot


def test_some_of_them(store: Store) -> None:
    for number in range(6):
        kernel_id = "ab"[number % 2]
        created = f"2026-01-0{number + 1}T00:00:00.000000+00:00"
        take(store, str(number), created, kernel_id=kernel_id)
    take(store, "none")

    def names(**query: object) -> str:
        return " ".join(snapshot.name for snapshot in store.list(**query))  # type: ignore[arg-type]

    assert names(limit=2, newest_first=True) == "5 4"
    assert names(limit=2, offset=1, newest_first=True) == "4 3"
    assert names(limit=2) == "0 none"
    assert names(kernel_id="a") == "0 2 4"
    assert names(kernel_id="a", limit=1, newest_first=True) == "4"
    assert names(kernel_id="", path="") == "none"
    assert names(path="a.ipynb", limit=3) == "0 1 2"
    assert names(kernel_id="c") == ""
    assert (store.count(), store.count(kernel_id="b"), store.count(path="a.ipynb")) == (
        7,
        3,
        6,
    )


def test_damaged_snapshots_are_listed_as_such(store: Store) -> None:
    take(store, "sound")
    pack_of(take(store, "cut")).write_bytes(b"")
    (take(store, "gone") / "manifest").unlink()
    path = take(store, "later") / "manifest"
    path.write_bytes(encode_preamble(VERSION + 1) + path.read_bytes()[20:])
    (store.root / "snapshots" / "a-file").write_bytes(b"not a snapshot")
    for _ in range(2):
        listed = {snapshot.name: snapshot for snapshot in store.list()}
        states = {name: snapshot.state for name, snapshot in listed.items()}
        corrupt = dict.fromkeys(("cut", "gone"), "corrupt")
        assert states == {"sound": "durable", "later": "future", **corrupt}
        assert listed["sound"].problem == ""
        assert str(SIZE) in listed["cut"].problem
        assert listed["cut"].note == "a note", "what is known of it is still said"
    store.remove(["cut", "gone", "later"])
    assert store.names() == ["sound"]


def test_what_is_mended_is_sound_again(store: Store) -> None:
    pages = pack_of(take(store, "one"))
    content = pages.read_bytes()
    pages.write_bytes(b"")
    assert store.state("one") == "corrupt"
    with store.open("one") as reader, pytest.raises(CorruptImage):
        reader.verify_pages()
    pages.write_bytes(content)
    assert store.state("one") == "durable"


def test_what_reading_it_all_has_shown_is_kept(store: Store) -> None:
    take(store, "one")
    store.note_check("one", "a bit has flipped")
    snapshot = Store(store.root).summary("one")
    assert (snapshot.state, snapshot.problem) == ("corrupt", "a bit has flipped")
    store.note_check("one", "")
    assert store.state("one") == "durable"


def test_a_snapshot_that_somebody_took_away(store: Store) -> None:
    directory = take(store, "one")
    away = directory.rename(store.root / "away")
    with pytest.raises(NoSuchSnapshot, match="is gone") as caught:
        store.open("one")
    assert "jupyter cr rm one" in caught.value.hint
    assert (store.state("one"), store.summary("one").bytes) == ("corrupt", 0)
    assert "is gone" in store.summary("one").problem
    away.rename(directory)
    assert store.state("one") == "durable"
    directory.rename(away)
    assert store.remove(["one"]).bytes >= SIZE, "its pages were still there"
    assert store.list() == []
    take(store, "one")
    store.path("one").rename(store.root / "away-2")
    store.gc()
    assert store.names() == []


def test_open_and_remove(store: Store) -> None:
    take(store, "one", pages=os.urandom(1 << 20))
    take(store, "two")
    with store.open("one") as reader:
        assert reader.header.name == "one"
    size = store.summary("one").own
    freed = store.remove(["one", "one"])
    assert (freed.names, freed.held) == (("one",), ())
    assert freed.bytes == size >= 1 << 20
    assert directories(store) == [store.path("two")]


def test_a_wrong_name_removes_nothing(store: Store) -> None:
    take(store, "one")
    with pytest.raises(NoSuchSnapshot, match="named two"):
        store.remove(["one", "two"])
    assert store.names() == ["one"]


def test_links_are_no_snapshots(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    take(store, "one").rename(outside)
    store.gc()
    (store.root / "snapshots" / "0123456789abcdef").symlink_to(outside)
    store.rebuild()
    assert store.names() == []
    store.gc()
    assert sorted(os.listdir(outside)) == ["lease", "manifest", "meta", "signature"]


def test_a_lease_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    directory = take(store, "one")
    (directory / "lease").unlink()
    (directory / "lease").symlink_to(tmp_path / "made")
    with pytest.raises(StorageError):
        store.remove(["one"])
    assert not (tmp_path / "made").exists()


def test_a_store_open_to_others_is_closed(store: Store) -> None:
    take(store, "one")
    store.root.chmod(0o755)
    store.list()
    assert store.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_store_of_another_user_is_refused(store: Store) -> None:
    take(store, "one")
    os.chown(store.root, 20002, 20002)
    for operation in (
        store.list,
        store.gc,
        store.rebuild,
        lambda: store.create("two"),
        lambda: store.open("one"),
        lambda: store.remove(["one"]),
        lambda: store.rename("one", "two"),
    ):
        with pytest.raises(StorageError, match="belongs to user 20002"):
            operation()


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Store(tmp_path / "file").create("one")
    with pytest.raises(StorageError, match="not a directory"):
        Store(tmp_path / "file").list()


CREATE = """
import sys
from pathlib import Path
from jupyter_cr.errors import StorageError
from jupyter_cr.store import Store
try:
    Store(Path(sys.argv[1])).create("one")
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_store_that_is_not_writable_is_refused(user: User) -> None:
    if user.uid == 0:
        pytest.skip("root may write everywhere")
    for place, mode in (("sub/store", 0o500), (".", 0o500)):
        user.home.chmod(mode)
        try:
            result = user.run(user.python, "-c", CREATE, user.home / place)
        finally:
            user.home.chmod(0o700)
        assert result.returncode == StorageError.exit_code, result.stderr
        assert "ritable" in result.stdout or "Permission denied" in result.stdout
        assert "JUPYTER_CR_HOME" in result.stdout


LIST = """
import sys
from pathlib import Path
from jupyter_cr.store import Store
store = Store(Path(sys.argv[1]))
with store.open("one") as reader:
    reader.verify_pages()
print(*[(s.name, s.state) for s in store.list()], store.position("kernel"))
"""


@pytest.mark.parametrize("is_tidy", [True, False])
def test_a_store_that_is_not_writable_is_read(user: User, is_tidy: bool) -> None:
    """Whether or not the last one who wrote it could close its catalogue."""
    if user.uid == 0:
        pytest.skip("root may write everywhere")
    root = user.home / "store"
    store = Store(root)
    take(store, "one", kernel_id="kernel")
    take(store, "two")
    if is_tidy:
        store.close()
    else:
        # As a power cut would leave it.
        (root / "catalogue.sqlite-shm").unlink()
    own = [user.home, *user.home.rglob("*")]
    for path in own:
        os.chown(path, user.uid, user.uid)
    (root / "snapshots").chmod(0o500)
    root.chmod(0o500)
    try:
        result = user.run(user.python, "-c", LIST, root)
    finally:
        root.chmod(0o700)
    expected = "('one', 'durable') ('two', 'durable') one\n"
    assert (result.stdout, result.stderr) == (expected, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")
@pytest.mark.parametrize("is_tidy", [True, False])
def test_a_read_only_file_system(store: Store, is_tidy: bool) -> None:
    store.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(store.root)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mount is not permitted here")
    try:
        store.root.chmod(0o700)
        take(store, "one", kernel_id="kernel")
        take(store, "two")
        if not is_tidy:
            command = [sys.executable, "-c", LEFT_OPEN, str(store.root)]
            subprocess.run(command, check=True, timeout=30)
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(store.root)], check=True)
        names = {"one", "two"} if is_tidy else {"one", "three"}
        assert {snapshot.name for snapshot in store.list()} == names
        assert {snapshot.state for snapshot in store.list()} == {"durable"}
        assert store.position("kernel") == "one"
        with store.open("one") as reader:
            reader.verify_pages()
        for operation in (
            lambda: store.create("four"),
            lambda: store.remove(["one"]),
            lambda: store.rename("one", "four"),
            lambda: store.tag("one", ["x"]),
            store.gc,
            store.rebuild,
        ):
            with pytest.raises(StorageError, match="not writable"):
                operation()
    finally:
        store.close()
        subprocess.run(["umount", str(store.root)], check=True)


LEFT_OPEN = """
import os, sys
from pathlib import Path
from jupyter_cr.store import Store
store = Store(Path(sys.argv[1]))
store.rename("two", "three")
os._exit(0)
"""


@pytest.mark.parametrize("is_live", [False, True])
def test_a_note_that_was_given_meanwhile_stays(store: Store, is_live: bool) -> None:
    """And so do tags, and a name, whichever came first."""
    with store.create("one") as writer:
        fill(writer, header("one"))
        if is_live:
            writer.publish()
            assert store.summary("one").note == "a note"
        store.annotate("one", "another")
        store.rename("one", "two")
        store.tag("two", ["seen"])
        writer.commit(durable=True)
    snapshot = store.summary("two")
    assert (snapshot.note, snapshot.tags) == ("another", ("seen",))
    store.close()
    for path in store.root.glob("catalogue.sqlite*"):
        path.unlink()
    snapshot = Store(store.root).summary("two")
    assert (snapshot.note, snapshot.tags) == ("another", ("seen",))


def test_a_snapshot_that_is_being_written_is_seen(store: Store) -> None:
    with store.create("one") as writer:
        assert (writer.name, len(writer.id)) == ("one", 16)
        fill(writer, header("one"))
        writer.show_saved(0.25)
        snapshot = Store(store.root).summary("one")
        assert (snapshot.state, snapshot.saved) == ("saving", 0.25)
        assert snapshot.id == writer.id
        writer.show_saved(0.5)
        assert store.summary("one").saved == 0.25, "not more often than can be seen"
        writer.publish()
        snapshot = store.summary("one")
        assert (snapshot.state, snapshot.comm) == ("live", "python3")
        writer.commit(durable=True)
        assert store.state("one") == "durable"
    assert store.summary("one").saved == 1.0
