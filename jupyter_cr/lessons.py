"""Lessons: publish a prepared state, start from it, find the way back to it."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from jupyter_cr.errors import (
    CheckpointRestoreError,
    CorruptImage,
    ImageError,
    NoSuchSnapshot,
    RestoreError,
    StorageError,
    Untrusted,
    UsageError,
)
from jupyter_cr.image import ImageReader
from jupyter_cr.kernels.connection import new_connection_file, read_connection
from jupyter_cr.kernels.moving import move_in, move_out
from jupyter_cr.operations import (
    Progress,
    RestoreResult,
    bring_fork,
    checkpoint,
    fork,
    read_document,
)
from jupyter_cr.store import Store
from jupyter_cr.store.shelf import Card, Lesson, Shelf, read_appointed
from jupyter_cr.store.signers import Signers
from jupyter_cr.store.snapshot import FOR_A_FORK, FOR_LESSONS
from jupyter_cr.store.transfer import find_same

__all__ = [
    "LESSONS_VARIABLE",
    "LESSON_TAG",
    "SIGNERS_VARIABLE",
    "LessonDetails",
    "LessonInfo",
    "ObtainedLesson",
    "Place",
    "PublishResult",
    "StartResult",
    "examine_lesson",
    "find_ready_lesson",
    "is_beginning",
    "lesson_of",
    "list_lessons",
    "note_start",
    "obtain_lesson",
    "publish_lesson",
    "settle_in",
    "start_lesson",
    "warm_lesson",
    "withdraw_lesson",
]

LESSONS_VARIABLE = "JUPYTER_CR_LESSONS"
SIGNERS_VARIABLE = "JUPYTER_CR_LESSON_SIGNERS"
LESSON_TAG = "lesson"
"""Of snapshots in a user's own store that lessons are started from, and gone back to."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an administrator has lessons be."""

    where: str = ""
    """URL or directory; empty if nowhere."""
    signers: str = ""
    """A file: whose lessons everybody may start; empty if nobody's."""

    @classmethod
    def of_environment(cls, where: str = "") -> Place:
        """As the environment says.

        Args:
            where: another place.
        """
        return cls(
            where=where or os.environ.get(LESSONS_VARIABLE, ""),
            signers=os.environ.get(SIGNERS_VARIABLE, ""),
        )

    def shelf(self) -> Shelf:
        """The lessons there.

        Raises:
            UsageError: there is no place.
        """
        if not self.where:
            raise UsageError(
                "There is no place for lessons.",
                f"An administrator sets it: {LESSONS_VARIABLE}, a URL or a directory.",
            )
        return Shelf(self.where)

    def trusted(self) -> dict[str, str]:
        """Public keys of those whose lessons the user may start -> what they are called.

        Raises:
            StorageError: a list cannot be read.
        """
        appointed = read_appointed(Path(self.signers)) if self.signers else {}
        signers = Signers()
        return appointed | signers.trusted() | {signers.own(): ""}


class LessonInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list of lessons."""

    title: str
    note: str
    publisher: str
    """What that one is called here, or else wants to be called."""
    published: str
    """UTC, ISO 8601."""
    signer: str
    """Public key of whoever has published it, hexadecimal."""
    trusted: bool
    """Whether it can be started without somebody's saying that it may."""
    own: bool
    """Whether the user has published it."""
    bytes: int
    """Of memory that it holds."""
    kernel_name: str
    starts: int | None
    """How often it was started; None if that is not known, or not to this user."""


class LessonDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a lesson before it is started."""

    lesson: LessonInfo
    missing: tuple[str, ...]
    """What it needs and does not find on this machine, in sentences."""


class PublishResult(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson is published."""

    title: str
    snapshot: str
    """Name in the user's own store."""
    url: str
    logical: int
    """Bytes of memory that it holds."""
    bytes: int
    """That were sent."""
    elapsed_ms: float
    warnings: tuple[str, ...] = ()


