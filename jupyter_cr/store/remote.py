"""A store that is elsewhere: on any URL that fsspec knows.

::

    URL/seed                     for hashes of pages: this store's own
    URL/snapshots/ID/manifest    as in a store on disk (`jupyter_cr.store`)
    URL/snapshots/ID/meta        likewise; meta-* in its place: `jupyter_cr.store.meta`
    URL/snapshots/ID/signature   by whom it was pushed: `jupyter_cr.store.push_signature`
    URL/snapshots/ID/pending     a manifest that is to be: what a push will need
    URL/packs/ID.pack, ID.index  likewise
    URL/packs/ID.going-TOKEN     somebody is about to delete that pack

There is no database and there are no locks. What keeps those who write at once from harm
is the order in which they do it; all that is asked of the place is that what was written
can be seen by whoever looks afterwards.

**Push**: pack, index, ``pending`` and ``meta``; then look. If a pack that the snapshot
shares is gone or going, or somebody else has its name, it is withdrawn, and tried again;
else the manifest follows. **Remove**: the manifest; then a mark at each pack that nobody
else needed; then look. A pack that somebody needs by now stays, the others go. Whoever of
the two looks later sees the other.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from jupyter_cr.errors import (
    ImageError,
    NameTaken,
    NoSuchSnapshot,
    StorageError,
    StoreBusy,
)
from jupyter_cr.image import ImageWriter
from jupyter_cr.image.copy import copy_image
from jupyter_cr.image.pack import pack_files
from jupyter_cr.image.reader import MANIFEST
from jupyter_cr.store.entry import new_id
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import PACKS, SNAPSHOTS
from jupyter_cr.store.local_pages import LocalCopy, LocalPages
from jupyter_cr.store.meta import META, Meta, next_meta, read_meta
from jupyter_cr.store.mirror import Mirror, MirroredPacks
from jupyter_cr.store.names import check_name, check_tag, suggest_name
from jupyter_cr.store.push_signature import sign_push
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.remote_files import RemoteFiles
from jupyter_cr.store.remote_listing import claimed_name, describe, needed_packs
from jupyter_cr.store.remote_reader import RemoteReader
from jupyter_cr.store.retention import Policy, parse_policy
from jupyter_cr.store.root import store_root
from jupyter_cr.store.snapshot import HIBERNATED, Freed, Pruned, Snapshot
from jupyter_cr.store.staging import Staging
from jupyter_cr.store.store import Store
from jupyter_cr.store.survey import GOING, PENDING, Survey, pack_names
from jupyter_cr.store.transfer import (
    Progress,
    Transferred,
    advance_of,
    copy_into,
    find_same,
    milliseconds_since,
    refuse_encrypted,
    refuse_unfinished,
)
from jupyter_cr.store.trust import SIGNATURE

__all__ = ["AGE_LIMIT_S", "RemoteStore"]

AGE_LIMIT_S = 24 * 3600.0
"""What is younger may be part of a push that is under way."""

_CLAIM_S = 600.0
"""A push needs seconds from ``meta`` to ``manifest``; after that, it was killed."""

_SEED = "seed"
_TRIES = 5
_MOST_COPIES = 3
"""Local snapshots in which pages are looked for."""

_PAUSE_S = 0.2


class _InTheWayError(Exception):
    """Packs have gone that a push was to share."""

    def __init__(self, packs: Iterable[str]) -> None:
        super().__init__()
        self.packs = frozenset(packs)


class RemoteStore:
    """Snapshots at a URL. Any number of processes and machines may have one there at once.

    Args:
        url: of the store, as in ``s3://bucket/path`` or ``file:///path``.
        cache: where copies of what is small are kept; default: in the local store
            (`jupyter_cr.store.root.store_root`), under ``remote``.
        is_open: as of `jupyter_cr.store.remote_files.RemoteFiles`.

    All methods raise StorageError, which names the URL, where it cannot be reached, does
    not let us, or the package for its protocol is missing.
    """

    def __init__(
        self, url: str, cache: Path | None = None, *, is_open: bool = False
    ) -> None:
        self._files = RemoteFiles(url, is_open=is_open)
        self.url = self._files.url
        digest = hashlib.sha256(url.encode()).hexdigest()[:32]
        place = cache if cache is not None else store_root() / "remote"
        self._mirror = Mirror(place / digest, self._files, store_cipher())

    # What there is

    def _look(self) -> Survey:
        # In that order: the packs of a snapshot that is there have been there before it.
        sizes = self._files.find(SNAPSHOTS)
        survey = Survey.of(sizes | self._files.find(PACKS))
        self._mirror.fetch(survey.described())
        self._mirror.forget(survey)
        return survey

    def _examine(self) -> tuple[Survey, Sequence[Snapshot]]:
        for _ in range(2):
            survey = self._look()
            found = describe(self._mirror, self._files, survey)
            if all(snapshot.state != "corrupt" for snapshot in found):
                break
            # Unless it was removed in between, it still is.
        return survey, found

    def list(self, limit: int | None = None, newest_first: bool = False) -> list[Snapshot]:
        """Snapshots, oldest first; damaged ones, too.

        Args:
            limit: how many at most.
            newest_first: the other way round.
        """
        _, found = self._examine()
        return [*(reversed(found) if newest_first else found)][:limit]

    def names(self) -> Sequence[str]:
        """Names of all snapshots, sound or not, in no order."""
        return [snapshot.name for snapshot in self.list()]

    def summary(self, name: str) -> Snapshot:
        """The line of one snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        return self._required(self.list(), name)

    def _required(self, snapshots: Sequence[Snapshot], name: str) -> Snapshot:
        for snapshot in snapshots:
            if snapshot.name == name:
                return snapshot
        raise self._no_such(name, [snapshot.name for snapshot in snapshots])

    def _no_such(self, name: str, names: Sequence[str]) -> NoSuchSnapshot:
        close = difflib.get_close_matches(name, names, n=3)
        return NoSuchSnapshot(
            f"There is no snapshot named {name} at {self.url}.",
            f"Did you mean {' or '.join(close)}?"
            if close
            else f"jupyter cr list --store {self.url} shows all.",
        )

    def suggest_name(self, base: str) -> str:
        """A name that is free now, see `jupyter_cr.store.names.suggest_name`."""
        return suggest_name(base, set(self.names()))

    def check_free(self, name: str) -> None:
        """See that `push` would take that name now.

        Raises:
            UsageError: not a name.
            NameTaken: there is one.
        """
        check_name(name)
        if name in self.names():
            raise self._taken(name)

    def _taken(self, name: str) -> NameTaken:
        return NameTaken(
            f"There is a snapshot named {name} already at {self.url}.",
            "Choose another name (--as), or remove it first: jupyter cr rm "
            f"{name} --store {self.url}",
        )

    def open(self, name: str) -> RemoteReader:
        """Open a snapshot; its manifest is checked, and its pages are fetched when it is
        told to.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            CorruptImage: it is damaged.
            FutureImage: written by a later release.
        """
        survey, there = self._examine()
        return self._open(survey, self._required(there, name))

    def _open(self, survey: Survey, snapshot: Snapshot) -> RemoteReader:
        return RemoteReader(self._mirror, self._files, snapshot.id, snapshot.name, survey)

    def note_check(self, name: str, problem: str) -> None:
        """As `jupyter_cr.store.Store.note_check`; there is no catalogue to be told."""

    # Pushing

    def push(
        self,
        local: Store,
        name: str,
        as_name: str | None = None,
        progress: Progress | None = None,
    ) -> Transferred:
        """Copy a local snapshot there: what of its pages is not there already. Others see
        it when all of it is.

        Args:
            as_name: what it is to be called there; default: as here.
            progress: told of the phases ``pack`` and ``upload``.

        Raises:
            UsageError: not a name.
            NoSuchSnapshot: there is none here.
            NameTaken: there is one of that name there.
            StoreBusy: it is still being saved; or others there keep being faster.
            CorruptImage: it is damaged here.
        """
        started = time.perf_counter()
        wanted = check_name(as_name or name)
        with local.open(name) as reader:
            refuse_unfinished(reader, name)
            refuse_encrypted(reader, name)
            source = local.summary(name)
            # A name that nobody asked for is not worth an error.
            is_fixed = as_name is not None or source.named
            for given, avoided in self._tries(wanted, is_fixed=is_fixed):
                try:
                    sent = self._push(local, reader, source, given, avoided, progress)
                except _InTheWayError as error:
                    avoided |= error.packs
                    continue
                except NameTaken:
                    if is_fixed:
                        raise
                    continue
                return Transferred(
                    name=given,
                    source=name,
                    url=self.url,
                    logical=reader.page_bytes,
                    bytes=sent,
                    trusted=reader.is_trusted,
                    elapsed_ms=milliseconds_since(started),
                )
        raise StoreBusy(
            f"Others keep changing {self.url} while {name} is pushed.",
            "Try again when they have finished.",
        )

    def _tries(self, name: str, *, is_fixed: bool) -> Iterator[tuple[str, set[str]]]:
        """(name, packs that are not to be shared: can be added to)."""
        avoided: set[str] = set()
        for _ in range(_TRIES):
            free = name
            if not is_fixed:
                taken, number = set(self.names()), 1
                while free in taken:
                    number += 1
                    free = f"{name[:100]}-{number}"
            yield free, avoided

    def _push(
        self,
        local: Store,
        reader: StoredReader,
        source: Snapshot,
        name: str,
        avoided: set[str],
        progress: Progress | None,
    ) -> int:
        """One try; bytes sent."""
        survey, there = self._examine()
        if any(snapshot.name == name for snapshot in there):
            raise self._taken(name)
        packs = survey.usable() - avoided
        self._mirror.fetch(survey.indexes(packs))
        sizes = {pack: survey.sizes[pack_names(pack)[0]] for pack in packs}
        parent = self._parent(local, source, there)
        meta = Meta(
            name=name,
            note=source.note,
            tags=source.tags,
            parent=parent,
            named=source.named or name != source.name,
        )
        with self._mirror.work(new_id()) as staged:
            known = MirroredPacks(self._mirror, sizes, staged.packs)
            with ImageWriter(
                staged.directory, staged.packs, seed=self._seed(), known=known
            ) as writer:
                pages = hashlib.sha256()
                advance = advance_of(progress, "pack")
                copy_image(reader, writer, advance=advance, seen=pages.update)
                writer.attach(META, msgspec.json.encode(meta))
                writer.commit(durable=False)
                if reader.is_trusted:
                    manifest = (staged.directory / MANIFEST).read_bytes()
                    signature = sign_push(manifest, pages.hexdigest())
                    writer.attach(SIGNATURE, signature.encode())
                return self._send(writer, staged, name, progress)

    def _parent(self, local: Store, source: Snapshot, there: Sequence[Snapshot]) -> str:
        """The id there of the snapshot that its kernel was at before."""
        if source.parent:
            with suppress(NoSuchSnapshot):
                name = find_same(local.summary(source.parent), there)
                return next((s.id for s in there if s.name == name), "")
        return ""

    def _seed(self) -> int:
        """Who makes it at the same time as somebody else finds fewer pages that are there
        already, and that is all."""
        found = self._files.read([_SEED]).get(_SEED)
        if found is None:
            self._files.write({_SEED: secrets.token_hex(8).encode()})
            found = self._files.read([_SEED]).get(_SEED, b"")
        try:
            return int(found, 16) & (1 << 64) - 1
        except ValueError as error:
            raise StorageError(
                f"The seed {self._files.where(_SEED)} is damaged.",
                "Delete the file: a new one is made, and pages that are stored already are "
                "stored once more.",
            ) from error

    def _send(
        self, writer: ImageWriter, staged: Staging, name: str, progress: Progress | None
    ) -> int:
        id_ = staged.directory.name
        sent = 0
        try:
            if writer.pack_pages:
                own = pack_files(staged.packs, id_)
                for path, there in zip(own, pack_names(id_), strict=True):
                    advance = advance_of(progress, "upload") if path == own[0] else None
                    self._files.upload(path, there, advance)
                    sent += path.stat().st_size
            contents = {
                path.name: path.read_bytes()
                for path in staged.directory.iterdir()
                if not path.name.startswith(".")
            }
            self._conclude(id_, name, contents, set(writer.usage))
        except BaseException:
            # What cannot be deleted now is found by `gc`. And others may have found its
            # pages already.
            with suppress(StorageError):
                self._withdraw(id_)
                self._delete_packs({id_})
            raise
        return sent + sum(map(len, contents.values())) + len(contents[MANIFEST])

    def _conclude(
        self, id_: str, name: str, contents: Mapping[str, bytes], needed: set[str]
    ) -> None:
        """Have the snapshot be there, if nothing is in the way."""
        place = f"{SNAPSHOTS}/{id_}"
        claim = {PENDING: contents[MANIFEST], **contents}
        del claim[MANIFEST]
        for turn in range(_TRIES):
            self._files.write({f"{place}/{file}": data for file, data in claim.items()})
            survey = self._look()
            if lost := needed - survey.usable():
                raise _InTheWayError(lost)
            rivals = self._rivals(survey, id_, name)
            if not rivals:
                break
            self._withdraw(id_)
            if rivals & set(survey.complete):
                raise self._taken(name)
            time.sleep(random.uniform(0, _PAUSE_S * 2**turn))
        else:
            raise StoreBusy(
                f"Somebody else is pushing a snapshot named {name} to {self.url}.",
                "Choose another name (--as), or try again in ten minutes.",
            )
        self._files.write({f"{place}/{MANIFEST}": contents[MANIFEST]})
        self._files.delete([f"{place}/{PENDING}"])

    def _rivals(self, survey: Survey, id_: str, name: str) -> set[str]:
        """Others that have that name, or are about to."""
        found = set()
        for other, files in survey.snapshots.items():
            if other == id_ or claimed_name(self._mirror, survey, other) != name:
                continue
            if MANIFEST not in files:
                ours, theirs = (
                    self._files.modified(f"{SNAPSHOTS}/{each}/{META}")
                    for each in (id_, other)
                )
                if ours - theirs > _CLAIM_S:
                    continue
            found.add(other)
        return found

    def _withdraw(self, id_: str, later: Iterable[str] = ()) -> None:
        """Args:
        later: files that have come since it was pushed.
        """
        names = dict.fromkeys((MANIFEST, PENDING, META, SIGNATURE, *later))
        self._files.delete(f"{SNAPSHOTS}/{id_}/{name}" for name in names)
        self._files.delete_directory(f"{SNAPSHOTS}/{id_}")

    # Changing

    def rename(self, name: str, new_name: str) -> None:
        """Give a snapshot another name.

        Raises:
            UsageError: not a name.
            NoSuchSnapshot: there is none; the hint has names like it.
            NameTaken: there is one of that name already.
        """
        self.check_free(new_name)

        def change(meta: Meta) -> Meta:
            return replace(meta, name=new_name, named=True)

        id_, before, written = self._change(name, change)
        survey = self._look()
        if self._rivals(survey, id_, new_name):
            # Who was quicker has it.
            self._files.delete([f"{SNAPSHOTS}/{id_}/{written}"])
            raise self._taken(new_name)
        self._forget_meta(id_, before)

    def tag(
        self, name: str, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> tuple[str, ...]:
        """Give a snapshot tags, and take some away; those that it has now, sorted.

        Raises:
            UsageError: not a tag.
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        added, taken = {check_tag(tag) for tag in add}, set(remove)
        if not added and not taken:
            return self.summary(name).tags
        tags: tuple[str, ...] = ()

        def change(meta: Meta) -> Meta:
            nonlocal tags
            tags = tuple(sorted(added.union(meta.tags) - taken))
            return replace(meta, tags=tags)

        id_, before, _ = self._change(name, change)
        self._forget_meta(id_, before)
        return tags

    def _change(self, name: str, change: Callable[[Meta], Meta]) -> tuple[str, str, str]:
        """Write what is said of a snapshot anew: its id, and the names of the file that
        said it before and of the one that does now."""
        survey, there = self._examine()
        id_ = self._required(there, name).id
        before = survey.meta(id_)
        meta = change(read_meta(self._mirror.snapshot(id_), before))
        written = next_meta(before)
        self._files.write({f"{SNAPSHOTS}/{id_}/{written}": msgspec.json.encode(meta)})
        if id_ not in self._look().complete:
            self._files.delete([f"{SNAPSHOTS}/{id_}/{written}"])
            self._files.delete_directory(f"{SNAPSHOTS}/{id_}")
            raise self._no_such(name, ())
        return id_, before, written

    def _forget_meta(self, id_: str, name: str) -> None:
        """The first one stays: its time says how old a claim to the name is."""
        if name != META:
            self._files.delete([f"{SNAPSHOTS}/{id_}/{name}"])

    # Pulling

    def pull(
        self,
        name: str,
        local: Store,
        as_name: str | None = None,
        progress: Progress | None = None,
    ) -> Transferred:
        """Copy a snapshot from there into the local store, which keeps of its pages those
        that it does not have.

        Args:
            as_name: what it is to be called here; default: as there, or something like it
                if there is another one of that name.
            progress: told of the phases ``fetch`` and ``save``.

        Raises:
            UsageError: not a name.
            NoSuchSnapshot: there is none there.
            NameTaken: there is one of that name here.
            CorruptImage: it is damaged there; names the file.
        """
        started = time.perf_counter()
        if as_name is not None:
            local.check_free(as_name)
        survey, there = self._examine()
        source = self._required(there, name)
        with ExitStack() as held, self._open(survey, source) as reader:
            pages = LocalPages([*self._copies(held, reader, there, local)], self._seed())
            reader.fetch(advance_of(progress, "fetch"), pages)
            parent = ""
            if source.parent:
                parent = find_same(self._required(there, source.parent), local.list())
            with reader.named_by_url():
                given = copy_into(
                    local,
                    reader,
                    source,
                    name=as_name,
                    parent=parent,
                    signature=reader.signature,
                    where=self._files.where(f"{SNAPSHOTS}/{source.id}/{SIGNATURE}"),
                    progress=progress,
                )
            return Transferred(
                name=given,
                source=name,
                url=self.url,
                logical=reader.page_bytes,
                bytes=reader.fetched_bytes,
                trusted=local.summary(given).trusted,
                elapsed_ms=milliseconds_since(started),
            )

    def _copies(
        self,
        held: ExitStack,
        wanted: RemoteReader,
        there: Sequence[Snapshot],
        local: Store,
    ) -> Iterator[LocalCopy]:
        """Of the snapshots that have most in common with one, those that are here, too."""
        here = local.list()
        found = []
        for snapshot in there:
            name = find_same(snapshot, here)
            if name and snapshot.state == "durable":
                with (
                    suppress(ImageError),
                    self._mirror.open(snapshot.id) as other,
                ):
                    pages = sum(
                        end - first
                        for pack in other.usage.keys() & wanted.usage.keys()
                        for first, end in other.usage[pack]
                    )
                    found.append((pages, name, other.page_map))
        found.sort(key=lambda one: one[:2], reverse=True)
        for pages, name, page_map in found[:_MOST_COPIES]:
            with suppress(ImageError, StorageError):
                if pages:
                    yield LocalCopy(held.enter_context(local.open(name)), page_map)

    # Removing

    def remove(self, names: Sequence[str]) -> Freed:
        """Remove snapshots: all, or none if one of the names is wrong; and the packs that
        no other one needs.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        wanted = list(dict.fromkeys(names))
        survey, there = self._examine()
        ids = [self._required(there, name).id for name in wanted]
        own = needed_packs(self._mirror, _only(survey, ids))
        packs = (own or set()) | set(ids)
        self._files.delete(f"{SNAPSHOTS}/{id_}/{MANIFEST}" for id_ in ids)
        freed = 0
        for id_ in ids:
            files = survey.snapshots[id_]
            self._withdraw(id_, files)
            freed += survey.size(f"{SNAPSHOTS}/{id_}/{file}" for file in files)
        # Those that others need have been seen to stay: no need to mark them.
        needed = needed_packs(self._mirror, survey, without=ids)
        if needed is not None:
            freed += self._delete_packs(packs - needed)
        return Freed(bytes=freed, names=tuple(wanted))

    def prune(self, policy: Policy | str, dry_run: bool = False) -> Pruned:
        """Remove what a policy does not keep. What hibernates, or is damaged, stays in any
        case.

        Args:
            policy: see `jupyter_cr.store.retention`.
            dry_run: only say what would be removed.

        Raises:
            UsageError: the policy is not understood.
        """
        if isinstance(policy, str):
            policy = parse_policy(policy)
        there = self.list()
        sound = [snapshot for snapshot in there if snapshot.state == "durable"]
        kept = policy.kept(sound)
        removed = tuple(
            snapshot
            for snapshot in sound
            if snapshot.id not in kept and snapshot.automatic != HIBERNATED
        )
        size = sum(snapshot.own for snapshot in removed)
        if removed and not dry_run:
            size = self.remove([snapshot.name for snapshot in removed]).bytes
        return Pruned(
            policy=policy.text,
            removed=removed,
            kept=len(there) - len(removed),
            bytes=size,
            dry_run=dry_run,
        )

    def _delete_packs(self, packs: set[str]) -> int:
        """Delete those that nobody needs by now; bytes."""
        if not packs:
            return 0
        token = secrets.token_hex(8)
        marks = {f"{PACKS}/{pack}{GOING}{token}": b"going\n" for pack in packs}
        self._files.write(marks)
        try:
            now = self._look()
            needed = needed_packs(self._mirror, now)
            gone = [] if needed is None else packs - needed
            # An index without data is not used by anybody, nor is data without an index.
            files = [name for pack in gone for name in pack_names(pack)[::-1]]
            self._files.delete(files)
            return now.size(files)
        finally:
            self._files.delete(marks)

    def gc(self, older_than_s: float = AGE_LIMIT_S) -> Freed:
        """Find and delete what killed pushes and removals have left; safe while others
        push and remove, as long as no push takes longer than the age limit.

        Args:
            older_than_s: leave alone what was written since, in seconds.
        """
        survey = self._look()
        before = time.time() - older_than_s
        old = [name for name in survey.strays if self._is_old([name], before)]
        marks = [name for names in survey.going.values() for name in names]
        old += [name for name in marks if self._is_old([name], before)]
        ids = []
        for id_ in survey.pending:
            files = [f"{SNAPSHOTS}/{id_}/{name}" for name in survey.snapshots[id_]]
            if self._is_old(files, before):
                ids.append(id_)
                old += files
        # Left by a push that was killed when all was there.
        old += [
            f"{SNAPSHOTS}/{id_}/{PENDING}"
            for id_ in survey.complete
            if PENDING in survey.snapshots[id_]
        ]
        self._files.delete(old)
        self._files.abort_uploads(PACKS, before)
        for id_ in ids:
            self._files.delete_directory(f"{SNAPSHOTS}/{id_}")
        freed = survey.size(old)
        needed = needed_packs(self._mirror, survey, without=ids)
        if needed is not None:
            idle = {
                pack
                for pack, files in survey.parts.items()
                if pack not in needed and self._is_old(files, before)
            }
            freed += self._delete_packs(idle)
        return Freed(bytes=freed, names=tuple(ids))

    def _is_old(self, names: Iterable[str], before: float) -> bool:
        return all(self._files.modified(name) < before for name in names)


def _only(survey: Survey, ids: Iterable[str]) -> Survey:
    return Survey(survey.sizes, {id_: survey.snapshots[id_] for id_ in ids})
