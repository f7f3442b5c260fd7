"""The store: names, order, states, removal, and whose it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jupyter_cr.engine.twin import ParkedTwin
from jupyter_cr.errors import NameTaken, NoSuchSnapshot, StorageError, UsageError
from jupyter_cr.image import Header, Outcome
from jupyter_cr.image.frame import encode_preamble
from jupyter_cr.image.records import KernelFacts, ProcessOutcome
from jupyter_cr.store import Store, check_name, store_root, suggest_name
from jupyter_cr.store.twins import are_twins_alive
from jupyter_cr.tracer.proc.stat import read_stat

if TYPE_CHECKING:
    from tests.conftest import User


def header(name: str, created: str = "2026-01-01T00:00:00.000000+00:00") -> Header:
    return Header(
        name=name,
        note="a note",
        created=created,
        pid=77,
        comm="python3",
        kernel=KernelFacts(kernel_name="python3"),
        release="6.1",
        machine="x86_64",
        tool="0.1.0",
    )


def take(
    store: Store, name: str, created: str = "2026-01-01T00:00:00.000000+00:00"
) -> Path:
    with store.create(name) as writer:
        writer.add(header(name, created))
        os.pwrite(writer.pages_fd, b"p" * 5000, 0)
        processes = (ProcessOutcome(77, "python3", 3, 10, 5000),)
        writer.add(Outcome(downtime_ms=9.5, elapsed_ms=50, bytes=5000, processes=processes))
        writer.commit(durable=False)
    return store.root / name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def twins_of(*pids: int) -> bytes:
    """What the engine would have noted, had these processes been twins."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    twins = [ParkedTwin(1, pid, read_stat(pid).starttime, 0, 4096, 64, 64) for pid in pids]
    return json.dumps({"boot": boot_id, "twins": [asdict(twin) for twin in twins]}).encode()


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
    assert not store.root.exists()
    take(store, "one")
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_snapshots_are_listed_by_time(store: Store) -> None:
    for name, day in (("b", 3), ("a", 2), ("c", 1)):
        take(store, name, f"2026-01-0{day}T00:00:00.000000+00:00")
    listed = store.list()
    assert [snapshot.name for snapshot in listed] == ["c", "a", "b"]
    snapshot = listed[0]
    assert snapshot.state == "durable"
    assert snapshot.bytes >= 5000
    assert (snapshot.note, snapshot.kernel_name, snapshot.pid) == ("a note", "python3", 77)
    assert (snapshot.processes, snapshot.downtime_ms) == (1, 9.5)


def test_damaged_snapshots_are_listed_as_such(store: Store) -> None:
    take(store, "sound")
    (take(store, "cut") / "pages").write_bytes(b"")
    (take(store, "gone") / "manifest").unlink()
    (store.root / "empty").mkdir()
    path = take(store, "later") / "manifest"
    path.write_bytes(encode_preamble(2) + path.read_bytes()[20:])
    (store.root / "a-file").write_bytes(b"not a snapshot")
    states = {snapshot.name: snapshot.state for snapshot in store.list()}
    corrupt = dict.fromkeys(("cut", "gone", "empty"), "corrupt")
    assert states == {"sound": "durable", "later": "future", **corrupt}
    problems = {snapshot.name: snapshot.problem for snapshot in store.list()}
    assert problems["sound"] == ""
    assert "5000" in problems["cut"]
    store.remove(["cut", "gone", "empty", "later"])
    assert store.names() == ["sound"]


def test_open_and_remove(store: Store) -> None:
    take(store, "one")
    take(store, "two")
    with store.open("one") as reader:
        assert reader.header.name == "one"
    store.remove(["one", "one"])
    assert sorted(os.listdir(store.root)) == ["two"]


def test_a_wrong_name_removes_nothing(store: Store) -> None:
    take(store, "one")
    with pytest.raises(NoSuchSnapshot, match="named two"):
        store.remove(["one", "two"])
    assert store.names() == ["one"]


