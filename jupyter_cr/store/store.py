"""The store: what can be asked of it, and done with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import NameTaken, NoSuchSnapshot, StorageError, StoreBusy
from jupyter_cr.store import garbage, scan
from jupyter_cr.store.catalogue import Catalogue
from jupyter_cr.store.entry import UNFINISHED, Entry, Stored, fingerprint, new_id
from jupyter_cr.store.key_file import store_cipher
from jupyter_cr.store.layout import PACKS, SNAPSHOTS
from jupyter_cr.store.lease import Lease, is_held
from jupyter_cr.store.listing import parents_of, show
from jupyter_cr.store.meta import read_meta, write_meta
from jupyter_cr.store.names import check_name, check_tag, suggest_name
from jupyter_cr.store.older import is_older, untold_of
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.reserve import keep_room, with_room
from jupyter_cr.store.retention import Policy, parse_policy
from jupyter_cr.store.root import prepare_root, store_root
from jupyter_cr.store.secret import page_seed, read_secret
from jupyter_cr.store.session import Session
from jupyter_cr.store.snapshot import (
    HIBERNATED,
    Freed,
    Pruned,
    Snapshot,
    State,
)
from jupyter_cr.store.trust import sign
from jupyter_cr.store.twins import (
    TwinLimits,
    Warm,
    are_twins_alive,
    claim_twins,
    evict_twins,
    keep_twins,
    measure_twins,
)
from jupyter_cr.store.writer import StoredWriter

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Store"]


class Store:
    """All snapshots of one user. Any number of processes may have one on the same
    directory at once, and any thread may use it. A context manager, for those who want
    its files closed at once.

    Args:
        root: the directory; made when first written to. Default: `store_root`.

    All methods raise StorageError where the store is not a directory, is another user's,
    or cannot be read, or, by those that change something, not be written; and StoreBusy, a
    kind of it, where somebody else is in the way for too long.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else store_root()
        self._catalogue = Catalogue(
            self.root,
            lambda session: scan.fill(self.root, session),
            lambda: scan.is_empty(self.root),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not there if the constructor has failed.
        if hasattr(self, "_catalogue"):
            self.close()

    def close(self) -> None:
        """Close its files; safe to call twice. They are opened again when needed."""
        self._catalogue.close()

    # What there is

    def names(self) -> list[str]:
        """Names of all snapshots, sound or not, in no order."""
        self._clean_unattended()
        return self._catalogue.read(Session.names)

    def list(
        self,
        limit: int | None = None,
        newest_first: bool = False,
        kernel_id: str | None = None,
        path: str | None = None,
        offset: int = 0,
        with_points: bool = True,
    ) -> list[Snapshot]:
        """Snapshots, oldest first; those that are being saved, and damaged ones, too.

        Args:
            limit: how many at most.
            newest_first: the other way round.
            kernel_id: those of one kernel; "" for those of none.
            path: those of one notebook.
            offset: how many to leave out at the beginning.
            with_points: those of timelines, too.
        """

        def find(session: Session) -> tuple[Sequence[Entry], dict[str, str]]:
            entries = session.select(
                limit=limit,
                offset=offset,
                newest_first=newest_first,
                kernel_id=kernel_id,
                path=path,
                with_points=with_points,
            )
            return entries, parents_of(session, entries)

        self._clean_unattended()
        return show(self._catalogue, self.root, *self._catalogue.read(find))

    def count(
        self,
        kernel_id: str | None = None,
        path: str | None = None,
        *,
        with_points: bool = True,
    ) -> int:
        """How many `list` has without a limit."""
        return self._catalogue.read(
            lambda s: s.count(kernel_id=kernel_id, path=path, with_points=with_points)
        )

    def summary(self, name: str) -> Snapshot:
        """The line of one snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """

        def find(session: Session) -> tuple[Sequence[Entry], dict[str, str]]:
            entries = [self._required(session, name)]
            return entries, parents_of(session, entries)

        self._clean_unattended()
        shown = show(self._catalogue, self.root, *self._catalogue.read(find))
        if not shown:
            raise self._no_such(name, self.names())
        return shown[0]

    def state(self, name: str) -> State:
        """What can be done with a snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        return self.summary(name).state

    def path(self, name: str) -> Path:
        """The directory of a snapshot.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        return self._directory(self._catalogue.read(lambda s: self._required(s, name)).id)

    def position(self, kernel_id: str) -> str:
        """The snapshot that a kernel last was at: was taken of it, or it was brought back
        to; empty if of none."""
        return self._catalogue.read(lambda s: s.name_of(s.position(kernel_id)))

    def positions(self) -> dict[str, str]:
        """Kernel id -> the snapshot that it last was at, of all that have been at one that
        there still is."""
        return self._catalogue.read(Session.positions)

    def untold(self) -> Sequence[str]:
        """Names of snapshots that are of before the first release and cannot be read: once,
        to whoever tells their owner (`jupyter_cr.store.older`)."""
        return untold_of(self.root)

    # Names

    def suggest_name(self, base: str) -> str:
        """A name that is free now, see `jupyter_cr.store.names.suggest_name`."""
        return suggest_name(base, set(self.names()))

    def check_free(self, name: str) -> None:
        """See that `create` would take that name now.

        Raises:
            UsageError: not a name.
            NameTaken: there is one.
        """
        check_name(name)
        self._clean_unattended()
        entry = self._catalogue.read(lambda session: session.find(name))
        if entry is not None and garbage.is_lost(self._directory(entry.id), entry):
            self.clean()
            entry = None
        if entry is not None:
            raise NameTaken(
                f"There is a snapshot named {name} already.",
                f"Choose another name, or remove it first: jupyter cr rm {name}",
            )

    # Writing and reading

    def create(
        self,
        name: str,
        *,
        parent: str | None = None,
        named: bool = True,
        base: StoredReader | None = None,
        trusted: bool = True,
        signer: str = "",
        tags: Sequence[str] = (),
        automatic: str = "",
    ) -> StoredWriter:
        """Begin a snapshot; its name is taken from now on. What earlier runs that were
        killed left behind is cleared.

        Args:
            parent: the snapshot that its kernel is at, if at one.
            named: whether somebody asked for the name, or it was made up.
            base: a snapshot with which it has much in common; stays the caller's.
            trusted: whether it is taken here, or its owner wants it to be restored.
            signer: public key of whoever has exported it, if it comes from elsewhere.
            tags: that it is to have.
            automatic: why it is taken without being asked for; its image will say so, too.

        Raises:
            UsageError: not a name.
            NameTaken: there is one.
            StorageError: the store is not writable.
        """
        check_name(name)
        prepare_root(self.root)
        self.clean()
        for part in (SNAPSHOTS, PACKS):
            with storage_errors(self.root / part):
                (self.root / part).mkdir(mode=0o700, exist_ok=True)
        keep_room(self.root)
        seed = page_seed(read_secret(self.root))
        # Found out now, whether it can be read.
        store_cipher()
        directory = self._directory(new_id())
        made: list[Lease] = []

        def begin(session: Session) -> Entry:
            above = session.find(parent) if parent else None
            entry = Entry(
                id=directory.name,
                name=name,
                state="saving",
                saved=0.0,
                created=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                named=named,
                parent=above.id if above else "",
                signer=signer,
                tags=tuple(sorted(tags)),
                automatic=automatic,
            )
            session.insert(entry)
            made.append(_make_directory(directory, entry))
            return entry

        try:
            entry = self._catalogue.write(begin)
            return StoredWriter(
                self._catalogue,
                entry,
                directory,
                made[-1],
                seed=seed,
                base=base,
                trusted=trusted,
            )
        except BaseException:
            for lease in made:
                lease.release()
            self._clear(directory)
            raise

    def _clear(self, directory: Path) -> None:
        """What cannot be done now is done by the next run."""
        with suppress(StorageError):
            garbage.delete(directory)
            self._catalogue.write(lambda session: session.delete(directory.name))

    def open(self, name: str) -> StoredReader:
        """Open a snapshot; its manifest is checked, and nobody deletes it until it is
        closed.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            StoreBusy: it is still being saved.
            CorruptImage: it is damaged.
            FutureImage: written by a later release.
        """
        self._clean_unattended()
        entry = self._catalogue.read(lambda session: self._required(session, name))
        if entry.state == "saving":
            raise _still_saved(entry)
        directory = self._directory(entry.id)
        if garbage.is_lost(directory, entry):
            raise NoSuchSnapshot(
                f"Snapshot {name} was in memory only, and is gone: its twins have ended.",
                "jupyter cr list shows what there is.",
            )
        lease = Lease.read(directory)
        # Between the two, it may have been removed.
        now = self._catalogue.read(lambda session: session.get(entry.id))
        if lease is None or now is None or now.state == "removed":
            if lease is not None:
                lease.release()
            elif now is not None and now.state != "removed":
                raise NoSuchSnapshot(
                    f"The directory {directory} of snapshot {name} is gone.",
                    f"If it cannot be put back: jupyter cr rm {name}",
                )
            raise self._no_such(name, self.names())
        return StoredReader(directory, name, lease, lambda: self._closed(entry.id))

    def _closed(self, id_: str) -> None:
        """A reader has gone. Was it the last one of a removed snapshot?"""
        with suppress(StorageError):
            entry = self._catalogue.read(lambda session: session.get(id_))
            if entry is not None and entry.state == "removed":
                garbage.delete_removed(self._catalogue, self.root, [entry])

    # Changing

    def rename(self, name: str, new_name: str) -> None:
        """Give a snapshot another name.

        Raises:
            UsageError: not a name.
            NoSuchSnapshot: there is none; the hint has names like it.
            NameTaken: there is one of that name already.
        """
        check_name(new_name)
        self._change(name, {"name": new_name, "named": True})

    def annotate(self, name: str, note: str) -> None:
        """Give a snapshot another note. It lies beside the image, which never changes.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        self._change(name, {"note": note})

    def tag(
        self, name: str, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> tuple[str, ...]:
        """Give a snapshot tags, and take some away; those that it has now, sorted.

        Raises:
            UsageError: not a tag.
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        added = {check_tag(tag) for tag in add}
        taken = set(remove)

        def change(session: Session) -> tuple[str, ...]:
            entry = self._required(session, name)
            tags = tuple(sorted(added.union(entry.tags) - taken))
            self._apply(session, entry, {"tags": tags})
            return tags

        return self._catalogue.write(change)

    def _change(self, name: str, fields: Mapping[str, Any]) -> None:
        self._catalogue.write(
            lambda session: self._apply(session, self._required(session, name), fields)
        )

    def _apply(self, session: Session, entry: Entry, fields: Mapping[str, Any]) -> None:
        session.update(entry.id, **fields)
        changed = replace(entry, **fields)
        meta = changed.meta
        if entry.state in UNFINISHED and "note" not in fields:
            # The one that it will have is in its image, unless it was given another.
            meta = replace(meta, note=read_meta(self._directory(entry.id)).note)
        write_meta(self._directory(entry.id), meta)

    def set_position(self, kernel_id: str, name: str) -> None:
        """Say which snapshot a kernel is at.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """
        self._catalogue.write(
            lambda session: session.set_position(
                kernel_id, self._required(session, name).id
            )
        )

    def trust(self, name: str) -> None:
        """Say that a snapshot from elsewhere may be restored, and its code run.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            StoreBusy: it is still being saved.
            CorruptImage, FutureImage: it cannot be restored anyway.
        """
        with self.open(name) as reader:
            sign(self.root, reader.directory, reader.manifest)
            id_ = reader.directory.name
        self._catalogue.write(lambda session: session.update(id_, trusted=True))

    def note_check(self, name: str, problem: str) -> None:
        """Have the catalogue say what reading all of a snapshot has shown.

        Args:
            problem: what is wrong with it; empty if nothing is.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """

        def note(session: Session) -> None:
            entry = self._required(session, name)
            if entry.state in ("durable", "corrupt"):
                session.update(
                    entry.id,
                    state="corrupt" if problem else "durable",
                    problem=problem,
                    fingerprint=fingerprint(self._directory(entry.id)),
                )

        self._catalogue.write(note)

    # Removing

    def remove(self, names: Sequence[str]) -> Freed:
        """Remove snapshots, and end the twins of warm ones: all, or none if one of the
        names is wrong. One that is being read goes with its last reader.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
            StoreBusy: one is still being saved.
        """
        wanted = list(dict.fromkeys(names))

        def find(session: Session) -> list[Entry]:
            entries = [self._required(session, name) for name in wanted]
            for entry in entries:
                if entry.state in UNFINISHED:
                    raise _still_saved(entry)
            return entries

        if self.root.exists():
            prepare_root(self.root)
        self._clean_unattended()
        return self._remove(find)

    def _remove(self, find: Callable[[Session], Sequence[Entry]]) -> Freed:
        def forget(session: Session) -> Sequence[Entry]:
            entries = find(session)
            garbage.forget(session, self.root, entries)
            return entries

        entries = with_room(self.root, lambda: self._catalogue.write(forget))
        freed, held = garbage.delete_removed(self._catalogue, self.root, entries)
        return Freed(
            bytes=freed,
            names=tuple(entry.name or "" for entry in entries),
            held=tuple(entry.name or "" for entry in entries if entry.id in held),
        )

    def prune(self, policy: Policy | str, dry_run: bool = False) -> Pruned:
        """Remove what a policy does not keep. What is warm, is being read or saved,
        hibernates, or is damaged, is kept in any case.

        Args:
            policy: see `jupyter_cr.store.retention`.
            dry_run: only say what would be removed.

        Raises:
            UsageError: the policy is not understood.
        """
        if isinstance(policy, str):
            policy = parse_policy(policy)
        there = self.list()
        kept = policy.kept(s for s in there if s.state in ("durable", "warm"))
        removed = [
            snapshot
            for snapshot in there
            if snapshot.state == "durable"
            and snapshot.id not in kept
            and snapshot.automatic != HIBERNATED
            and not is_held(self._directory(snapshot.id), by_reader=True)
        ]
        size = sum(snapshot.own for snapshot in removed)
        if removed and not dry_run:
            ids = [snapshot.id for snapshot in removed]
            freed = self._remove(lambda session: _still_durable(session, ids))
            # Somebody else may have been at it, too.
            removed = [snapshot for snapshot in removed if snapshot.name in freed.names]
            size = freed.bytes
        return Pruned(
            policy=policy.text,
            removed=tuple(removed),
            kept=len(there) - len(removed),
            bytes=size,
            dry_run=dry_run,
        )

    def clean(self) -> Freed:
        """Clear what killed processes have left: snapshots that were not whole yet, with
        their twins, those that were in memory only, and removed ones."""
        return with_room(self.root, lambda: garbage.clean(self._catalogue, self.root))

    def _clean_unattended(self) -> None:
        """What has no writer any more is no snapshot in the making: nobody is to see it."""
        unfinished = self._catalogue.read(lambda s: s.in_state(*UNFINISHED))
        if garbage.are_unattended(self.root, unfinished):
            # Where nothing can be written, it is not shown.
            with suppress(StorageError):
                self.clean()

    def gc(self) -> Freed:
        """Find and delete all that nobody needs, and see that the catalogue says what is
        so; safe while others write, read and remove."""
        if not self.root.exists():
            return Freed()
        prepare_root(self.root)
        return with_room(self.root, lambda: garbage.collect(self._catalogue, self.root))

    def rebuild(self) -> None:
        """Make the catalogue anew from what lies beside the images."""
        self._catalogue.rebuild()

    # Twins

    def twins_cost(self, only: Container[str] | None = None) -> int:
        """Bytes of memory that would be free if no snapshot were warm, see
        `jupyter_cr.store.twins.measure_twins`.

        Args:
            only: names of snapshots; what others cost is not looked at.
        """
        warm = self._warm("durable", "memory")
        if only is not None:
            warm = [each for each in warm if each.name in only]
        return measure_twins(warm)

    def evict_twins(
        self, limits: TwinLimits, only: Container[str] | None = None
    ) -> tuple[str, ...]:
        """End twins until those that are left are within limits: the oldest first, and none
        that a fork is being made of. Their snapshots are on disk.

        Args:
            only: ids of snapshots; the twins of others are not looked at.

        Returns:
            Names of the snapshots whose twins have ended.
        """
        warm = self._warm("durable")
        if only is not None:
            warm = [each for each in warm if each.directory.name in only]
        return tuple(evict_twins(warm, limits))

    def forget_memory(self, only: Container[str]) -> Freed:
        """Remove snapshots that are in memory only.

        Args:
            only: ids of those that may go.
        """

        def find(session: Session) -> list[Entry]:
            return [entry for entry in session.in_state("memory") if entry.id in only]

        return self._remove(find)

    def keep_twins(self, name: str) -> str:
        """Have this process be the one that ends a snapshot's twins. The snapshot's id.

        Raises:
            NoSuchSnapshot: there is none; the hint has names like it.
        """

        def keep(session: Session) -> str:
            id_ = self._required(session, name).id
            keep_twins(self._directory(id_))
            return id_

        return self._catalogue.write(keep)

    def claim_twins(self) -> frozenset[str]:
        """Become the keeper of the twins whose own was killed; ids of their snapshots."""
        ids = [warm.directory.name for warm in self._warm("durable", "memory")]

        def claim(session: Session) -> frozenset[str]:
            there = (id_ for id_ in ids if session.get(id_) is not None)
            return frozenset(id_ for id_ in there if claim_twins(self._directory(id_)))

        return self._catalogue.write(claim) if ids else frozenset()

    def _warm(self, *states: Stored) -> Sequence[Warm]:
        """Oldest first."""
        return [
            Warm(directory, entry.name or "", entry.pid, entry.created)
            for entry in self._catalogue.read(Session.select)
            if entry.state in states
            and are_twins_alive(directory := self._directory(entry.id))
        ]

    # Helpers

    def _directory(self, id_: str) -> Path:
        return self.root / SNAPSHOTS / id_

    def _required(self, session: Session, name: str) -> Entry:
        entry = session.find(name)
        if entry is None:
            raise self._no_such(name, session.names())
        return entry

    def _no_such(self, name: str, names: Sequence[str]) -> NoSuchSnapshot:
        if is_older(self.root, name):
            return NoSuchSnapshot(
                f"Snapshot {name} in {self.root} is of before the first release, and not "
                "read any more.",
                f"Use the version that took it, or delete it: rm -r {self.root / name}",
            )
        close = difflib.get_close_matches(name, names, n=3)
        return NoSuchSnapshot(
            f"There is no snapshot named {name} in {self.root}.",
            f"Did you mean {' or '.join(close)}?"
            if close
            else "jupyter cr list shows all.",
        )


def _make_directory(directory: Path, entry: Entry) -> Lease:
    """A new snapshot's, which is its writer's alone."""
    with storage_errors(directory):
        directory.mkdir(mode=0o700)
    lease = Lease.new(directory)
    try:
        # Its note will be in its image.
        write_meta(directory, replace(entry.meta, note=None))
    except BaseException:
        lease.release()
        raise
    return lease


def _still_durable(session: Session, ids: Iterable[str]) -> list[Entry]:
    entries = (session.get(id_) for id_ in ids)
    return [entry for entry in entries if entry is not None and entry.state == "durable"]


def _still_saved(entry: Entry) -> StoreBusy:
    return StoreBusy(
        f"Snapshot {entry.name} is still being saved, {entry.saved:.0%} of it are on disk.",
        "Wait until it is durable: jupyter cr list shows that.",
    )
