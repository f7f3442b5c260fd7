"""Lessons: prepared states that somebody has published, in a store that others read.

It is a store elsewhere (`jupyter_cr.store.remote`), and beside its snapshots are::

    URL/lessons/ID              what the lesson in snapshot ID is, signed by its publisher
    URL/starts/ID/TOKEN         somebody has started it

A lesson is there when its card is. Who may read and who may write is the place's to say:
in a directory of this machine, all is as open to read as the directory itself, and
``starts`` is open to add to. The signature is an Ed25519 one (RFC 8032) over the line
``jupyter-cr lesson 1`` and the card without it, JSON as msgspec writes it; the card names
the signature of the snapshot, so that a title cannot be put in front of another state.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.errors import (
    CorruptImage,
    ImageError,
    NoSuchSnapshot,
    PermissionDenied,
    StorageError,
)
from jupyter_cr.store.names import check_name
from jupyter_cr.store.remote import RemoteStore
from jupyter_cr.store.remote_files import RemoteFiles, is_url
from jupyter_cr.store.remote_reader import RemoteReader
from jupyter_cr.store.signers import Signers, verify_signature
from jupyter_cr.store.snapshot import Snapshot
from jupyter_cr.store.store import Store
from jupyter_cr.store.transfer import Progress, Transferred

__all__ = ["Card", "Lesson", "Shelf", "read_appointed"]

_CARDS, _STARTS = "lessons", "starts"
_FIRST = "published"
"""In ``starts``: by it is known that starts are counted."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher says of a lesson."""

    title: str
    note: str = ""
    publisher: str
    """As that one wants to be called."""
    published: str
    """UTC, ISO 8601."""
    content: str
    """The signature of the snapshot, hexadecimal."""
    signer: str = ""
    """Public key of whoever has published it, hexadecimal."""
    signature: str = ""

    @property
    def message(self) -> bytes:
        """What is signed."""
        unsigned = replace(self, signature="")
        return b"jupyter-cr lesson 1\n" + msgspec.json.encode(unsigned)

    def signed(self) -> Card:
        """By the user's own key.

        Raises:
            StorageError: the key cannot be read, or made.
        """
        signers = Signers()
        whole = replace(self, signer=signers.own())
        return replace(whole, signature=signers.sign(whole.message)[1])

    @property
    def is_genuine(self) -> bool:
        """Whether the one whom it names has signed it."""
        return verify_signature(self.signer, self.signature, self.message)


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """One that is published."""

    card: Card
    snapshot: Snapshot
    """That it is, as the store elsewhere has it."""

    @property
    def title(self) -> str:
        return self.card.title


