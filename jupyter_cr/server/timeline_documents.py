"""Notebooks as they were at the points of a timeline: beside the image of the point, and
gone with it."""

from __future__ import annotations

import asyncio
import gzip
import io
import uuid
from pathlib import Path

from jupyter_cr.errors import NoSuchSnapshot, StorageError, UsageError
from jupyter_cr.store import Store

__all__ = ["TimelineDocuments", "unpacked"]

SIZE_LIMIT = 512 << 20
"""Bytes of a notebook: what unpacks to more is no notebook."""


class TimelineDocuments:
    """Of all timelines of one server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paths: dict[str, Path] = {}

    async def write(self, point: str, content: bytes) -> str:
        """Keep a notebook with a point.

        Args:
            content: JSON, or JSON compressed by gzip.

        Returns:
            An id to read it by.

        Raises:
            NoSuchSnapshot: there is no such point any more.
            StorageError: it cannot be written.
        """
        id_ = uuid.uuid4().hex

        def write() -> Path:
            path = self._store.path(point) / f"document-{id_}.json.gz"
            packed = content if _is_packed(content) else gzip.compress(content, 1)
            try:
                path.write_bytes(packed)
                path.chmod(0o600)
            except OSError as error:
                raise StorageError(
                    f"The notebook cannot be kept with point {point}: {error.strerror}.",
                    "The kernel can be brought back without it.",
                ) from error
            return path

        self._paths[id_] = await asyncio.to_thread(write)
        return id_

    async def read(self, id_: str) -> bytes:
        """A notebook as JSON.

        Raises:
            NoSuchSnapshot: it is gone.
        """
        path = self._paths.get(id_)
        try:
            if path is not None:
                return await asyncio.to_thread(lambda: unpacked(path.read_bytes()))
        except (OSError, UsageError):
            self._paths.pop(id_, None)
        raise NoSuchSnapshot(
            f"There is no notebook {id_} in a timeline.", "Its point may be gone."
        )

    def forget_but(self, ids: set[str]) -> None:
        """Forget all others, whose points are gone."""
        for id_ in self._paths.keys() - ids:
            del self._paths[id_]


def _is_packed(content: bytes) -> bool:
    return content[:2] == b"\x1f\x8b"


def unpacked(content: bytes) -> bytes:
    """JSON of what may be compressed by gzip.

    Raises:
        UsageError: it is damaged, or too much.
    """
    if not _is_packed(content):
        return content
    hint = "The body is a notebook as JSON, or that compressed by gzip."
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(SIZE_LIMIT + 1)
    except (OSError, EOFError) as error:
        raise UsageError(f"The notebook cannot be unpacked: {error}.", hint) from error
    if len(text) > SIZE_LIMIT:
        raise UsageError(f"The notebook has more than {SIZE_LIMIT >> 20} MiB.", hint)
    return text
