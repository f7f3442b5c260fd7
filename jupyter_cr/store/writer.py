"""Writing a snapshot into a store: it has its name from the beginning, and the catalogue
says how far it is."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from jupyter_cr.errors import StorageError
from jupyter_cr.image import Document, Header, ImageWriter, Outcome
from jupyter_cr.image.record_file import sync_directory
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import Entry, Stored, facts_of, fingerprint, own_usage
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import packs_beside, root_of
from jupyter_cr.store.lease import Lease
from jupyter_cr.store.meta import read_meta
from jupyter_cr.store.packs import FoundPacks
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.session import Session
from jupyter_cr.store.trust import sign
from jupyter_cr.store.twins import end_twins

__all__ = ["StoredWriter"]

_INTERVAL_S = 0.25
"""Between two looks that others can have at how far it is."""


class StoredWriter(ImageWriter):
    """One snapshot being written; an `ImageWriter` that the catalogue knows of.

    Args:
        catalogue: has `entry` already.
        directory: the snapshot's, empty but for what the store has in it.
        lease: of the directory, held alone, and with readers once it is published; given
            up at the end.
        seed: the store's, for hashes of pages.
        base: a snapshot with which it has much in common.
        trusted: whether it is taken here, or its owner wants it to be restored.

    Raises:
        StorageError: it cannot be written to.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        entry: Entry,
        directory: Path,
        lease: Lease,
        *,
        seed: int,
        base: StoredReader | None = None,
        trusted: bool = True,
    ) -> None:
        self._catalogue = catalogue
        self._entry = entry
        self._lease = lease
        self._header: Header | None = None
        self._outcome: Outcome | None = None
        self._has_document = False
        self._shown_at = 0.0
        self._is_told = False
        self._trusted = trusted
        packs = packs_beside(directory)
        known = FoundPacks(catalogue, entry.id)
        cipher = store_cipher()
        if base is not None and base.is_encrypted != (cipher is not None):
            base = None
        super().__init__(directory, packs, seed=seed, base=base, known=known, cipher=cipher)

    @property
    def id(self) -> str:
        """Of the snapshot."""
        return self._entry.id

    @property
    def name(self) -> str:
        """Of the snapshot; as it is called when it is committed, from then on."""
        return self._entry.name or ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._lease.release()

    def add(self, record: msgspec.Struct) -> None:
        """Append one record, of a class in `jupyter_cr.image.records.RECORDS`.

        Raises:
            StorageError: disk full, or not writable any more.
        """
        if isinstance(record, Header):
            self._header = record
        elif isinstance(record, Outcome):
            self._outcome = record
        elif isinstance(record, Document):
            self._has_document = True
        super().add(record)

    def show_saved(self, share: float) -> None:
        """Have the catalogue say how much is on disk, from 0 to 1; at most a few times a
        second, and not where that would have to be waited for."""
        now = time.monotonic()
        if now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        with suppress(StorageError):
            self._catalogue.write(
                lambda session: session.update(self.id, saved=share), patient=False
            )

    def publish(self) -> None:
        """Its twins are parked: it can be forked, though it is not on disk yet (``live``).

        Raises:
            StorageError: the store is not writable any more.
        """
        super().publish()

        def publish(session: Session) -> None:
            session.update(self.id, state="live", **self._facts())

        self._catalogue.write(publish)
        # From now on others may read it.
        self._lease.share()

    def commit(self, durable: bool = True) -> None:
        """Have it be there, whole, also for those who make the catalogue anew; and its
        kernel be at it.

        Args:
            durable: wait until it would survive a power cut (fsync(2)).

        Raises:
            StorageError: disk full, or not writable any more.
        """
        super().commit(durable)
        if durable:
            sync_directory(self.directory.parent)
        self._catalogue.write(self._conclude)
        self._is_told = True
        self._lease.share()

    def seal(self, manifest: bytes) -> None:
        if self._trusted:
            sign(root_of(self.directory), self.directory, manifest)

    @property
    def committed(self) -> bool:
        """Whether it is there for everybody."""
        return self._is_told

    def _conclude(self, session: Session) -> None:
        if self.pack_pages:
            session.packs.add(
                self.id,
                pages=self.pack_pages,
                stored=self.pack_stored,
                samples=self.samples,
            )
        shared = session.packs.use(self.id, self.usage)
        now = session.get(self.id)
        # Who makes the catalogue anew sees it as soon as it is whole, and so may others.
        is_removed = now is not None and now.state == "removed"
        if now is not None and not is_removed:
            self._entry = now
        session.update(
            self.id,
            state="removed" if is_removed else self._state,
            saved=1.0,
            own=own_usage(self.directory),
            shared=shared,
            trusted=self._trusted,
            fingerprint=fingerprint(self.directory),
            **self._facts(),
        )
        if self._header is not None and self._header.kernel.kernel_id:
            session.set_position(self._header.kernel.kernel_id, self.id)

    @property
    def _state(self) -> Stored:
        """That it has when it is there."""
        is_memory_only = self._outcome is not None and self._outcome.memory_only
        return "memory" if is_memory_only else "durable"

    def _facts(self) -> dict[str, object]:
        if self._header is None:
            return {}
        facts = facts_of(
            self._header,
            self._outcome,
            has_document=self._has_document,
            is_encrypted=self._cipher is not None,
        )
        # Somebody may have given it another one meanwhile.
        note = read_meta(self.directory).note_over(self._header.note)
        return {**facts, "note": note}

    def discard(self) -> None:
        """Remove all of it, and end its twins."""
        end_twins(self.directory)
        super().discard()
        self._lease.release()
        # What cannot be written now is found by the next run.
        with suppress(StorageError):
            self._catalogue.write(lambda session: session.delete(self.id))
