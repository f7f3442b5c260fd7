"""Snapshots on their way from one store to another."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import msgspec

from jupyter_cr.errors import ImageError, NameTaken, StorageError, StoreBusy, UsageError
from jupyter_cr.image import ImageReader
from jupyter_cr.image.copy import copy_image
from jupyter_cr.store.push_signature import PushSignature
from jupyter_cr.store.signers import Signers
from jupyter_cr.store.snapshot import Snapshot
from jupyter_cr.store.store import Store
from jupyter_cr.store.writer import StoredWriter

__all__ = [
    "Progress",
    "Transferred",
    "advance_of",
    "copy_between",
    "copy_into",
    "create_like",
    "find_same",
    "is_same",
    "milliseconds_since",
    "refuse_unfinished",
]

Progress = Callable[[str, float], None]
"""Called with the phase's name and how much of it is done, from 0 to 1."""


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot is in another store, too."""

    name: str
    """There."""
    source: str
    """Its name where it came from."""
    url: str
    """Of the store that is elsewhere; a path if it is a directory."""
    logical: int
    """Bytes of memory that it holds."""
    bytes: int
    """That were sent, or fetched."""
    trusted: bool = True
    """Whether it may be restored there without being trusted by name."""
    elapsed_ms: float


def advance_of(progress: Progress | None, phase: str) -> Callable[[float], None] | None:
    """To be told how much of one phase is done."""
    if progress is None:
        return None
    return lambda share: progress(phase, share)


def is_same(one: Snapshot, other: Snapshot) -> bool:
    """Whether they are copies of one snapshot, whatever they are called: nobody takes two
    of one process in the same microsecond."""
    facts = [(s.created, s.pid, s.comm, s.kernel_id) for s in (one, other)]
    return facts[0] == facts[1]


def find_same(wanted: Snapshot, snapshots: Iterable[Snapshot]) -> str:
    """The name of a sound copy of a snapshot; empty if there is none."""
    states = ("durable", "warm")
    return next((s.name for s in snapshots if s.state in states and is_same(s, wanted)), "")


def refuse_unfinished(reader: ImageReader, name: str) -> None:
    """See that a snapshot has pages.

    Raises:
        StoreBusy: they are still being saved.
        UsageError: they are in memory only.
    """
    if reader.is_memory_only:
        raise UsageError(
            f"Snapshot {name} is in memory only.",
            f"Have it kept on disk first: jupyter cr keep {name} NEW_NAME",
        )
    if not reader.is_complete:
        raise StoreBusy(
            f"Snapshot {name} is still being saved.",
            "Wait until it is durable: jupyter cr list shows that.",
        )


def refuse_encrypted(reader: ImageReader, name: str) -> None:
    """See that nothing that is encrypted here would be readable elsewhere.

    Raises:
        UsageError: it would.
    """
    if reader.is_encrypted:
        raise UsageError(
            f"Snapshot {name} is encrypted, and would not be where it is pushed to.",
            f"Carry it yourself: jupyter cr export {name} - | age -r RECIPIENT > FILE",
        )


def copy_into(
    store: Store,
    reader: ImageReader,
    source: Snapshot,
    *,
    name: str | None = None,
    parent: str = "",
    trusted: bool = False,
    signature: PushSignature | None = None,
    where: str = "",
    progress: Progress | None = None,
) -> str:
    """Copy a snapshot into a store, with its note and tags.

    Args:
        source: what is known of it.
        name: that it is to have; None for the one that it has, or one like it if that is
            taken.
        parent: name of its parent in that store.
        trusted: whether it may be restored in any case.
        signature: whose it is: it may be, too, if that one is trusted.
        where: that signature is, for messages.

    Returns:
        Its name.

    Raises:
        UsageError: not a name.
        NameTaken: there is one of that name.
        CorruptImage: a page is not as it was written, or the signature is of something
            else; nothing was added.
        StorageError: the store is full, or not writable.
    """
    # The kernel here may be further on than the one that the snapshot is of.
    kernel_id = source.kernel_id
    position = store.position(kernel_id) if kernel_id else ""
    signer = signature.signer if signature else source.signer
    create = partial(
        store.create,
        parent=parent,
        trusted=trusted,
        signer=signer,
        tags=source.tags,
    )
    pages = hashlib.sha256()
    with (
        create_like(partial(create, named=source.named), source.name)
        if name is None
        else create(name)
    ) as writer:
        advance = advance_of(progress, "save")
        copy_image(reader, writer, advance=advance, seen=pages.update)
        if signature is not None:
            signature.check(reader.manifest, pages.hexdigest(), where)
        writer.commit()
        given = writer.name
    # It is there; what is said of it beside the image is worth a try.
    with suppress(ImageError, StorageError):
        if source.note != reader.header.note:
            store.annotate(given, source.note)
        if position:
            store.set_position(kernel_id, position)
    if signature is not None and Signers().is_trusted(signer):
        store.trust(given)
    return given


def copy_between(
    source: Store,
    name: str,
    target: Store,
    as_name: str | None,
    progress: Progress | None = None,
) -> Transferred:
    """Copy a snapshot from one directory to another.

    Args:
        as_name: as the `name` of `copy_into`.

    Raises:
        NoSuchSnapshot: there is none; and as `copy_into`.
    """
    started = time.perf_counter()
    with source.open(name) as reader:
        refuse_unfinished(reader, name)
        snapshot = source.summary(name)
        parent = ""
        if snapshot.parent:
            parent = find_same(source.summary(snapshot.parent), target.list())
        given = copy_into(
            target,
            reader,
            snapshot,
            name=as_name,
            parent=parent,
            trusted=reader.is_trusted,
            progress=progress,
        )
        return Transferred(
            name=given,
            source=name,
            url=str(target.root),
            logical=reader.page_bytes,
            bytes=target.summary(given).own,
            trusted=reader.is_trusted,
            elapsed_ms=milliseconds_since(started),
        )


def create_like(create: Callable[[str], StoredWriter], name: str) -> StoredWriter:
    """Begin a snapshot of that name, or of one like it where it is taken.

    Args:
        create: begins it under a name, or raises NameTaken.
    """
    free, number = name, 1
    while True:
        with suppress(NameTaken):
            return create(free)
        number += 1
        free = f"{name[:100]}-{number}"


def milliseconds_since(started: float) -> float:
    """Of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1e3
