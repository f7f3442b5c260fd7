"""What the snapshots of a store elsewhere are, from the copies of their small files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from msgspec.structs import replace

from jupyter_cr.errors import CorruptImage, FutureImage, ImageError
from jupyter_cr.image import Document
from jupyter_cr.image.cipher import unwrap
from jupyter_cr.image.frame import DAMAGED
from jupyter_cr.image.page_map import Interval, PageExtents
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.image.record_file import RecordFile
from jupyter_cr.store.entry import facts_of, fit_name, is_id
from jupyter_cr.store.layout import SNAPSHOTS
from jupyter_cr.store.meta import read_meta
from jupyter_cr.store.mirror import Mirror
from jupyter_cr.store.push_signature import PushSignature
from jupyter_cr.store.remote_files import RemoteFiles
from jupyter_cr.store.remote_reader import named_by_url
from jupyter_cr.store.signers import Signers
from jupyter_cr.store.snapshot import Snapshot, State
from jupyter_cr.store.survey import PENDING, Survey, pack_names
from jupyter_cr.store.trust import SIGNATURE

__all__ = ["claimed_name", "describe", "needed_packs"]

_PACK_PAGES = 32 / (32 * 16 + 13)
"""Of a pack, for each byte of its index: a block of 32 pages takes 13 bytes there, and 16
for each page."""


def claimed_name(mirror: Mirror, survey: Survey, id_: str) -> str:
    """What a snapshot is called, or will be once it is there; empty if nobody can tell."""
    return fit_name(read_meta(mirror.snapshot(id_), survey.meta(id_)).name)


def describe(mirror: Mirror, files: RemoteFiles, survey: Survey) -> list[Snapshot]:
    """All snapshots that are there, oldest first; damaged ones, too. Should two have one
    name, it is the older one's."""
    ids = [id_ for id_ in survey.complete if (mirror.snapshot(id_) / MANIFEST).exists()]
    found = [_describe(mirror, files, survey, id_) for id_ in ids]
    found.sort(key=lambda snapshot: (snapshot.created, snapshot.id))
    taken: dict[str, str] = {}
    named = []
    for snapshot in found:
        name, number = snapshot.name, 1
        while name in taken:
            number += 1
            name = f"{snapshot.name[:100]}-{number}"
        taken[name] = snapshot.id
        named.append(replace(snapshot, name=name))
    names = {id_: name for name, id_ in taken.items()}
    return [replace(one, parent=names.get(one.parent, "")) for one in named]


def _describe(mirror: Mirror, files: RemoteFiles, survey: Survey, id_: str) -> Snapshot:
    """With its parent's id in place of the name."""
    directory = mirror.snapshot(id_)
    meta = read_meta(directory, survey.meta(id_))
    state: State = "durable"
    problem = ""
    usage: Mapping[str, Sequence[Interval]] = {}
    facts: dict[str, Any] = {}
    name, note = fit_name(meta.name), meta.note_over("")
    try:
        with (
            named_by_url(mirror.directory, files),
            mirror.open(id_) as reader,
        ):
            header, usage = reader.header, reader.usage
            has_document = reader.has(Document)
            facts = facts_of(header, reader.outcome, has_document=has_document)
            name = name or fit_name(header.name)
            note = meta.note_over(header.note)
            _check_packs(files, survey, usage)
    except ImageError as error:
        state = "future" if isinstance(error, FutureImage) else "corrupt"
        problem = error.message
        if not facts:
            # Perhaps it is only the copy: the next time it is fetched again.
            (directory / MANIFEST).unlink(missing_ok=True)
            when = files.modified(f"{SNAPSHOTS}/{id_}/{MANIFEST}")
            # Of one that has just been removed, there is no time any more.
            seconds = when if when < float("inf") else 0.0
            iso = datetime.fromtimestamp(seconds, timezone.utc).isoformat()
            facts = {"created": iso}
    signer = _signer(mirror, id_)
    own = survey.size(f"{SNAPSHOTS}/{id_}/{file}" for file in survey.snapshots[id_])
    own += survey.size(pack_names(id_))
    shared = sum(
        _share(survey, pack, intervals)
        for pack, intervals in usage.items()
        if pack != id_ and pack in survey.packs
    )
    return Snapshot(
        name=name or id_,
        id=id_,
        state=state,
        bytes=own + shared,
        own=own,
        shared=shared,
        named=meta.named,
        parent=meta.parent if is_id(meta.parent) else "",
        tags=meta.tags,
        trusted=bool(signer) and Signers().is_trusted(signer),
        signer=signer,
        note=note,
        problem=problem,
        **facts,
    )


def _signer(mirror: Mirror, id_: str) -> str:
    """Who says that it has pushed that; its signature is checked when it is pulled."""
    try:
        data = (mirror.snapshot(id_) / SIGNATURE).read_bytes()
        return PushSignature.decode(data, "").signer
    except (OSError, ImageError):
        return ""


def _check_packs(
    files: RemoteFiles, survey: Survey, usage: Mapping[str, Sequence[Interval]]
) -> None:
    for pack in usage:
        if pack not in survey.packs:
            where = files.where(pack_names(pack)[0])
            raise CorruptImage(f"{where} is missing, or its index.", DAMAGED)


def _share(survey: Survey, pack: str, intervals: Sequence[Interval]) -> int:
    """About how many bytes some pages of a pack take."""
    data, index = (survey.sizes[name] for name in pack_names(pack))
    pages = max(1.0, index * _PACK_PAGES)
    wanted = sum(end - first for first, end in intervals)
    return int(data * min(1.0, wanted / pages))


def needed_packs(
    mirror: Mirror, survey: Survey, without: Collection[str] = ()
) -> set[str] | None:
    """The packs that snapshots need, also those that somebody is about to complete; None
    if that cannot be told: one is damaged, or written by a later release.

    Args:
        without: ids of those that do not count.
    """
    needed: set[str] = set()
    for id_, names in survey.snapshots.items():
        if id_ in without:
            continue
        for name in names & {MANIFEST, PENDING}:
            path = mirror.snapshot(id_) / name
            try:
                data = path.read_bytes()
            except OSError:
                # Removed since.
                continue
            try:
                records = unwrap(data, mirror.cipher, f"{id_}/{name}", path)
                needed.update(RecordFile(records, path).only(PageExtents).packs)
            except ImageError:
                path.unlink(missing_ok=True)
                return None
    return needed
