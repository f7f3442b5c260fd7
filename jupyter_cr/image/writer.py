"""Writing a snapshot: it is complete when its manifest has appeared, whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from jupyter_cr.engine.streams import PAGE
from jupyter_cr.image.cipher import Cipher, wrap
from jupyter_cr.image.pack import PackWriter
from jupyter_cr.image.page_map import ZEROS, Extent, Interval, PageMap
from jupyter_cr.image.page_writer import KnownPages, NoPages, PageWriter
from jupyter_cr.image.reader import LIVE, MANIFEST, ImageReader
from jupyter_cr.image.record_file import RecordEncoder, write_whole
from jupyter_cr.image.veil import Veil
from jupyter_cr.tracer.scheduling import yield_processor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ImageWriter"]


class ImageWriter:
    """One snapshot being written; a `jupyter_cr.engine.streams.SnapshotWriter`.

    A context manager: what has not been committed at its end is removed.

    Args:
        directory: the snapshot's own, which is there; its pack gets its name.
        packs: the directory of all packs.
        seed: the store's, for hashes of pages.
        base: an earlier snapshot; stays the caller's.
        known: which packs there are.
        cipher: encrypts all of it; None: it is not encrypted.
        veil: over manifest and pack, where they are only on their way.

    Raises:
        StorageError: `packs` cannot be written to.
    """

    def __init__(
        self,
        directory: Path,
        packs: Path,
        *,
        seed: int,
        base: ImageReader | None = None,
        known: KnownPages | None = None,
        cipher: Cipher | None = None,
        veil: Veil | None = None,
    ) -> None:
        self.directory = directory
        self._cipher = cipher
        self._veil = veil
        self._base = base
        self._map = PageMap(())
        self._committed = False
        self._records = RecordEncoder()
        self._manifest_bytes = 0
        with ExitStack() as undo:
            # Compressing and hashing let go of the interpreter lock.
            workers = ThreadPoolExecutor(
                os.cpu_count() or 1, "pack", initializer=yield_processor
            )
            undo.callback(workers.shutdown)
            self._pack = PackWriter(packs, directory.name, workers, cipher, veil)
            undo.enter_context(self._pack)
            self._pages = PageWriter(packs, self._pack, seed, known or NoPages())
            self._open = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.committed:
            self.discard()

    @property
    def base(self) -> ImageReader | None:
        return self._base

    @property
    def committed(self) -> bool:
        """Whether the snapshot is complete, and to be kept."""
        return self._committed

    def add(self, record: msgspec.Struct) -> None:
        self._records.add(record)

    def append(self, data: bytes | memoryview) -> int:
        return self._pages.append(data) * PAGE

    def append_zeros(self, pages: int) -> None:
        """Append pages full of zeros."""
        self._pages.refer(Extent(0, pages, ZEROS, 0))

    def append_unchanged(self, offset: int, length: int) -> int:
        assert self._base is not None
        first, end = offset // PAGE, (offset + length) // PAGE
        start = self._pages.count
        for extent in self._base.page_map.find(first, end):
            self._pages.refer(extent)
        return start * PAGE

    def attach(self, name: str, content: bytes) -> None:
        write_whole(self.directory / name, content, durable=False)

    def publish(self) -> None:
        self._write(LIVE, self._records.whole(), durable=False)

    def _write(self, name: str, records: bytes, *, durable: bool) -> None:
        path = self.directory / name
        data = wrap(records, self._cipher, f"{self.directory.name}/{name}")
        if self._veil is not None:
            data = self._veil.over(data, name)
        write_whole(path, data, durable=durable)

    def commit(self, durable: bool = True) -> None:
        self._map = self._pages.finish()
        self._pack.finish(durable=durable)
        self._records.add(self._map.record())
        manifest = self._records.whole()
        self._manifest_bytes = len(manifest)
        self.seal(manifest)
        self._write(MANIFEST, manifest, durable=durable)
        self._committed = True
        with suppress(OSError):
            (self.directory / LIVE).unlink()
        self._open.close()

    def seal(self, manifest: bytes) -> None:
        """Called just before the manifest appears: for those who have something to say
        of it."""

    def discard(self) -> None:
        """Remove it, complete or not. May be called again."""
        self._open.close()
        self._pack.remove()
        self._committed = False
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def usage(self) -> Mapping[str, Sequence[Interval]]:
        """Of what has been committed: which pages of which pack it refers to."""
        return self._map.usage()

    @property
    def samples(self) -> Sequence[bytes]:
        """The hashes by which its pack is to be found."""
        return self._pack.samples

    @property
    def pack_pages(self) -> int:
        """How many pages its own pack has; with none, there is no pack."""
        return self._pack.pages

    @property
    def pack_stored(self) -> int:
        """Bytes that these take."""
        return self._pack.stored

    @property
    def stored_bytes(self) -> int:
        """What it takes: its own pack's data, and the manifest."""
        return self._pack.stored + self._manifest_bytes
