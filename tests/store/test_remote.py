"""Stores elsewhere: what is pushed comes back as it was, and nobody harms anybody."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from jupyter_cr.engine.streams import PAGE
from jupyter_cr.errors import (
    CheckpointRestoreError,
    CorruptImage,
    NameTaken,
    NoSuchSnapshot,
    StorageError,
    StoreBusy,
    UsageError,
)
from jupyter_cr.image.page_map import PageExtents
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store import Store
from jupyter_cr.store.remote import RemoteStore
from jupyter_cr.store.remote_files import RemoteFiles
from jupyter_cr.store.signers import Signers
from jupyter_cr.store.snapshot import HIBERNATED
from jupyter_cr.store.survey import GOING, Survey
from jupyter_cr.store.transfer import copy_between
from tests.conftest import ORDINARY_UID, User
from tests.store.harness import directories, header, program, take, wait_for_line

MANY = 2000
"""Pages enough for some samples."""


@pytest.fixture
def remote(url: str) -> RemoteStore:
    return RemoteStore(url)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Another machine's."""
    with Store(tmp_path / "other") as store:
        yield store


def sha(store: Store, name: str) -> str:
    with store.open(name) as reader:
        reader.verify_pages()
        return hashlib.sha256(reader.read(0, reader.page_bytes)).hexdigest()


def records(store: Store, name: str) -> list[object]:
    with store.open(name) as reader:
        return [record for record in reader if not isinstance(record, PageExtents)]


def files(remote: RemoteStore) -> dict[str, int]:
    return remote._files.find("")


def changed(pages: bytes, share: float, seed: int = 1) -> bytes:
    """With some bytes of some pages other than they were."""
    result = bytearray(pages)
    total = len(pages) // PAGE
    for page in random.Random(seed).sample(range(total), int(total * share)):
        result[page * PAGE + 100 : page * PAGE + 108] = os.urandom(8)
    return bytes(result)


# There and back


def test_comes_back_as_it_was(store: Store, other: Store, remote: RemoteStore) -> None:
    pages = os.urandom(MANY * PAGE) + bytes(500 * PAGE) + b"text" * PAGE * 100
    take(store, "one", kernel_id="kernel", pages=pages)
    store.annotate("one", "another note")
    store.tag("one", ["paper", "draft"])
    pushed = remote.push(store, "one")
    assert (pushed.name, pushed.source, pushed.url) == ("one", "one", remote.url)
    pulled = remote.pull("one", other)
    assert pulled.name == "one"
    assert sha(other, "one") == sha(store, "one") == hashlib.sha256(pages).hexdigest()
    assert records(other, "one") == records(store, "one")
    here, there, back = store.summary("one"), remote.summary("one"), other.summary("one")
    for field in (
        "created",
        "note",
        "tags",
        "kernel_id",
        "pid",
        "logical",
        "path",
        "named",
    ):
        values = [getattr(snapshot, field) for snapshot in (here, there, back)]
        assert values[0] == values[1] == values[2], field
    assert there.state == "durable"


