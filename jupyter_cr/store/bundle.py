"""Bundles: a snapshot in one file, to be carried elsewhere, also through a pipe.

A bundle is a tar file (POSIX.1-2001) with members in this order::

    bundle.json          what is in it: `BundleFacts`
    manifest             the image's, see `jupyter_cr.image`
    ID.index, ID.pack    its pages, and nobody else's; not there if all are zeros
    file-0, file-1 ...   files that were open, where they were asked for
    signature.json       of all of these: `BundleSignature`

The signature (Ed25519) is over the line ``jupyter-cr bundle 1`` and, for each member in
order, a line with its SHA-256, its size and its name. It says who has made the bundle, and
that nothing of it has been changed since.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from jupyter_cr import __version__
from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import CorruptImage, FutureImage
from jupyter_cr.image.copy import copy_image
from jupyter_cr.image.pack import pack_files
from jupyter_cr.image.reader import MANIFEST, ImageReader
from jupyter_cr.image.veil import Veil
from jupyter_cr.image.writer import ImageWriter
from jupyter_cr.store.entry import is_id
from jupyter_cr.store.key_file import transfer_veil
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.secret import page_seed, read_secret
from jupyter_cr.store.signers import Signers, verify_signature
from jupyter_cr.store.staging import Staging

__all__ = [
    "BundleFacts",
    "BundledFile",
    "facts_of",
    "place_files",
    "read_bundle",
    "write_bundle",
]

_FORMAT = 1
_FACTS, _SIGNATURE = "bundle.json", "signature.json"
_SMALL = 1 << 20
_PIECE = 1 << 20


class BundledFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the tree had open. `raw_path`: where it was; `mode`: its permissions."""

    raw_path: bytes
    mode: int
    size: int

    @property
    def path(self) -> str:
        """As `os` takes it; bytes that are no UTF-8 are lone surrogates (PEP 383)."""
        return os.fsdecode(self.raw_path)


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself."""

    format: int
    """Of bundles, not of images."""
    id: str
    """Of the snapshot, where it was."""
    name: str
    note: str = ""
    tags: tuple[str, ...] = ()
    tool: str
    """Version of jupyter-cr that wrote it."""
    files: tuple[BundledFile, ...] = ()


class BundleSignature(msgspec.Struct, frozen=True, kw_only=True):
    """Who has made the bundle; hexadecimal."""

    signer: str
    """Public key."""
    signature: str


def _line(digest: str, size: int, name: str) -> bytes:
    return f"{digest} {size} {name}\n".encode()


_FIRST_LINE = b"jupyter-cr bundle 1\n"


def write_bundle(
    reader: StoredReader,
    facts: BundleFacts,
    staged: Staging,
    stream: BinaryIO,
    root: Path,
    advance: Callable[[float], None] | None = None,
) -> None:
    """Write a snapshot as a bundle.

    Args:
        staged: room for a copy that has nothing but its own pages.
        stream: is only written to, from its beginning to its end.
        root: of the store.
        advance: told the share of the pages that have been copied.

    Raises:
        CorruptImage: a page is not as it was written.
        StorageError: disk full; or what reads the stream has gone.
    """
    seed = page_seed(read_secret(root))
    veil = transfer_veil()
    with ImageWriter(staged.directory, staged.packs, seed=seed, veil=veil) as writer:
        copy_image(reader, writer, advance=advance)
        writer.commit(durable=False)
        message = bytearray(_FIRST_LINE)
        with storage_errors("the bundle"), _tar(stream, "w|") as tar:
            _add(tar, message, _FACTS, msgspec.json.encode(facts))
            manifest = staged.directory / MANIFEST
            _add_file(tar, message, MANIFEST, manifest, veil=_over(veil, MANIFEST))
            if writer.pack_pages:
                pack = staged.directory.name
                data, index = pack_files(staged.packs, pack)
                _add_file(tar, message, f"{facts.id}.index", index)
                over = _over(veil, pack)
                _add_file(tar, message, f"{facts.id}.pack", data, veil=over)
            for number, file in enumerate(facts.files):
                path = Path(file.path)
                _add_file(tar, message, f"file-{number}", path, size=file.size)
            signer, signature = Signers().sign(bytes(message))
            signed = BundleSignature(signer=signer, signature=signature)
            _add(tar, bytearray(), _SIGNATURE, msgspec.json.encode(signed))


_Over = Callable[[bytes, int], bytes]
"""Puts a veil over bytes at an offset, and takes it away."""


def _over(veil: Veil | None, name: str) -> _Over | None:
    return None if veil is None else lambda data, offset: veil.over(data, name, offset)


@contextmanager
def _tar(stream: BinaryIO, mode: str) -> Iterator[tarfile.TarFile]:
    # The type stubs know only a few of the modes.
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        yield tar


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


def _add(tar: tarfile.TarFile, message: bytearray, name: str, content: bytes) -> None:
    message += _line(hashlib.sha256(content).hexdigest(), len(content), name)
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _add_file(
    tar: tarfile.TarFile,
    message: bytearray,
    name: str,
    path: Path,
    size: int | None = None,
    veil: _Over | None = None,
) -> None:
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size if size is None else size
        hashing = _Hashing(file, length, veil)
        tar.addfile(_member(name, length), hashing)
    message += _line(hashing.digest, length, name)


class _Hashing(io.RawIOBase):
    """A file that is read once, and hashed. One that is shorter than it was when it was
    looked at ends with zeros."""

    def __init__(self, file: BinaryIO, size: int, veil: _Over | None) -> None:
        self._file = file
        self._left = size
        self._size = size
        self._veil = veil
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if self._veil is not None:
            data = self._veil(data, self._size - self._left)
        data = data.ljust(wanted, b"\0")
        self._left -= len(data)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def read_bundle(
    stream: BinaryIO, staged: Callable[[str], Staging], name: str
) -> tuple[BundleFacts, ImageReader, str, Sequence[Path]]:
    """Read a bundle, and check that it is whole and as it was signed.

    Args:
        stream: is only read, from its beginning to its end.
        staged: makes room for an image with that id.
        name: of the bundle, for messages.

    Returns:
        What it says of itself, its image, who has signed it, and its files, which have
        other names here. The caller closes the reader.

    Raises:
        CorruptImage: it is no bundle, or damaged.
        FutureImage: made by a later release.
        StorageError: disk full.
    """
    bundle = _Bundle(stream, name)
    veil = transfer_veil()
    with bundle.errors():
        facts = bundle.facts()
        place = staged(facts.id)
        with storage_errors(place.directory):
            paths = bundle.store(facts, place, veil)
        signer = bundle.signer()
    return facts, ImageReader(place.directory, place.packs, veil=veil), signer, paths


class _Bundle:
    """One that is being read."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._message = bytearray(_FIRST_LINE)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Whatever is wrong with it is told as such."""
        try:
            with _tar(self._stream, "r|") as tar:
                self._tar = tar
                yield
        except (tarfile.TarError, EOFError, msgspec.MsgspecError, ValueError) as error:
            raise self._corrupt(f"is no bundle, or is damaged: {error}") from error

    def _corrupt(self, what: str) -> CorruptImage:
        return CorruptImage(
            f"{self._name} {what}.", "Get it again, or have it exported again."
        )

    def _next(self, *names: str) -> tarfile.TarInfo:
        member = self._tar.next()
        if member is None:
            raise self._corrupt("ends too early")
        if member.name not in names or not member.isreg() or member.issparse():
            raise self._corrupt(f"has {member.name!r} where {names[0]} should be")
        return member

    def _content(self, member: tarfile.TarInfo) -> BinaryIO:
        content = self._tar.extractfile(member)
        assert content is not None
        return content  # type: ignore[return-value]

    def _small(self, member: tarfile.TarInfo) -> bytes:
        if member.size > _SMALL:
            raise self._corrupt(f"has {member.size} bytes in {member.name}")
        data = self._content(member).read()
        if len(data) != member.size:
            raise self._corrupt(f"ends within {member.name}")
        return data

    def facts(self) -> BundleFacts:
        member = self._next(_FACTS)
        data = self._small(member)
        self._message += _line(hashlib.sha256(data).hexdigest(), len(data), member.name)
        # Before all the rest: that may be different in a later release.
        if msgspec.json.decode(data, type=_Format).format != _FORMAT:
            raise FutureImage(
                f"{self._name} was made by a later release.",
                "Use the release of jupyter-cr that made it, or a later one.",
            )
        facts = msgspec.json.decode(data, type=BundleFacts)
        if not is_id(facts.id):
            raise self._corrupt(f"has the id {facts.id!r}")
        return facts

    def store(self, facts: BundleFacts, place: Staging, veil: Veil | None) -> list[Path]:
        """Put its members where they belong, image and pages under a veil; where its files
        are."""
        over = _over(veil, MANIFEST)
        self._store(self._next(MANIFEST), place.directory / MANIFEST, over)
        data, index = pack_files(place.packs, facts.id)
        member = self._next(f"{facts.id}.index", *self._after_pages(facts))
        if member.name == f"{facts.id}.index":
            self._store(member, index)
            self._store(self._next(f"{facts.id}.pack"), data, _over(veil, facts.id))
            member = self._next(*self._after_pages(facts))
        paths = []
        for number in range(len(facts.files)):
            paths.append(place.packs.parent / f"file-{number}")
            self._store(member, paths[-1])
            member = self._next(
                f"file-{number + 1}" if number + 1 < len(facts.files) else _SIGNATURE
            )
        self._last = member
        return paths

    @staticmethod
    def _after_pages(facts: BundleFacts) -> tuple[str, ...]:
        return ("file-0",) if facts.files else (_SIGNATURE,)

    def _store(
        self, member: tarfile.TarInfo, path: Path, veil: _Over | None = None
    ) -> None:
        digest = hashlib.sha256()
        content = self._content(member)
        left = member.size
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb") as file:
            while left:
                data = content.read(min(left, _PIECE))
                if not data:
                    raise self._corrupt(f"ends within {member.name}")
                digest.update(data)
                at = member.size - left
                file.write(data if veil is None else veil(data, at))
                left -= len(data)
        self._message += _line(digest.hexdigest(), member.size, member.name)

    def signer(self) -> str:
        signed = msgspec.json.decode(self._small(self._last), type=BundleSignature)
        if not verify_signature(signed.signer, signed.signature, bytes(self._message)):
            raise self._corrupt("is not as it was signed")
        with suppress(StopIteration):
            if self._tar.next() is not None:
                raise self._corrupt("goes on after its signature")
        return signed.signer