class Shelf:
    """The lessons of one place.

    Args:
        where: its URL, or path of a directory.

    All methods raise StorageError, which names it, where it cannot be reached or does not
    let us.
    """

    def __init__(self, where: str) -> None:
        path = Path(where).expanduser().absolute()
        url = where if is_url(where) else f"file://{path}"
        self._store = RemoteStore(url, is_open=True)
        self._files = RemoteFiles(url, is_open=True)
        self.url = self._store.url

    def lessons(self) -> list[Lesson]:
        """All, in the order in which they were published. What is not genuine is not
        among them."""
        cards = {name.rpartition("/")[2]: name for name in self._files.find(_CARDS)}
        if not cards:
            return []
        snapshots = {s.id: s for s in self._store.list() if s.id in cards}
        read = self._files.read([cards[id_] for id_ in snapshots])
        found = []
        for id_, snapshot in snapshots.items():
            # Withdrawn in between, or written by a later release.
            with suppress(KeyError, msgspec.MsgspecError, UnicodeDecodeError):
                card = msgspec.json.decode(read[cards[id_]], type=Card)
                if card.is_genuine and card.signer == snapshot.signer:
                    found.append(Lesson(card=card, snapshot=snapshot))
        return sorted(found, key=lambda lesson: lesson.card.published)

    def lesson(self, title: str) -> Lesson:
        """The one of that title; the last, should there be two.

        Raises:
            NoSuchSnapshot: there is none; the hint has titles like it.
        """
        lessons = self.lessons()
        for lesson in reversed(lessons):
            if lesson.title == title:
                return lesson
        close = difflib.get_close_matches(title, [one.title for one in lessons], n=3)
        raise NoSuchSnapshot(
            f"There is no lesson “{title}” at {self.url}; it may have been withdrawn.",
            f"Did you mean {' or '.join(close)}?" if close else "jupyter cr lessons",
        )

    def check_free(self, title: str) -> None:
        """See that a lesson may be called that.

        Raises:
            UsageError: it may not.
            NameTaken: there is one.
        """
        self._store.check_free(check_name(title))

    def publish(
        self, local: Store, name: str, card: Card, progress: Progress | None = None
    ) -> Transferred:
        """Put a snapshot there, with what is said of it.

        Args:
            card: without `content` and signature.

        Raises:
            As `jupyter_cr.store.remote.RemoteStore.push`.
            PermissionDenied: the user may not write there.
        """
        with self._as_publisher(card.title, "published"):
            result = self._store.push(local, name, card.title, progress)
            try:
                id_ = self._store.summary(card.title).id
                with self._store.open(card.title) as reader:
                    content = _signature(reader)
                signed = replace(card, content=content).signed()
                self._files.write({f"{_STARTS}/{id_}/{_FIRST}": b""})
                self._files.let_add(f"{_STARTS}/{id_}")
                self._files.write({f"{_CARDS}/{id_}": msgspec.json.encode(signed)})
            except BaseException:
                with suppress(ImageError, StorageError):
                    self._store.remove([card.title])
                raise
        return result

    def withdraw(self, title: str) -> int:
        """Take a lesson away; bytes that this gave back. Whoever has started it goes on.

        Raises:
            NoSuchSnapshot: there is none.
            PermissionDenied: the user may not.
        """
        lesson = self.lesson(title)
        id_ = lesson.snapshot.id
        with self._as_publisher(title, "withdrawn"):
            self._files.delete([f"{_CARDS}/{id_}"])
            freed = self._store.remove([lesson.snapshot.name]).bytes
        # Only what tells how often it was started is left.
        with suppress(StorageError):
            self._files.delete([*self._files.find(f"{_STARTS}/{id_}")])
            self._files.delete_directory(f"{_STARTS}/{id_}")
        return freed

    @contextmanager
    def _as_publisher(self, title: str, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):
                raise PermissionDenied(
                    f"Lesson “{title}” cannot be {what}: {error.message}",
                    f"Only those can who may write to {self.url}: whoever has published "
                    "it, or the administrator.",
                ) from error
            raise

    def open(self, lesson: Lesson) -> RemoteReader:
        """What a lesson is, without its pages.

        Raises:
            CorruptImage: it is damaged, or not what was published under that title.
        """
        reader = self._store.open(lesson.snapshot.name)
        if _signature(reader) != lesson.card.content:
            reader.close()
            raise CorruptImage(
                f"What is at {self.url} under the title “{lesson.title}” is not what was "
                "published as that.",
                "Tell whoever has published it; do not use it as it is.",
            )
        return reader

    def pull(
        self, lesson: Lesson, local: Store, progress: Progress | None = None
    ) -> Transferred:
        """Copy a lesson into a store.

        Raises:
            As `jupyter_cr.store.remote.RemoteStore.pull`.
        """
        return self._store.pull(lesson.snapshot.name, local, progress=progress)

    def note_start(self, lesson: Lesson) -> None:
        """Somebody has started it."""
        self._files.write({f"{_STARTS}/{lesson.snapshot.id}/{secrets.token_hex(8)}": b""})

    def starts(self, lesson: Lesson) -> int | None:
        """How often it was started; None if that is not known, or not to everybody."""
        with suppress(StorageError):
            names = self._files.find(f"{_STARTS}/{lesson.snapshot.id}")
            return len(names) - 1 if names else None
        return None


def _signature(reader: RemoteReader) -> str:
    """Of a snapshot; empty if nobody has signed it."""
    return reader.signature.signature if reader.signature else ""


def read_appointed(path: Path) -> dict[str, str]:
    """Those whose lessons everybody may start, as an administrator has appointed them:
    public key (hexadecimal) -> what they are called. From a file, JSON.

    Raises:
        StorageError: it cannot be read; or whoever likes could appoint themselves.
    """
    with storage_errors(path):
        text = path.read_bytes()
        mode = path.stat().st_mode
    if mode & 0o002:
        raise StorageError(
            f"Everybody can write to {path}, which says whose lessons are trusted.",
            f"chmod o-w {path}",
        )
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path}, which says whose lessons are trusted, is not understood: {error}.",
            'As in: {"PUBLIC KEY": "Name"}; jupyter cr signers shows your own key.',
        ) from error