def test_what_is_there_already_is_not_sent(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    pages = os.urandom(2 * MANY * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=changed(pages, 0.01))
    first = remote.push(store, "one")
    assert len(pages) < first.bytes < 1.01 * len(pages)
    second = remote.push(store, "two")
    assert second.bytes < 0.013 * len(pages)
    third = remote.push(store, "two", "three")
    assert third.bytes < 0.013 * len(pages)
    assert remote.summary("two").own < 0.013 * len(pages)
    assert remote.summary("two").shared > 0.98 * len(pages)
    remote.pull("one", other)
    remote.pull("two", other)
    assert other.summary("two").own < 0.02 * len(pages)
    assert sha(other, "two") == sha(store, "two")


def test_only_what_is_needed_is_fetched(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "all", pages=pages)
    take(store, "part", pages=pages[: MANY // 4 * PAGE])
    remote.push(store, "all")
    remote.push(store, "part")
    assert remote.pull("part", other).bytes < 0.3 * len(pages)
    assert sha(other, "part") == sha(store, "part")


def test_what_is_here_already_is_not_fetched(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    pages = os.urandom(MANY * PAGE) + bytes(100 * PAGE)
    moved = changed(pages, 0.01)[50 * PAGE :] + os.urandom(10 * PAGE) + pages[: 20 * PAGE]
    take(store, "one", "2026-01-01T00:00:00.000001+00:00", pages=pages)
    take(store, "two", "2026-01-01T00:00:00.000002+00:00", pages=moved)
    for name in ("one", "two"):
        remote.push(store, name)
    assert remote.pull("one", other).bytes == MANY * PAGE
    assert remote.pull("two", other).bytes < 0.1 * len(pages)
    assert remote.pull("two", other, "again").bytes == 0
    for name in ("two", "again"):
        assert sha(other, name) == hashlib.sha256(moved).hexdigest()
        assert records(other, name) == records(store, "two")


def test_relatives_of_any_shape(store: Store, other: Store, tmp_path: Path) -> None:
    """Pages in any order, some of them several times, in whatever is here of others."""
    chance = random.Random()
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    pool = [chance.randbytes(PAGE) for _ in range(400)] + [bytes(PAGE)] * 20
    names = [f"s{number}" for number in range(8)]
    for name in names:
        runs = []
        for _ in range(chance.randrange(1, 30)):
            start = chance.randrange(len(pool))
            runs += pool[start : start + chance.randrange(1, 60)]
        fresh = [chance.randbytes(PAGE) for _ in range(chance.randrange(3))]
        created = f"2026-01-01T00:00:00.00000{name[1:]}+00:00"
        take(store, name, created, pages=b"".join(runs + fresh))
        remote.push(store, name)
    for name in chance.sample(names, len(names)):
        remote.pull(name, other)
        assert sha(other, name) == sha(store, name)
        assert records(other, name) == records(store, name)


def test_what_is_here_and_is_something_else(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    """What looks like a copy of a relative need not be one."""
    take(store, "one", pages=os.urandom(MANY * PAGE))
    take(other, "other", pages=os.urandom(MANY * PAGE))
    damaged = take(other, "damaged", pages=os.urandom(MANY * PAGE))
    pack = other.root / "packs" / f"{damaged.name}.pack"
    pack.write_bytes(bytes(pack.stat().st_size))
    remote.push(store, "one")
    assert remote.pull("one", other).bytes == MANY * PAGE
    assert sha(other, "one") == sha(store, "one")


def test_nothing_of_other_snapshots_goes_along(store: Store, remote: RemoteStore) -> None:
    """A page of another one is in the same block of the local store."""
    marker = b"another one's secret" + os.urandom(8)
    ours = os.urandom(MANY * PAGE)
    secret = (marker * PAGE)[:PAGE]
    mixed = b"".join(ours[at : at + PAGE] + secret for at in range(0, len(ours), PAGE))
    take(store, "secret", pages=mixed)
    take(store, "ours", pages=ours)
    assert store.summary("ours").shared > 0.9 * len(ours)
    remote.push(store, "ours")
    for name, content in remote._files.read(list(files(remote))).items():
        assert marker not in content, name
    assert len(files(remote)) == 6


def test_a_snapshot_without_pages(store: Store, other: Store, remote: RemoteStore) -> None:
    take(store, "zeros", pages=bytes(10 * PAGE))
    remote.push(store, "zeros")
    remote.pull("zeros", other)
    assert sha(other, "zeros") == hashlib.sha256(bytes(10 * PAGE)).hexdigest()
    assert not [name for name in files(remote) if name.startswith("packs/")]


def test_progress_is_told(store: Store, other: Store, remote: RemoteStore) -> None:
    take(store, "one", pages=os.urandom(MANY * PAGE))
    told: list[tuple[str, float]] = []
    remote.push(store, "one", progress=lambda *step: told.append(step))
    remote.pull("one", other, progress=lambda *step: told.append(step))
    for phase in ("pack", "fetch", "save"):
        shares = [share for name, share in told if name == phase]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    assert all(0 <= share <= 1 for _, share in told)


# Names and lineage


def test_names_there_are_unique(store: Store, remote: RemoteStore) -> None:
    take(store, "one")
    remote.push(store, "one")
    with pytest.raises(NameTaken, match=remote.url):
        remote.push(store, "one")
    with pytest.raises(NameTaken, match=remote.url):
        remote.check_free("one")
    remote.push(store, "one", "two")
    assert sorted(remote.names()) == ["one", "two"]
    with pytest.raises(UsageError):
        remote.push(store, "one", "../three")
    with pytest.raises(NoSuchSnapshot):
        remote.push(store, "nothing")


def test_a_name_that_was_made_up_gives_way(store: Store, remote: RemoteStore) -> None:
    take(store, "python3-1", named=False)
    assert remote.push(store, "python3-1").name == "python3-1"
    assert remote.push(store, "python3-1").name == "python3-1-2"
    assert remote.push(store, "python3-1").name == "python3-1-3"


def test_a_free_name_is_found_here(store: Store, remote: RemoteStore) -> None:
    take(store, "one")
    remote.push(store, "one")
    assert remote.pull("one", store).name == "one-2"
    assert remote.pull("one", store, "three").name == "three"
    with pytest.raises(NameTaken):
        remote.pull("one", store, "three")
    assert sha(store, "one") == sha(store, "one-2") == sha(store, "three")


def test_there_is_no_such_snapshot(store: Store, remote: RemoteStore) -> None:
    assert remote.list() == []
    with pytest.raises(NoSuchSnapshot, match="list --store") as caught:
        remote.pull("befor", store)
    assert remote.url in caught.value.message
    take(store, "before")
    remote.push(store, "before")
    with pytest.raises(NoSuchSnapshot, match="Did you mean before") as caught:
        remote.remove(["before", "befor"])
    assert remote.names() == ["before"]


def test_where_it_comes_from_is_kept(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    take(store, "parent", "2026-01-01T00:00:00.000001+00:00")
    take(store, "child", "2026-01-01T00:00:00.000002+00:00", parent="parent")
    remote.push(store, "child", "orphan")
    remote.push(store, "parent", "above")
    remote.push(store, "child")
    assert remote.summary("child").parent == "above"
    assert remote.summary("orphan").parent == ""
    remote.pull("above", other, "mother")
    remote.pull("child", other)
    assert other.summary("child").parent == "mother"


def test_a_kernel_stays_where_it_is(store: Store, remote: RemoteStore) -> None:
    """What comes back is not what the kernel is at by now."""
    take(store, "first", "2026-01-01T00:00:00.000001+00:00", kernel_id="k")
    remote.push(store, "first")
    take(store, "second", "2026-01-01T00:00:00.000002+00:00", kernel_id="k")
    remote.pull("first", store, "again")
    assert store.position("k") == "second"


def test_lists_are_as_those_of_a_store(store: Store, remote: RemoteStore) -> None:
    for number in range(3):
        take(store, f"s{number}", f"2026-01-0{number + 1}T00:00:00+00:00")
    for number in (2, 0, 1):
        remote.push(store, f"s{number}")
    assert [s.name for s in remote.list()] == ["s0", "s1", "s2"]
    assert [s.name for s in remote.list(limit=2, newest_first=True)] == ["s2", "s1"]
    assert remote.suggest_name("python3") not in remote.names()


# Trust


def push_as(
    monkeypatch: pytest.MonkeyPatch, who: Path, remote: RemoteStore, store: Store, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("JUPYTER_CONFIG_DIR", str(who))
        remote.push(store, name)


def test_what_its_owner_pushed_is_trusted(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    take(store, "one")
    assert remote.push(store, "one").trusted
    assert remote.summary("one").trusted
    assert remote.pull("one", other).trusted
    pulled = other.summary("one")
    assert pulled.trusted
    assert pulled.signer == remote.summary("one").signer == Signers().own()


def test_what_others_pushed_is_not(
    store: Store,
    other: Store,
    remote: RemoteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take(store, "one")
    push_as(monkeypatch, tmp_path / "somebody", remote, store, "one")
    assert not remote.summary("one").trusted
    assert not remote.pull("one", other).trusted
    with other.open("one") as reader:
        assert not reader.is_trusted
    Signers().trust(remote.summary("one").signer, "a friend")
    assert remote.pull("one", other, "again").trusted
    # What is not trusted here does not become so by way of there.
    remote.push(other, "one", "laundered")
    assert not remote.summary("laundered").trusted
    assert not remote.pull("laundered", store).trusted


def test_what_is_not_as_it_was_signed_is_refused(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    """Also where somebody has seen to it that all checksums fit."""
    pages = os.urandom(100 * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=pages[: 50 * PAGE] + os.urandom(50 * PAGE))
    remote.push(store, "one")
    remote.push(store, "two", "two")
    one, two = remote.summary("one").id, remote.summary("two").id
    signature = f"snapshots/{one}/signature"
    before = remote._files.read([signature])
    for content, message in (
        (remote._files.read([f"snapshots/{two}/signature"]).popitem()[1], "what is there"),
        (b"{}", "is no signature"),
    ):
        remote._files.write({signature: content})
        forget(remote, signature)
        with pytest.raises(CorruptImage, match=message) as caught:
            remote.pull("one", other)
        assert f"{remote.url}/{signature}" in caught.value.message
    remote._files.write(before)
    forget(remote, signature)
    assert other.list() == []
    # The pages of a sound pack of as many pages, in the place of those that were signed.
    take(store, "three", pages=os.urandom(100 * PAGE))
    remote.push(store, "three")
    three = remote.summary("three").id
    for suffix in ("pack", "index"):
        content = remote._files.read([f"packs/{three}.{suffix}"]).popitem()[1]
        remote._files.write({f"packs/{one}.{suffix}": content})
        forget(remote, f"packs/{one}.{suffix}")
    with pytest.raises(CorruptImage, match="signature is not of what is there"):
        remote.pull("one", other)
    assert other.list() == []
    assert directories(other) == []


def forget(remote: RemoteStore, name: str) -> None:
    remote._mirror.path(name).unlink(missing_ok=True)


# Removal


def test_what_others_need_stays(store: Store, other: Store, remote: RemoteStore) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    take(store, "two", pages=changed(pages, 0.05))
    remote.push(store, "one")
    remote.push(store, "two")
    freed = remote.remove(["one"])
    assert freed.names == ("one",)
    assert freed.bytes < 10_000
    assert remote.names() == ["two"]
    remote.pull("two", other)
    assert sha(other, "two") == sha(store, "two")
    assert remote.remove(["two"]).bytes > len(pages)
    assert list(files(remote)) == ["seed"]
    assert remote.gc(0).bytes == 0


def test_a_push_shares_nothing_that_is_about_to_go(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    remote.push(store, "one")
    (pack,) = Survey.of(files(remote)).packs
    remote._files.write({f"packs/{pack}{GOING}abc": b""})
    assert remote.push(store, "one", "two").bytes > len(pages)
    # Nobody is about to remove it any more: whoever wanted to was killed.
    assert remote.gc().bytes == 0
    remote.gc(0)
    assert Survey.of(files(remote)).going == {}
    remote.remove(["one"])
    remote.pull("two", other)
    assert sha(other, "two") == sha(store, "one")


def test_a_removal_spares_what_a_push_is_about_to_need(
    store: Store, remote: RemoteStore
) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "one", pages=pages)
    remote.push(store, "one")
    id_ = remote.summary("one").id
    manifest = remote._files.read([f"snapshots/{id_}/{MANIFEST}"])
    pending = f"snapshots/{'0' * 16}/pending"
    remote._files.write({pending: manifest.popitem()[1]})
    remote.remove(["one"])
    assert Survey.of(files(remote)).packs == {id_}
    assert remote.gc().bytes == 0
    assert remote.gc(0).bytes > len(pages)
    assert list(files(remote)) == ["seed"]


# What goes wrong


def damage(remote: RemoteStore, name: str, change: str) -> None:
    content = remote._files.read([name])[name]
    if change == "flipped":
        at = len(content) // 2
        content = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
    elif change == "cut":
        content = content[: len(content) // 2]
    if change == "missing":
        remote._files.delete([name])
    else:
        remote._files.write({name: content})


@pytest.mark.parametrize("change", ["flipped", "cut", "missing"])
@pytest.mark.parametrize("part", ["pack", "index", "manifest"])
def test_damage_is_named(
    store: Store, other: Store, tmp_path: Path, part: str, change: str
) -> None:
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    assert_damage_is_named(store, other, remote, tmp_path, part, change)


@pytest.mark.parametrize("part", ["pack", "index"])
def test_damage_in_a_bucket_is_named(
    store: Store, other: Store, s3: str, tmp_path: Path, part: str
) -> None:
    assert_damage_is_named(store, other, RemoteStore(s3), tmp_path, part, "cut")


def assert_damage_is_named(
    store: Store,
    other: Store,
    remote: RemoteStore,
    tmp_path: Path,
    part: str,
    change: str,
) -> None:
    take(store, "sound")
    take(store, "one", pages=os.urandom(MANY * PAGE))
    remote.push(store, "one")
    remote.push(store, "sound")
    id_ = remote.summary("one").id
    name = f"snapshots/{id_}/manifest" if part == "manifest" else f"packs/{id_}.{part}"
    damage(remote, name, change)
    elsewhere = RemoteStore(remote.url, cache=tmp_path / "another cache")
    if (part, change) == ("manifest", "missing"):
        with pytest.raises(NoSuchSnapshot):
            elsewhere.pull("one", other)
    else:
        with pytest.raises(CorruptImage) as caught:
            elsewhere.pull("one", other)
        assert f"{remote.url}/packs/{id_}" in caught.value.message or (
            f"{remote.url}/{name}" in caught.value.message
        )
        assert str(tmp_path / "another cache") not in caught.value.message
        with pytest.raises(CorruptImage), elsewhere.open("one") as reader:
            reader.verify_pages()
    assert other.list() == []
    assert directories(other) == []
    elsewhere.pull("sound", other)
    if part == "manifest" or change == "missing":
        states = {s.name: s.state for s in elsewhere.list()}
        assert states.pop("one", "corrupt") == "corrupt"
        assert states == {"sound": "durable"}
    if (part, change) != ("manifest", "missing"):
        elsewhere.remove(["one"])
    elsewhere.gc(0)
    assert elsewhere.names() == ["sound"]
    assert len(Survey.of(files(remote)).parts) == 1


def test_a_damaged_copy_is_fetched_again(
    store: Store, other: Store, remote: RemoteStore
) -> None:
    take(store, "one")
    remote.push(store, "one")
    remote.pull("one", other)
    id_ = remote.summary("one").id
    for name in (f"snapshots/{id_}/manifest", f"packs/{id_}.index"):
        path = remote._mirror.path(name)
        path.write_bytes(bytes(path.stat().st_size))
        pulled = remote.pull("one", other)
        assert sha(other, pulled.name) == sha(store, "one")


def test_a_damaged_page_here_is_not_pushed(store: Store, remote: RemoteStore) -> None:
    directory = take(store, "one")
    pack = store.root / "packs" / f"{directory.name}.pack"
    with open(pack, "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    with pytest.raises(CorruptImage, match=str(pack)):
        remote.push(store, "one")
    assert set(files(remote)) <= {"seed"}
    assert not list(remote._mirror.directory.glob(".staging*"))


def test_one_that_is_being_saved_waits(store: Store, remote: RemoteStore) -> None:
    with store.create("one") as writer:
        with pytest.raises(StoreBusy):
            remote.push(store, "one")
        writer.add(header("one"))
        writer.publish()
        with pytest.raises(StoreBusy, match="Wait"):
            remote.push(store, "one")


def test_it_vanishes_meanwhile(
    store: Store, other: Store, remote: RemoteStore, tmp_path: Path
) -> None:
    take(store, "one", pages=os.urandom(MANY * PAGE))
    remote.push(store, "one")
    elsewhere = RemoteStore(remote.url, cache=tmp_path / "another cache")
    with elsewhere.open("one") as reader:
        remote.remove(["one"])
        with pytest.raises(StorageError, match=f"{remote.url}.* is gone"):
            reader.fetch()
    with pytest.raises(NoSuchSnapshot):
        elsewhere.pull("one", other)
    assert other.list() == []


def other_machine(remote: RemoteStore, tmp_path: Path) -> RemoteStore:
    """With copies of its own of what is there."""
    return RemoteStore(remote.url, tmp_path / "another cache")


def test_what_is_said_of_it_changes_for_everybody(
    store: Store, remote: RemoteStore, tmp_path: Path
) -> None:
    take(store, "one")
    take(store, "two", parent="one")
    for name in ("one", "two"):
        remote.push(store, name)
    elsewhere = other_machine(remote, tmp_path)
    assert {snapshot.name for snapshot in elsewhere.list()} == {"one", "two"}
    # Of the same length: nothing else tells these from each other.
    for name, new_name in (("one", "eno"), ("eno", "neo"), ("neo", "one")):
        remote.rename(name, new_name)
        assert {snapshot.name for snapshot in elsewhere.list()} == {new_name, "two"}
        assert elsewhere.summary("two").parent == new_name
        with pytest.raises(NoSuchSnapshot):
            remote.summary(name)
    assert remote.tag("one", ["b", "a"]) == ("a", "b")
    assert elsewhere.tag("one", ["c"], ["a"]) == ("b", "c")
    assert remote.tag("one") == remote.summary("one").tags == ("b", "c")
    with pytest.raises(NameTaken, match=f"named two already at {remote.url}"):
        remote.rename("one", "two")
    for wrong in (lambda: remote.rename("one", ".."), lambda: remote.tag("one", [" "])):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(NoSuchSnapshot, match="named on at"):
        remote.tag("on", ["a"])
    assert remote.pull("one", store).name == "one-2"
    assert store.summary("one-2").tags == ("b", "c")
    # None of the files that came in place of others is left.
    remote.remove(["one", "two"])
    assert remote.gc(0).bytes == 0
    assert [name for name in remote._files.find("snapshots") if "meta" in name] == []


def test_two_rename_at_once(store: Store, remote: RemoteStore, tmp_path: Path) -> None:
    """To one name: one of them has it at most, and nothing has two names or none."""
    for name in ("one", "two"):
        take(store, name)
        remote.push(store, name)
    both = (remote, other_machine(remote, tmp_path))
    with ThreadPoolExecutor(2) as threads:
        done = [
            threads.submit(place.rename, name, "new")
            for place, name in zip(both, ("one", "two"), strict=True)
        ]
    errors = [one.exception() for one in done]
    assert {type(error) for error in errors} <= {type(None), NameTaken}
    names = sorted(snapshot.name for snapshot in remote.list())
    assert names in (["new", "one"], ["new", "two"], ["one", "two"])
    assert ("new" in names) == (None in errors)


def test_one_that_goes_meanwhile_is_not_half_there(
    store: Store, remote: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(store, "one")
    remote.push(store, "one")
    elsewhere = other_machine(remote, tmp_path)
    write = RemoteFiles.write

    def remove_first(files: RemoteFiles, contents: dict[str, bytes]) -> None:
        monkeypatch.setattr(RemoteFiles, "write", write)
        elsewhere.remove(["one"])
        write(files, contents)

    monkeypatch.setattr(RemoteFiles, "write", remove_first)
    with pytest.raises(NoSuchSnapshot):
        remote.tag("one", ["late"])
    assert remote._files.find("snapshots") == {}


def test_what_a_policy_does_not_keep_goes_there_too(
    store: Store, remote: RemoteStore
) -> None:
    for day in range(1, 5):
        created = f"2026-01-0{day}T00:00:00+00:00"
        automatic = HIBERNATED if day == 1 else ""
        take(store, f"day-{day}", created, kernel_id="k", automatic=automatic)
        remote.push(store, f"day-{day}")
    remote.tag("day-2", ["kept"])
    with pytest.raises(UsageError, match="not understood"):
        remote.prune("the best")
    for dry_run in (True, False):
        pruned = remote.prune("last 1, tagged kept", dry_run=dry_run)
        assert [snapshot.name for snapshot in pruned.removed] == ["day-3"]
        assert pruned.bytes > 8192
        assert (pruned.kept, pruned.dry_run) == (3, dry_run)
    assert remote.names() == ["day-1", "day-2", "day-4"]
    assert remote.prune("all").removed == ()


def test_two_of_one_name_are_both_shown(store: Store, remote: RemoteStore) -> None:
    """Nobody should be able to push a second one; if somebody did, nothing is lost."""
    take(store, "one", "2026-01-01T00:00:00+00:00")
    take(store, "two", "2026-01-02T00:00:00+00:00")
    remote.push(store, "one")
    remote.push(store, "two")
    meta = f"snapshots/{remote.summary('two').id}/meta"
    remote._files.write({meta: b'{"name":"one","note":"a longer meta"}'})
    assert [s.name for s in remote.list()] == ["one", "one-2"]


def test_a_claim_that_nobody_holds_any_more(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    take(store, "one")
    meta = f"snapshots/{'0' * 16}/meta"
    remote._files.write({meta: b'{"name":"one"}'})
    monkeypatch.setattr("jupyter_cr.store.remote._PAUSE_S", 0.001)
    with pytest.raises(StoreBusy, match="Somebody else is pushing"):
        remote.push(store, "one")
    assert set(files(remote)) == {"seed", meta}
    long_ago = time.time() - 3600
    os.utime(tmp_path / "elsewhere" / meta, (long_ago, long_ago))
    remote.push(store, "one")
    assert remote.names() == ["one"]


# Places


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("nosuch://a", "nosuch://a", "Is nosuch:// right"),
        ("gs://a/b", "gcsfs", "pip install gcsfs"),
        ("sftp://me:secret@127.0.0.1:1/x", "sftp://127.0.0.1:1/x", "pip install paramiko"),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x cannot be reached", "network"),
    ],
)
def test_places_that_are_none(store: Store, url: str, message: str, hint: str) -> None:
    take(store, "one")
    with pytest.raises(StorageError) as caught:
        RemoteStore(url).list()
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)
    with pytest.raises(StorageError):
        RemoteStore(url).push(store, "one")
    with pytest.raises(StorageError):
        RemoteStore(url).pull("one", store)


def test_fsspec_is_missing(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["fsspec"] = None
from jupyter_cr.cli import main
sys.exit(main(["list", "--store", "s3://a/b"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == StorageError.exit_code
    assert "s3://a/b" in done.stderr
    assert "pip install 'jupyter-cr[remote]'" in done.stderr


def test_there_is_no_bucket(store: Store, s3: str) -> None:
    take(store, "one")
    remote = RemoteStore("s3://no-such-bucket/x")
    for work in (remote.list, lambda: remote.push(store, "one")):
        with pytest.raises(StorageError, match="no bucket no-such-bucket"):
            work()


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="No permission") as caught:
        RemoteStore(s3).list()
    assert s3 in caught.value.message
    assert "AWS_PROFILE" in caught.value.hint
    s3fs.S3FileSystem.clear_instance_cache()


AS_SOMEBODY = """
import sys
from pathlib import Path
from jupyter_cr.cli import main
from jupyter_cr.store import Store
from tests.store.harness import take
take(Store(), "one")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [("push", "one"), ("list", "--store"), ("pull", "one")])
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_no_permission(tmp_path: Path, words: tuple[str, ...], mode: int) -> None:
    from tests.conftest import a_user

    for user in a_user("ordinary"):
        place = user.home / "elsewhere"
        (place / "snapshots").mkdir(parents=True)
        (place / "packs").mkdir()
        for path in (place / "snapshots", place / "packs", place):
            _give(path, user)
            path.chmod(mode)
        url = f"file://{place}"
        done = user.run(user.python, "-c", AS_SOMEBODY, *words, url)
        if mode == 0o500 and words[0] != "push":
            # There is nothing to be read, and that is all.
            assert "snapshot" in done.stdout + done.stderr
        else:
            assert done.returncode == StorageError.exit_code, done.stdout
            assert f"No permission for {url}" in done.stderr
            assert "Traceback" not in done.stderr
        place.chmod(0o700)


def _give(path: Path, user: User) -> None:
    if os.geteuid() == 0:
        os.chown(path, ORDINARY_UID, ORDINARY_UID)


def test_it_is_closed_to_others(store: Store, tmp_path: Path) -> None:
    take(store, "one")
    remote = RemoteStore(f"file://{tmp_path}/elsewhere/store")
    remote.push(store, "one")
    remote.pull("one", store)
    assert stat.S_IMODE((tmp_path / "elsewhere" / "store").stat().st_mode) == 0o700
    for path in remote._mirror.directory.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert not list(remote._mirror.directory.glob(".staging*"))


def test_full_here(store: Store, tmp_path: Path) -> None:
    """Nothing of a snapshot that does not fit is left."""
    if os.geteuid() != 0:
        pytest.skip("not run by root")
    take(store, "one", pages=os.urandom(1000 * PAGE))
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    remote.push(store, "one")
    with small_disk(tmp_path / "small", "3m") as place:
        for cache in (tmp_path / "cache", place / "cache"):
            with Store(place / "store") as full:
                with pytest.raises(StorageError, match=str(place)) as caught:
                    RemoteStore(remote.url, cache).pull("one", full)
                assert "room" in caught.value.hint
                assert full.list() == []
    with small_disk(tmp_path / "small", "3m") as place:
        there = RemoteStore(f"file://{place}/elsewhere", tmp_path / "cache")
        with pytest.raises(StorageError, match=f"file://{place}"):
            there.push(store, "one")
        assert there.list() == []
        assert there.gc(0).bytes == 0
        take(store, "little")
        there.push(store, "little")


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True
    )
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_names_that_try_to_leave_are_left_alone(store: Store, tmp_path: Path) -> None:
    remote = RemoteStore(f"file://{tmp_path}/elsewhere")
    take(store, "one")
    remote.push(store, "one")
    place = tmp_path / "elsewhere"
    (place / "snapshots" / "not an id").mkdir()
    (place / "snapshots" / "not an id" / "manifest").write_bytes(b"x")
    (place / "packs" / "README").write_bytes(b"x")
    (place / "README").write_bytes(b"x")
    assert remote.names() == ["one"]
    remote.remove(["one"])
    remote.gc(0)
    assert set(files(remote)) == {
        "README",
        "seed",
        "packs/README",
        "snapshots/not an id/manifest",
    }


def test_a_damaged_seed(store: Store, remote: RemoteStore) -> None:
    take(store, "one")
    remote._files.write({"seed": b"no number"})
    with pytest.raises(StorageError, match=f"{remote.url}/seed"):
        remote.push(store, "one")


# Several at once


PUSH = """
import sys
from pathlib import Path
from jupyter_cr.errors import NameTaken, StoreBusy
from jupyter_cr.store import Store
from jupyter_cr.store.remote import RemoteStore
root, cache, url, name, *names = sys.argv[1:]
remote = RemoteStore(url, Path(cache))
store = Store(Path(root))
remote.list()
print("begun", flush=True)
sys.stdin.readline()
for as_name in names:
    try:
        remote.push(store, name, as_name)
        print("pushed", as_name, flush=True)
    except (NameTaken, StoreBusy) as error:
        print(type(error).__name__, as_name, flush=True)
"""


@pytest.fixture(params=["file", "s3"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One that processes can share."""
    if request.param == "file":
        return f"file://{tmp_path}/elsewhere"
    found: str = request.getfixturevalue("s3")
    return found


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def assert_whole(remote: RemoteStore) -> None:
    """All that is listed is there, and nothing else is once garbage has been collected."""
    for snapshot in remote.list():
        assert snapshot.state == "durable", snapshot
        with remote.open(snapshot.name) as reader:
            reader.verify_pages()
    remote.gc(0)
    survey = Survey.of(files(remote))
    assert (survey.pending, survey.strays, survey.going) == ([], [], {})
    needed: set[str] = set()
    for snapshot in remote.list():
        with remote.open(snapshot.name) as reader:
            reader.verify_pages()
            needed.update(reader.usage)
    assert survey.parts.keys() == survey.packs == needed
    assert remote.gc(0).bytes == 0


@pytest.mark.timeout(300)
def test_two_push_at_once(store: Store, shared_url: str, tmp_path: Path) -> None:
    pages = os.urandom(MANY * PAGE)
    take(store, "a", pages=pages)
    take(store, "b", pages=changed(pages, 0.1))
    ours = {
        "a": ["a1", "a2", "both1", "both2", "both3"],
        "b": ["b1", "both1", "both2", "b2", "both3"],
    }
    remote = RemoteStore(shared_url)
    with ExitStack() as stack:
        pushers = {
            name: stack.enter_context(
                program(PUSH, store.root, tmp_path / f"c{name}", shared_url, name, *names)
            )
            for name, names in ours.items()
        }
        for process in pushers.values():
            assert wait_for_line(process) == "begun"
        for process in pushers.values():
            start(process)
        said = {
            name: [wait_for_line(pushers[name]) for _ in names]
            for name, names in ours.items()
        }
        for process in pushers.values():
            process.wait(30)
    pushed = [
        line.split()[1] for lines in said.values() for line in lines if "push" in line
    ]
    assert sorted(pushed) == sorted(set(pushed)), said
    assert sorted(remote.names()) == sorted(pushed)
    assert {"a1", "a2", "b1", "b2"} <= set(pushed)
    assert_whole(remote)
    for snapshot in remote.list():
        owner = "a" if f"pushed {snapshot.name}" in said["a"] else "b"
        remote.pull(snapshot.name, store, f"back-{snapshot.name}")
        assert sha(store, f"back-{snapshot.name}") == sha(store, owner)


REMOVE = """
import sys
from pathlib import Path
from jupyter_cr.store.remote import RemoteStore
cache, url = sys.argv[1:]
remote = RemoteStore(url, Path(cache))
print("begun", flush=True)
sys.stdin.readline()
while True:
    names = [name for name in remote.names() if name.startswith("go")]
    if names:
        remote.remove(names)
        print("removed", flush=True)
"""


@pytest.mark.timeout(300)
def test_push_and_remove_at_once(store: Store, tmp_path: Path) -> None:
    """What one removes the other is about to share."""
    url = f"file://{tmp_path}/elsewhere"
    take(store, "one", pages=os.urandom(300 * PAGE))
    remote = RemoteStore(url)
    names = [f"{'go' if number % 2 == 0 else 'stay'}{number}" for number in range(30)]
    with (
        program(PUSH, store.root, tmp_path / "c1", url, "one", *names) as pusher,
        program(REMOVE, tmp_path / "c2", url) as remover,
    ):
        for process in (pusher, remover):
            assert wait_for_line(process) == "begun"
            start(process)
        said = [wait_for_line(pusher) for _ in names]
        assert wait_for_line(remover) == "removed"
        pusher.wait(30)
        assert remover.poll() is None
    pushed = {line.split()[1] for line in said if line.startswith("pushed")}
    assert len(pushed) > 25, said
    assert {name for name in pushed if name.startswith("stay")} <= set(remote.names())
    assert_whole(remote)


def kill_at_random(store: Store, url: str, cache: Path, chance: random.Random) -> None:
    names = [f"n{chance.getrandbits(64):x}" for _ in range(20)]
    with program(PUSH, store.root, cache, url, chance.choice("ab"), *names) as process:
        assert wait_for_line(process) == "begun"
        start(process)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_push_is_killed(store: Store, shared_url: str, tmp_path: Path) -> None:
    chance = random.Random()
    pages = os.urandom(MANY // 2 * PAGE)
    take(store, "a", pages=pages)
    take(store, "b", pages=changed(pages, 0.5))
    remote = RemoteStore(shared_url)
    remote.push(store, "a", "kept")
    for number in range(20 if shared_url.startswith("file") else 5):
        before = set(remote.names())
        kill_at_random(store, shared_url, tmp_path / "cache", chance)
        listed = remote.list()
        assert before <= {snapshot.name for snapshot in listed}
        assert {snapshot.state for snapshot in listed} == {"durable"}
        if number % 3 == 0:
            # With what the dead have left still there.
            remote.push(store, "b", f"p{number}")
        if number % 2:
            assert_whole(remote)
            gone = [s.name for s in remote.list() if s.name != "kept"]
            if gone:
                remote.remove(gone)
    assert_whole(remote)
    remote.pull("kept", store, "back")
    assert sha(store, "back") == sha(store, "a")


def test_what_is_young_is_left_alone(store: Store, remote: RemoteStore) -> None:
    take(store, "one", pages=os.urandom(MANY * PAGE))
    remote.push(store, "one")
    remote._files.delete([f"snapshots/{remote.summary('one').id}/manifest"])
    before = files(remote)
    assert remote.gc().bytes == 0
    assert files(remote) == before
    freed = remote.gc(0)
    assert freed.bytes > MANY * PAGE
    assert list(files(remote)) == ["seed"]


def test_uploads_that_nobody_finishes(store: Store, s3: str) -> None:
    import s3fs

    fs = s3fs.S3FileSystem()
    bucket, _, path = s3.removeprefix("s3://").partition("/")
    for key in (f"{path}/packs/{'0' * 16}.pack", "not ours"):
        fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    remote = RemoteStore(s3)
    take(store, "one")
    remote.push(store, "one")
    # To moto, all of them were begun in 2010.
    remote.gc(older_than_s=100 * 365 * 24 * 3600)
    assert len(fs.list_multipart_uploads(bucket)) == 2
    remote.gc()
    assert [each["Key"] for each in fs.list_multipart_uploads(bucket)] == ["not ours"]


# From one directory to another


def test_a_directory_is_a_store_too(store: Store, other: Store) -> None:
    take(store, "one", pages=os.urandom(MANY * PAGE))
    store.tag("one", ["tag"])
    assert copy_between(store, "one", other, "one").url == str(other.root)
    assert sha(other, "one") == sha(store, "one")
    assert other.summary("one").tags == ("tag",)
    assert copy_between(other, "one", store, None).name == "one-2"


def test_errors_are_of_the_kinds_that_are_told() -> None:
    error = RemoteFiles("s3://a/b").gone("packs/x.pack")
    assert isinstance(error, CheckpointRestoreError)
    assert "s3://a/b/packs/x.pack" in error.message