class ObtainedLesson(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson is in the user's own store."""

    title: str
    snapshot: str
    """Its name there."""
    warm: str = ""
    """The name of what is the same, in memory; empty if there is nothing."""


class StartResult(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson was started, without a server."""

    title: str
    snapshot: str
    fork: RestoreResult


def list_lessons(place: Place) -> tuple[LessonInfo, ...]:
    """All, in the order in which they were published.

    Raises:
        UsageError: there is no place for them.
        StorageError: it cannot be read.
    """
    shelf, trusted, own = place.shelf(), place.trusted(), Signers().own()
    return tuple(_info(shelf, lesson, trusted, own) for lesson in shelf.lessons())


def _info(shelf: Shelf, lesson: Lesson, trusted: dict[str, str], own: str) -> LessonInfo:
    card, snapshot = lesson.card, lesson.snapshot
    return LessonInfo(
        title=card.title,
        note=card.note,
        publisher=trusted.get(card.signer) or card.publisher,
        published=card.published,
        signer=card.signer,
        trusted=card.signer in trusted,
        own=card.signer == own,
        bytes=snapshot.logical,
        kernel_name=snapshot.kernel_name,
        starts=shelf.starts(lesson),
    )


def publish_lesson(
    name: str,
    place: Place,
    *,
    title: str = "",
    note: str | None = None,
    publisher: str = "",
    store: Store | None = None,
    progress: Progress | None = None,
) -> PublishResult:
    """Have others start from a snapshot. Whoever may read the place can read all that was
    in memory.

    Args:
        name: of the snapshot, in the user's own store.
        title: what it is to be called; default: as the snapshot.
        note: default: the snapshot's.
        publisher: what the user wants to be called.

    Raises:
        UsageError: it has no notebook, or is encrypted; or the title cannot be one.
        Untrusted: it is not the user's own.
        NameTaken: there is a lesson of that title.
        PermissionDenied: the user may not write there.
        StorageError: it cannot be reached.
    """
    store, shelf, title = store or Store(), place.shelf(), title or name
    snapshot = store.summary(name)
    if not snapshot.has_document:
        raise UsageError(
            f"Snapshot {name} has no notebook, so that there is nothing to open.",
            "Take one in JupyterLab, with the notebook open.",
        )
    if not snapshot.trusted:
        raise Untrusted(
            f"Snapshot {name} is from elsewhere: it is not yours to sign.",
            f"If you trust it: jupyter cr trust {name}",
        )
    shelf.check_free(title)
    card = Card(
        title=title,
        note=snapshot.note if note is None else note,
        publisher=publisher or _user_name(),
        published=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        content="",
    )
    prepared, warnings = _prepare(name, store)
    try:
        result = shelf.publish(store, prepared, card, progress)
    finally:
        with suppress(ImageError, StorageError):
            store.remove([prepared])
    return PublishResult(
        title=title,
        snapshot=name,
        url=result.url,
        logical=result.logical,
        bytes=result.bytes,
        elapsed_ms=result.elapsed_ms,
        warnings=warnings,
    )


def _prepare(name: str, store: Store) -> tuple[str, tuple[str, ...]]:
    """A snapshot that is to be published, and what is to be said of it. It is of a fork,
    from which what was the user's alone has been taken, and that ends at that instant: the
    key by which one talks to the original is not in use there. If it was taken in the
    middle of a cell, as by %checkpoint, that is run to its end."""
    path = new_connection_file()
    # Cells that wait are nothing to begin with.
    forked = fork(name, connection_file=path, asked_within=True, store=store)
    try:
        is_ready = move_out(read_connection(path))
        with store.open(name) as reader:
            header = reader.header
        taken = checkpoint(
            str(forked.pid),
            connection_file=path,
            name=store.suggest_name(f"publishing-{name}"),
            note=header.note,
            end=True,
            notebook=msgspec.structs.replace(header.notebook, running=()),
            document=read_document(name, store=store),
            automatic=FOR_A_FORK,
            store=store,
        )
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(forked.pid, signal.SIGKILL)
        raise
    finally:
        path.unlink(missing_ok=True)
    return taken.name, tuple(_dangers(is_ready, forked))


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # There are users without an entry in passwd(5).
        return f"user {os.getuid()}"


def _dangers(is_ready: bool, forked: RestoreResult) -> Iterator[str]:
    if not forked.key_renewed:
        yield (
            "Whoever may read the lesson can find the key by which one talks to the kernel "
            "that it was taken of: shut that down before others start."
        )
    if not is_ready:
        yield (
            "It is no Python kernel, so that it has your directories and files open: only "
            "those can start it to whom these are open under the same paths."
        )


def withdraw_lesson(title: str, place: Place) -> int:
    """Take a lesson away; bytes that this gave back. Whoever has started it goes on, and
    can go back to its beginning.

    Raises:
        NoSuchSnapshot: there is none.
        PermissionDenied: the user may not.
        StorageError: the place cannot be reached.
    """
    return place.shelf().withdraw(title)


def examine_lesson(title: str, place: Place) -> LessonDetails:
    """What is to be known before it is started.

    Raises:
        NoSuchSnapshot: there is none.
        CorruptImage: it is damaged, or not what was published.
        StorageError: the place cannot be reached.
    """
    shelf = place.shelf()
    lesson = shelf.lesson(title)
    info = _info(shelf, lesson, place.trusted(), Signers().own())
    with shelf.open(lesson) as reader:
        return LessonDetails(lesson=info, missing=_missing(reader))


def _missing(reader: ImageReader) -> tuple[str, ...]:
    from jupyter_cr.engine.preflight import find_missing

    return tuple(error.message for error in find_missing(reader))


def obtain_lesson(
    title: str,
    place: Place,
    *,
    trust: str = "",
    store: Store | None = None,
    progress: Progress | None = None,
) -> ObtainedLesson:
    """Have a lesson in the user's own store, to be started: it is copied unless it is there
    already.

    Args:
        trust: public key of a publisher of whom the user has said that their lessons may
            be started, now and later.

    Raises:
        NoSuchSnapshot: there is none.
        Untrusted: nobody has said that what its publisher signs may be started.
        RestoreError: this machine lacks what it needs; the message has all of it.
        CorruptImage: it is damaged, or not what was published.
        StorageError: the place cannot be reached, or there is no room here.
    """
    store, shelf = store or Store(), place.shelf()
    lesson = shelf.lesson(title)
    card = lesson.card
    if card.signer not in place.trusted():
        if card.signer != trust:
            raise Untrusted(
                f"Lesson “{title}” is by {card.publisher}, whom neither you nor an "
                "administrator has said to trust; to start it is to run its code, with all "
                "your rights.",
                "If you trust them as you would trust a program of theirs: jupyter cr "
                f"start '{title}' --trust {card.signer}",
            )
        Signers().trust(card.signer, card.publisher)
    with shelf.open(lesson) as reader:
        if missing := _missing(reader):
            raise RestoreError(
                f"Lesson “{title}” cannot be started on this machine. "
                + "\n".join(missing),
                f"Tell {card.publisher}, or an administrator: it was made on another one.",
            )
    name = _find_own(lesson, store)
    if not name:
        name = shelf.pull(lesson, store, progress).name
        _require_signer(lesson, name, store)
    if not store.summary(name).trusted:
        store.trust(name)
    store.tag(name, [LESSON_TAG])
    return ObtainedLesson(title=title, snapshot=name)


def _find_own(lesson: Lesson, store: Store) -> str:
    """The name of a copy of a lesson in the user's own store; empty if there is none. What
    only says that it is one, but is signed by somebody else, is none."""
    candidates = [
        snapshot
        for snapshot in store.list()
        if snapshot.trusted or snapshot.signer == lesson.card.signer
    ]
    return find_same(lesson.snapshot, candidates)


def _require_signer(lesson: Lesson, name: str, store: Store) -> None:
    """See that it has not been exchanged since somebody looked whose it is.

    Raises:
        CorruptImage: it has; what came is removed.
    """
    if store.summary(name).signer != lesson.card.signer:
        store.remove([name])
        raise CorruptImage(
            f"Lesson “{lesson.title}” was exchanged while it was fetched.",
            "Tell whoever has published it.",
        )


def warm_lesson(name: str, *, store: Store | None = None) -> str:
    """Have a snapshot in memory, so that all kernels that are forked from it share what
    they do not change: the name of another snapshot, which is that.

    It is of a fork that nobody has talked to, and that ends at that instant. It goes when
    its twins end.

    Raises:
        ImageError, RestoreError: it cannot be forked.
        UsageError: it was taken in the middle of a cell: a fork would go on with that.
    """
    store = store or Store()
    id_ = store.summary(name).id
    if found := _find_warm(name, store):
        return found
    with store.open(name) as reader:
        header = reader.header
    if header.notebook.running:
        raise UsageError(
            f"Snapshot {name} was taken in the middle of a cell.",
            "Take another one when that has ended.",
        )
    path = new_connection_file()
    brought = bring_fork(name, path, store=store).result
    try:
        taken = checkpoint(
            str(brought.pid),
            connection_file=path,
            # The snapshot of that name, and not of another that comes to be called so.
            name=f"{name[:80]}-{id_[:8]}-{uuid.uuid4().hex[:8]}",
            note=f"Kernels that are started from “{name}” share its memory.",
            memory_only=True,
            end=True,
            notebook=header.notebook,
            document=read_document(name, store=store),
            automatic=FOR_LESSONS,
            store=store,
        )
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(brought.pid, signal.SIGKILL)
        raise
    finally:
        path.unlink(missing_ok=True)
    return taken.name


def _find_warm(name: str, store: Store) -> str:
    for snapshot in store.list(newest_first=True):
        if (snapshot.automatic, snapshot.parent) == (FOR_LESSONS, name):
            return snapshot.name
    return ""


def find_ready_lesson(title: str, place: Place) -> ObtainedLesson | None:
    """A lesson that was started here before, and is in memory: there is nothing to do but
    to fork it. None if there is more to do, or to be asked.

    Raises:
        NoSuchSnapshot: there is none any more.
        StorageError: the place cannot be reached.
    """
    store, lesson = Store(), place.shelf().lesson(title)
    if lesson.card.signer in place.trusted():
        name = _find_own(lesson, store)
        if name and (warm := _find_warm(name, store)):
            return ObtainedLesson(title=title, snapshot=name, warm=warm)
    return None


def start_lesson(
    title: str,
    place: Place,
    *,
    trust: str = "",
    store: Store | None = None,
    progress: Progress | None = None,
) -> StartResult:
    """Start a lesson where no server does: a kernel, and no notebook.

    Raises:
        As `obtain_lesson` and `jupyter_cr.operations.fork`.
    """
    store = store or Store()
    found = obtain_lesson(title, place, trust=trust, store=store, progress=progress)
    forked = fork(found.snapshot, store=store, progress=progress)
    if forked.connection_file is not None:
        settle_in(Path(forked.connection_file), Path.cwd())
    note_start(title, place)
    return StartResult(title=title, snapshot=found.snapshot, fork=forked)


def settle_in(connection_file: Path, directory: Path) -> tuple[str, ...]:
    """Have a kernel that was started from a lesson be the present user's; what went wrong.

    Args:
        directory: that it is to be in.
    """
    try:
        asyncio.run(move_in(read_connection(connection_file), directory))
    except CheckpointRestoreError as error:
        return (str(error),)
    return ()


def note_start(title: str, place: Place) -> None:
    """Count a start, where that is permitted; it is none the worse where not."""
    with suppress(StorageError, ImageError):
        shelf = place.shelf()
        shelf.note_start(shelf.lesson(title))


def is_beginning(name: str, *, store: Store | None = None) -> bool:
    """Whether a snapshot is a lesson, as it was published."""
    with suppress(ImageError, StorageError):
        snapshot = (store or Store()).summary(name)
        return snapshot.automatic == FOR_LESSONS or LESSON_TAG in snapshot.tags
    return False


def lesson_of(kernel_id: str, *, store: Store | None = None) -> str:
    """The snapshot of the lesson that a kernel was started from, however many of its own it
    has taken since; empty if from none.

    Raises:
        StorageError: the store is not readable.
    """
    store = store or Store()
    name, seen = store.position(kernel_id), set[str]()
    while name and name not in seen:
        seen.add(name)
        try:
            snapshot = store.summary(name)
        except NoSuchSnapshot:
            return ""
        if LESSON_TAG in snapshot.tags:
            return name
        name = snapshot.parent
    return ""
