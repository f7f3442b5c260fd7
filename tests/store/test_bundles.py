"""Bundles: what goes in comes out, and nothing else does anything."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import pytest

from jupyter_cr.bundles import ImportResult, export_snapshot, import_snapshot
from jupyter_cr.errors import (
    CheckpointRestoreError,
    CorruptImage,
    FutureImage,
    NameTaken,
    StorageError,
    Untrusted,
)
from jupyter_cr.image import ImageReader
from jupyter_cr.operations import bring_fork, trust_snapshot
from jupyter_cr.store import Store
from jupyter_cr.store.signers import Signers
from tests.store.harness import pack_of, take

PAGE = 4096


@pytest.fixture(autouse=True)
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become("me", tmp_path, monkeypatch)


def become(who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config" / who))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    return Store(tmp_path / "elsewhere")


def bundle_of(store: Store, name: str) -> bytes:
    stream = io.BytesIO()
    export_snapshot(name, stream, store=store)
    return stream.getvalue()


def import_(store: Store, bundle: bytes, **options: object) -> ImportResult:
    return import_snapshot(io.BytesIO(bundle), "it", store=store, **options)  # type: ignore[arg-type]


def content(store: Store, name: str) -> bytes:
    with store.open(name) as reader:
        reader.verify_pages()
        return reader.read(0, reader.page_bytes)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """These snapshots are of no processes; what is missing is another test's concern."""
    monkeypatch.setattr("jupyter_cr.bundles._missing", lambda reader: ())


def test_what_goes_in_comes_out(store: Store, elsewhere: Store) -> None:
    pages = os.urandom(300 * PAGE) + bytes(100 * PAGE) + b"text " * 10_000
    pages += bytes(-len(pages) % PAGE)
    take(store, "one", pages=pages, kernel_id="kernel")
    store.annotate("one", "another note")
    store.tag("one", ["b", "a"])
    result = import_(elsewhere, bundle_of(store, "one"))
    assert (result.name, result.trusted) == ("one", True)
    there = elsewhere.summary("one")
    assert (there.note, there.tags, there.kernel_id) == (
        "another note",
        ("a", "b"),
        "kernel",
    )
    assert content(elsewhere, "one") == pages
    with store.open("one") as reader, elsewhere.open("one") as other:
        assert list(reader)[:-1] == list(other)[:-1], "all but where the pages are"
    assert leftovers(store) == leftovers(elsewhere) == []


def leftovers(store: Store) -> list[Path]:
    return list(store.root.glob(".staging-*"))


def test_pages_are_shared_there(store: Store, elsewhere: Store) -> None:
    pages = os.urandom(2000 * PAGE)
    take(elsewhere, "before", pages=pages)
    take(store, "one", pages=pages + os.urandom(PAGE))
    import_(elsewhere, bundle_of(store, "one"))
    assert pack_of(elsewhere.path("one")).stat().st_size <= 2 * PAGE


def test_nothing_of_other_snapshots_goes_along(store: Store) -> None:
    secret = b"the password of somebody else! " * 137
    pages = os.urandom(2000 * PAGE)
    take(store, "other", pages=secret[:PAGE] + pages)
    take(store, "one", pages=pages)
    assert not pack_of(store.path("one")).exists(), "all of it is in the other's pack"
    bundle = bundle_of(store, "one")
    assert secret[:1000] not in bundle
    assert len(bundle) < len(pages) + 200_000


def test_a_name_that_is_taken(store: Store, elsewhere: Store) -> None:
    take(store, "one")
    take(elsewhere, "one")
    bundle = bundle_of(store, "one")
    assert import_(elsewhere, bundle).name == "one-2"
    assert import_(elsewhere, bundle).name == "one-3"
    assert import_(elsewhere, bundle, name="two").name == "two"
    with pytest.raises(NameTaken):
        import_(elsewhere, bundle, name="two")


