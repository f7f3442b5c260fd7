"""The local copy of a store elsewhere: what is small, and never changes.

::

    CACHE/snapshots/ID/...     manifests and metas, as they are there; with a key, manifests
                               are encrypted
    CACHE/packs/ID.index       likewise; ID.samples: the hashes by which the pack is found
    CACHE/.staging-TOKEN/      a transfer that is under way: a store of one snapshot

All of it can be deleted at any time, and is fetched again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import CheckpointRestoreError, ImageError
from jupyter_cr.image import ImageReader
from jupyter_cr.image.cipher import WRAPPING, Cipher, wrap
from jupyter_cr.image.pack import HASH_BYTES, pack_files, read_samples
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.image.record_file import write_whole
from jupyter_cr.store.layout import PACKS, SNAPSHOTS
from jupyter_cr.store.remote_files import RemoteFiles
from jupyter_cr.store.root import prepare_root
from jupyter_cr.store.staging import Staging, staging, stale_stagings
from jupyter_cr.store.survey import PENDING, Survey, pack_names

__all__ = ["Mirror", "MirroredPacks"]

_AT_ONCE = 64 << 20
"""Bytes that are fetched together: they are in memory meanwhile."""

_YOUNG_S = 60
"""What is younger may be another process's that has just begun."""

_MOST = 3
"""Packs that are looked into for one segment of pages."""


class Mirror:
    """The copy of one store. Processes can share it.

    Args:
        directory: made when first needed, 0700.
        files: what it is a copy of.
        cipher: encrypts the copies of manifests; those of each key have a directory of
            their own.
    """

    def __init__(
        self, directory: Path, files: RemoteFiles, cipher: Cipher | None = None
    ) -> None:
        self._plain = directory
        if cipher is not None:
            directory = directory.with_name(f"{directory.name}-{cipher.id.hex()}")
        self.directory = directory
        self.cipher = cipher
        self._files = files

    def path(self, name: str) -> Path:
        """Where the copy of a file is."""
        return self.directory / name

    def snapshot(self, id_: str) -> Path:
        """Where the copy of a snapshot's files is."""
        return self.directory / SNAPSHOTS / id_

    def fetch(self, wanted: Mapping[str, int]) -> None:
        """Have copies of these files; not of those that are gone there.

        Args:
            wanted: with their sizes, by which a copy is known to be the same: a file
                never changes.

        Raises:
            StorageError: there, or here.
        """
        missing = [
            name
            for name, size in wanted.items()
            if _size(self.path(name)) != size + (WRAPPING if self._is_wrapped(name) else 0)
        ]
        if not missing:
            return
        prepare_root(self.directory)
        if self.cipher is not None:
            # Of a time when there was no key.
            shutil.rmtree(self._plain / SNAPSHOTS, ignore_errors=True)
        for batch in _batches(missing, wanted):
            for name, content in self._files.read(batch).items():
                path = self.path(name)
                self._make(path.parent)
                if self._is_wrapped(name):
                    place = f"{path.parent.name}/{path.name}"
                    content = wrap(content, self.cipher, place)
                write_whole(path, content, durable=False)

    def _is_wrapped(self, name: str) -> bool:
        return self.cipher is not None and name.endswith((f"/{MANIFEST}", f"/{PENDING}"))

    def open(self, id_: str) -> ImageReader:
        """A snapshot's records; its pages are not here.

        Raises:
            ImageError: the copy is gone, or damaged.
        """
        return ImageReader(self.snapshot(id_), self.path(PACKS), self.cipher)

    def _make(self, directory: Path) -> None:
        # Parents would not get that mode by mkdir() of the last one.
        with storage_errors(directory):
            for path in (directory.parent, directory):
                path.mkdir(mode=0o700, exist_ok=True)

    def forget(self, survey: Survey) -> None:
        """Delete copies of what is not there any more, but for those that another process
        may just have fetched, which knows more than we do."""
        for part, kept in ((SNAPSHOTS, survey.snapshots), (PACKS, survey.parts)):
            with suppress(OSError):
                for path in (self.directory / part).iterdir():
                    if path.stem in kept or _age(path) < _YOUNG_S:
                        continue
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()

    def samples(self, pack: str) -> bytes:
        """The hashes by which a pack is to be found; its index is here.

        Raises:
            ImageError: that is damaged.
        """
        _, index = pack_files(self.directory / PACKS, pack)
        path = index.with_suffix(".samples")
        with suppress(OSError):
            return path.read_bytes()
        found = read_samples(index)
        write_whole(path, found, durable=False)
        return found

    @contextmanager
    def work(self, id_: str) -> Iterator[Staging]:
        """Room for one image on its way, as `jupyter_cr.store.staging.staging` makes it;
        what killed processes have left goes.

        Raises:
            StorageError: not writable.
        """
        for place in stale_stagings(self.directory):
            shutil.rmtree(place, ignore_errors=True)
        with staging(self.directory, id_) as staged:
            yield staged

    def lend_pack(self, packs: Path, pack: str, size: int) -> None:
        """Put a pack among those of a transfer: its index, and a file without any of its
        data, but as long.

        Raises:
            StorageError: not writable.
        """
        data, index = pack_files(packs, pack)
        source = self.path(pack_names(pack)[1])
        with storage_errors(index):
            index.unlink(missing_ok=True)
            os.link(source, index)
            flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
            fd = os.open(data, flags, 0o600)
            try:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)


class MirroredPacks:
    """Finds packs that are there already; a `jupyter_cr.image.page_writer.KnownPages`.

    Args:
        mirror: has the indexes of all of them, as far as they could be had.
        packs: with the sizes of their data, in bytes.
        directory: a transfer's, where they are to be found.
    """

    def __init__(self, mirror: Mirror, packs: Mapping[str, int], directory: Path) -> None:
        self._mirror = mirror
        self._packs = packs
        self._directory = directory
        self._lent: set[str] = set()
        self._with: dict[bytes, list[str]] = {}
        for pack in packs:
            # One that cannot be read is not found, and its pages are stored again.
            with suppress(ImageError):
                for digest in _digests(mirror.samples(pack)):
                    self._with.setdefault(digest, []).append(pack)

    def candidates(self, samples: Sequence[bytes]) -> Sequence[str]:
        found = Counter(
            pack for digest in samples for pack in self._with.get(digest, ())
        ).most_common(_MOST)
        names = []
        for pack, _ in found:
            with suppress(CheckpointRestoreError):
                if pack not in self._lent:
                    self._mirror.lend_pack(self._directory, pack, self._packs[pack])
                    self._lent.add(pack)
                names.append(pack)
        return names


def _digests(samples: bytes) -> Iterator[bytes]:
    for start in range(0, len(samples), HASH_BYTES):
        yield samples[start : start + HASH_BYTES]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _batches(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    total = 0
    for name in names:
        if batch and total + sizes[name] > _AT_ONCE:
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += sizes[name]
    if batch:
        yield batch