class _Format(msgspec.Struct, frozen=True):
    format: int


def facts_of(reader: StoredReader, note: str, tags: Sequence[str]) -> BundleFacts:
    """What a bundle of a snapshot says of itself, without files."""
    return BundleFacts(
        format=_FORMAT,
        id=reader.directory.name,
        name=reader.name,
        note=note,
        tags=tuple(tags),
        tool=__version__,
    )


def place_files(facts: BundleFacts, paths: Sequence[Path]) -> list[str]:
    """Put files that are not here where they were there; what could not be, in sentences.
    One that is here already is left as it is.

    Args:
        paths: where they are now.
    """
    problems = []
    for file, path in zip(facts.files, paths, strict=True):
        try:
            Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with (
                open(os.open(file.raw_path, flags, file.mode & 0o777), "wb") as target,
                open(path, "rb") as source,
            ):
                while data := source.read(_PIECE):
                    target.write(data)
        except FileExistsError:
            problems += _differs(file, path)
        except (OSError, ValueError) as error:
            problems.append(f"{file.path} cannot be put there: {error}.")
    return problems


def _differs(file: BundledFile, path: Path) -> list[str]:
    with suppress(OSError):
        if Path(file.path).read_bytes() == path.read_bytes():
            return []
    return [f"{file.path} is here already, and another one; it is left as it is."]