def test_what_a_stranger_has_exported(
    store: Store, elsewhere: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become("stranger", tmp_path, monkeypatch)
    take(store, "one")
    bundle = bundle_of(store, "one")
    stranger = Signers().own()
    become("me", tmp_path, monkeypatch)
    result = import_(elsewhere, bundle)
    assert (result.signer, result.signer_name, result.trusted) == (stranger, "", False)
    assert elsewhere.summary("one").signer == stranger
    with pytest.raises(Untrusted):
        bring_fork("one", store=elsewhere)
    elsewhere.rebuild()
    assert (elsewhere.summary("one").signer, elsewhere.summary("one").trusted) == (
        stranger,
        False,
    )
    trust_snapshot("one", with_signer="Prof. Ada", store=elsewhere)
    assert elsewhere.summary("one").trusted
    second = import_(elsewhere, bundle)
    assert (second.signer_name, second.trusted) == ("Prof. Ada", True)
    Signers().distrust(stranger)
    assert not import_(elsewhere, bundle).trusted


def test_every_flipped_byte_is_noticed(store: Store, elsewhere: Store) -> None:
    take(store, "one", pages=os.urandom(3 * PAGE))
    bundle = bundle_of(store, "one")
    chance = random.Random(1)
    for position in [*range(600), *chance.sample(range(len(bundle) - 10_240), 300)]:
        damaged = bytearray(bundle)
        damaged[position] ^= 1 << chance.randrange(8)
        try:
            import_(elsewhere, bytes(damaged), name="x")
        except (CorruptImage, FutureImage):
            assert elsewhere.names() == []
        else:
            # What tar itself has no use for: times and the like, and what it pads with.
            assert tarred(damaged) == tarred(bundle)
            elsewhere.remove(["x"])
    assert leftovers(elsewhere) == []


def tarred(bundle: bytes | bytearray) -> list[tuple[str, bytes]]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            found.append((member.name, content.read()))
    return found


def test_a_bundle_cut_anywhere_is_noticed(store: Store, elsewhere: Store) -> None:
    take(store, "one", pages=os.urandom(3 * PAGE))
    bundle = bundle_of(store, "one")
    end = bundle.rindex(b'"signature"')
    for length in [*range(0, 2048, 97), *range(2048, end, 1009)]:
        with pytest.raises(CorruptImage, match=r"^it "):
            import_(elsewhere, bundle[:length])
    assert elsewhere.names() == []
    assert leftovers(elsewhere) == []


def rewritten(bundle: bytes, change: dict[str, bytes | None], signer: Signers) -> bytes:
    """With other members, and signed as if all were well."""
    import hashlib

    message = b"jupyter-cr bundle 1\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in tarred(bundle):
            if name == "signature.json":
                break
            new = change.get(name, content)
            if new is None:
                continue
            member = tarfile.TarInfo(name)
            member.size = len(new)
            tar.addfile(member, io.BytesIO(new))
            message += f"{hashlib.sha256(new).hexdigest()} {len(new)} {name}\n".encode()
        key, signature = signer.sign(message)
        text = msgspec.json.encode({"signer": key, "signature": signature})
        member = tarfile.TarInfo("signature.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return out.getvalue()


def test_what_was_signed_and_is_wrong_all_the_same(store: Store, elsewhere: Store) -> None:
    take(store, "one", pages=os.urandom(3 * PAGE))
    bundle = bundle_of(store, "one")
    signers = Signers()
    assert import_(elsewhere, rewritten(bundle, {}, signers)).name == "one"
    facts = msgspec.json.decode(dict(tarred(bundle))["bundle.json"])
    wrong: list[dict[str, bytes | None]] = [
        {"manifest": b""},
        {"manifest": None},
        {"bundle.json": b"{}"},
        {"bundle.json": msgspec.json.encode(facts | {"id": "../../etc"})},
        {"bundle.json": msgspec.json.encode(facts | {"name": "../x"})},
        {"bundle.json": msgspec.json.encode(facts | {"files": [{}]})},
        {f"{facts['id']}.pack": b"short"},
        {f"{facts['id']}.pack": None},
        {f"{facts['id']}.index": None},
    ]
    for change in wrong:
        with pytest.raises(CheckpointRestoreError):
            import_(elsewhere, rewritten(bundle, change, signers))
        assert elsewhere.names() == ["one"]
    later = {"bundle.json": msgspec.json.encode(facts | {"format": 2})}
    with pytest.raises(FutureImage, match="later release"):
        import_(elsewhere, rewritten(bundle, later, signers))
    assert leftovers(elsewhere) == []


def test_members_that_lead_elsewhere(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name, kind in (
        ("../../target", tarfile.REGTYPE),
        (str(target), tarfile.REGTYPE),
        ("bundle.json", tarfile.SYMTYPE),
        ("bundle.json", tarfile.CHRTYPE),
        ("bundle.json", tarfile.DIRTYPE),
    ):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = str(target)
            tar.addfile(member)
        with pytest.raises(CorruptImage):
            import_(store, out.getvalue())
    assert not target.exists()
    assert store.names() == []


def test_files_go_along_when_asked(
    store: Store, elsewhere: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_cr.store.bundle import BundledFile

    data = tmp_path / "data" / "numbers.csv"
    data.parent.mkdir()
    data.write_bytes(b"1,2,3\n" * 1000)
    data.chmod(0o640)
    take(store, "one")
    found = BundledFile(raw_path=os.fsencode(data), mode=0o640, size=6000)
    monkeypatch.setattr("jupyter_cr.bundles._open_files", lambda reader: [found])
    stream = io.BytesIO()
    facts = export_snapshot("one", stream, with_files=True, store=store)
    assert [file.path for file in facts.files] == [str(data)]
    bundle = stream.getvalue()
    data.unlink()
    assert import_(elsewhere, bundle).warnings == ()
    assert not data.exists(), "nobody has asked for it"
    assert import_(elsewhere, bundle, with_files=True).warnings == ()
    assert data.read_bytes() == b"1,2,3\n" * 1000
    assert data.stat().st_mode & 0o777 & ~0o022 == 0o640
    assert import_(elsewhere, bundle, with_files=True).warnings == ()
    data.write_bytes(b"mine")
    (warning,) = import_(elsewhere, bundle, with_files=True).warnings
    assert "left as it is" in warning
    assert data.read_bytes() == b"mine"
    data.unlink()
    become("somebody else", tmp_path, monkeypatch)
    (warning,) = import_(elsewhere, bundle, with_files=True).warnings
    assert "not trusted" in warning
    assert not data.exists()


def test_through_a_pipe(store: Store, elsewhere: Store) -> None:
    pages = os.urandom(3000 * PAGE)
    take(store, "one", pages=pages)
    command = [sys.executable, "-c", "from jupyter_cr.cli import main; exit(main())"]
    environment = {**os.environ, "JUPYTER_CR_HOME": str(store.root)}
    there = {**os.environ, "JUPYTER_CR_HOME": str(elsewhere.root)}
    with subprocess.Popen(
        [*command, "export", "one", "-"], env=environment, stdout=subprocess.PIPE
    ) as exporting:
        done = subprocess.run(
            [*command, "import", "-", "--json"],
            env=there,
            stdin=exporting.stdout,
            capture_output=True,
            timeout=60,
            check=False,
        )
    # Of no processes, so that there is no telling what a restore needs.
    assert b"It was not written by a complete checkpoint" in done.stderr
    assert content(elsewhere, "one") == pages


def test_nobody_reads_the_pipe(store: Store) -> None:
    take(store, "one", pages=os.urandom(3000 * PAGE))
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as stream, pytest.raises(StorageError):
        export_snapshot("one", stream, store=store)
    assert leftovers(store) == []


def test_what_a_killed_import_leaves_is_found(store: Store) -> None:
    stale = store.root / ".staging-0123"
    stale.mkdir(parents=True)
    (stale / "pack").write_bytes(bytes(1 << 20))
    take(store, "one")
    store.gc()
    assert stale.exists(), "somebody may be making it just now"
    os.utime(stale, (0, 0))
    assert store.gc().bytes >= 1 << 20
    assert not stale.exists()


def test_a_damaged_key_says_what_to_do(store: Store) -> None:
    take(store, "one")
    bundle_of(store, "one")
    path = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "jupyter_cr" / "signing_key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("?")
    with pytest.raises(StorageError, match="which signs what you export") as caught:
        bundle_of(store, "one")
    assert "remove it" in caught.value.hint


def test_a_copy_is_an_image_like_others(store: Store, tmp_path: Path) -> None:
    """What is in a bundle can be read without a store."""
    pages = os.urandom(40 * PAGE)
    take(store, "one", pages=pages)
    members = dict(tarred(bundle_of(store, "one")))
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "manifest").write_bytes(members["manifest"])
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)
    with ImageReader(tmp_path / "image", tmp_path) as reader:
        assert reader.read(0, len(pages)) == pages