def test_names_like_it_are_offered(store: Store) -> None:
    take(store, "before-training")
    with pytest.raises(NoSuchSnapshot) as caught:
        store.open("before-trainin")
    assert "before-training" in caught.value.hint
    with pytest.raises(NoSuchSnapshot) as caught:
        store.open("xyz")
    assert "jupyter cr list" in caught.value.hint


@pytest.mark.parametrize("name", ["..", ".", "../one", ".tmp-one-1", "", "/etc"])
def test_only_snapshots_can_be_named(store: Store, name: str) -> None:
    take(store, "one")
    with pytest.raises(NoSuchSnapshot):
        store.open(name)
    with pytest.raises(NoSuchSnapshot):
        store.remove([name])
    assert store.names() == ["one"]


def test_a_name_is_taken_once(store: Store) -> None:
    take(store, "one")
    with pytest.raises(NameTaken):
        store.create("one")
    with pytest.raises(NameTaken):
        store.check_free("one")
    store.check_free("two")


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


def test_a_store_open_to_others_is_closed(store: Store) -> None:
    take(store, "one")
    store.root.chmod(0o755)
    store.list()
    assert store.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_store_of_another_user_is_refused(store: Store) -> None:
    take(store, "one")
    os.chown(store.root, 20002, 20002)
    for operation in (store.list, lambda: store.create("two"), lambda: store.open("one")):
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


LEAVE = """
import os, sys
from pathlib import Path
from jupyter_cr.store import Store
writer = Store(Path(sys.argv[1])).create("killed")
print(os.getpid(), flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
os._exit(0)
"""


def test_what_a_killed_run_left_is_cleared(store: Store) -> None:
    command = [sys.executable, "-c", LEAVE, store.root]
    subprocess.run(command, check=True, timeout=30, capture_output=True)
    (left,) = os.listdir(store.root)
    assert left.startswith(".tmp-killed-")
    assert store.list() == []
    take(store, "one")
    assert os.listdir(store.root) == ["one"]


def test_what_a_living_run_is_making_stays(store: Store) -> None:
    command = [sys.executable, "-c", LEAVE, store.root, "wait"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        making = store.root / f".tmp-killed-{pid}"
        store.clean()
        assert making.is_dir()
        # As it would look from another pid namespace: only the lock tells.
        disguised = making.rename(store.root / ".tmp-killed-4194305")
        store.clean()
        assert disguised.is_dir()
        process.communicate(b"", timeout=30)
    store.clean()
    assert os.listdir(store.root) == []


def test_a_snapshot_with_living_twins_is_warm(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    directory = take(store, "one")
    (directory / "twins").write_bytes(twins_of(sleeper.pid))
    assert store.state("one") == "warm"
    sleeper.kill()
    # A zombie is no twin any more.
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert store.state("one") == "durable"


def test_twins_are_told_from_later_processes(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    file = tmp_path / "twins"
    assert not are_twins_alive(tmp_path)
    sound = twins_of(sleeper.pid, os.getpid())
    file.write_bytes(sound)
    assert are_twins_alive(tmp_path)
    later = json.loads(sound)
    later["twins"][0]["starttime"] += 1
    other_boot = json.loads(sound) | {"boot": "another"}
    damaged = (b"", b"{", b"[]", b"\xff", b'{"boot": 1}', sound.replace(b'"pid"', b'"p"'))
    for content in (json.dumps(later).encode(), json.dumps(other_boot).encode(), *damaged):
        file.write_bytes(content)
        assert not are_twins_alive(tmp_path)


def test_twins_end_with_their_snapshot(
    store: Store, sleeper: subprocess.Popen[bytes]
) -> None:
    (take(store, "one") / "twins").write_bytes(twins_of(sleeper.pid))
    store.remove(["one"])
    assert sleeper.wait(timeout=10) == -signal.SIGKILL


def test_a_damaged_note_of_twins_does_not_keep_a_snapshot(store: Store) -> None:
    (take(store, "one") / "twins").write_bytes(b"{")
    assert store.state("one") == "durable"
    store.remove(["one"])
    assert store.names() == []
