"""Exporting and importing snapshots: what the command line does with bundles."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO

import msgspec

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.image import ImageReader
from jupyter_cr.image.copy import copy_image
from jupyter_cr.store import Store
from jupyter_cr.store.bundle import (
    BundledFile,
    BundleFacts,
    facts_of,
    place_files,
    read_bundle,
    write_bundle,
)
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.signers import Signers
from jupyter_cr.store.staging import Staging, staging
from jupyter_cr.store.transfer import create_like, refuse_unfinished

__all__ = ["ImportResult", "export_snapshot", "import_snapshot"]


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot came from elsewhere."""

    name: str
    signer: str
    """Public key of whoever has exported it, hexadecimal."""
    signer_name: str
    """What that one is called here; empty if not known."""
    trusted: bool
    """Whether it can be restored as it is."""
    missing: tuple[str, ...]
    """What a restore needs and does not find here, in sentences."""
    warnings: tuple[str, ...] = ()


def export_snapshot(
    name: str,
    stream: BinaryIO,
    *,
    with_files: bool = False,
    store: Store | None = None,
) -> BundleFacts:
    """Write a snapshot as a bundle; what is in it.

    Args:
        stream: is only written to, from its beginning to its end.
        with_files: also the files that the tree had open under a name.

    Raises:
        ImageError: no such snapshot, or it is damaged.
        StoreBusy, UsageError: its pages are not on disk yet, or will not be.
        StorageError: disk full, or nobody reads the stream any more.
    """
    store = store or Store()
    summary = store.summary(name)
    with store.open(name) as reader, staging(store.root, summary.id) as staged:
        refuse_unfinished(reader, name)
        facts = facts_of(reader, summary.note, summary.tags)
        if with_files:
            facts = msgspec.structs.replace(facts, files=tuple(_open_files(reader)))
        write_bundle(reader, facts, staged, stream, store.root)
    return facts


def _open_files(reader: StoredReader) -> Iterator[BundledFile]:
    from jupyter_cr.engine.descriptors import regular_file
    from jupyter_cr.engine.open_file_table import FileTable

    found = set()
    for table in reader.records(FileTable):
        for file in table.files:
            if isinstance(file.record, regular_file.Record):
                found.add(file.record.path)
    for path in sorted(found):
        with storage_errors(os.fsdecode(path)):
            status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            mode = stat.S_IMODE(status.st_mode)
            yield BundledFile(raw_path=path, mode=mode, size=status.st_size)


def import_snapshot(
    stream: BinaryIO,
    source: str,
    *,
    name: str | None = None,
    with_files: bool = False,
    store: Store | None = None,
) -> ImportResult:
    """Take a snapshot out of a bundle.

    Args:
        stream: is only read, from its beginning to its end.
        source: what it is called, for messages.
        name: of the snapshot here; None: the one that it had, or one like it.
        with_files: put files that came with it where they were, if its signer is trusted.

    Raises:
        CorruptImage: it is no bundle, or damaged.
        FutureImage: made by a later release.
        NameTaken: there is a snapshot of that name.
        StorageError: disk full.
    """
    store = store or Store()
    if name is not None:
        store.check_free(name)
    with ExitStack() as stack:

        def make_room(id_: str) -> Staging:
            return stack.enter_context(staging(store.root, id_))

        facts, reader, signer, paths = read_bundle(stream, make_room, source)
        stack.enter_context(reader)
        signers = Signers()
        trusted = signers.is_trusted(signer)
        create = partial(
            store.create, trusted=trusted, signer=signer, tags=facts.tags, named=True
        )
        with create_like(create, facts.name) if name is None else create(name) as writer:
            copy_image(reader, writer)
            writer.commit()
            name = writer.name
        if facts.note != reader.header.note:
            store.annotate(name, facts.note)
        warnings = []
        if facts.files and with_files:
            warnings = (
                place_files(facts, paths)
                if trusted
                else [
                    "The files that came with it are not put in place: it is not trusted."
                ]
            )
        missing = _missing(reader)
    return ImportResult(
        name=name,
        signer=signer,
        signer_name=signers.trusted().get(signer, ""),
        trusted=trusted,
        missing=missing,
        warnings=tuple(warnings),
    )


def _missing(reader: ImageReader) -> tuple[str, ...]:
    from jupyter_cr.engine.preflight import find_missing

    return tuple(error.message for error in find_missing(reader))
