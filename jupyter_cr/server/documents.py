"""Notebooks: which one a kernel works for, as it is in the server's files, and back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container
from pathlib import PurePosixPath
from typing import Any, cast

import msgspec
from jupyter_core.utils import ensure_async
from tornado.web import HTTPError

from jupyter_cr.errors import StorageError, UsageError

__all__ = ["Documents"]


class Documents:
    """Documents of one server; all paths are as the server names them.

    Args:
        contents: its contents manager.
        sessions: its session manager.
    """

    def __init__(self, contents: Any, sessions: Any) -> None:
        self._contents = contents
        self._sessions = sessions

    async def of_kernel(self, kernel_id: str) -> tuple[str, str]:
        """Path and type (``notebook``, ``console``, ...) of what a kernel works for;
        both empty if it is for nothing. Where there are several, a notebook."""
        sessions = await self._sessions.list_sessions()
        found = [s for s in sessions if s["kernel"]["id"] == kernel_id]
        found.sort(key=lambda session: session["type"] != "notebook")
        return (found[0]["path"], found[0]["type"]) if found else ("", "")

    async def read(self, path: str) -> bytes:
        """A notebook as JSON; empty if there is none at that path."""
        if not path.endswith(".ipynb"):
            return b""
        try:
            model = await ensure_async(
                self._contents.get(path, content=True, type="notebook")
            )
        except HTTPError:
            # Gone, not readable, no notebook: the kernel's state is worth saving anyway.
            return b""
        return await asyncio.to_thread(msgspec.json.encode, model["content"])

    async def write(self, path: str, content: bytes) -> None:
        """Put a notebook there.

        Raises:
            StorageError: it cannot be written.
        """
        notebook = await asyncio.to_thread(msgspec.json.decode, content)
        model = {"type": "notebook", "format": "json", "content": notebook}
        try:
            await ensure_async(self._contents.save(model, path))
        except HTTPError as error:
            raise StorageError(
                f"The notebook {path} cannot be written: {error.log_message or error}.",
                "The kernel runs; the notebook is still in the snapshot.",
            ) from error

    async def free_path(self, path: str, snapshot: str) -> str:
        """A path for the copy of a notebook that belongs to a snapshot; `path` itself if
        there is nothing yet."""
        if not path:
            raise UsageError(
                "The snapshot's notebook has no name.", "Give a path for the fork's."
            )
        if not await self._exists(path):
            return path
        original = PurePosixPath(path)
        stem, suffix = f"{original.stem}-{snapshot}", original.suffix or ".ipynb"
        name = await ensure_async(
            self._contents.increment_filename(
                f"{stem}{suffix}", self.directory(path), insert="-"
            )
        )
        return str(original.with_name(name))

    async def next_path(self, directory: str, name: str, promised: Container[str]) -> str:
        """A path for a new notebook of that name in a directory: with a number where it is
        taken, or promised to somebody."""
        original, number = PurePosixPath(directory.strip("/")) / name, 0
        path = original
        while str(path) in promised or await self._exists(str(path)):
            number += 1
            path = original.with_name(f"{original.stem}-{number}{original.suffix}")
        return str(path)

    async def require_free(self, path: str) -> None:
        """See that a notebook is there, and works with no kernel.

        Raises:
            UsageError: it is not, or does.
        """
        if not path.endswith(".ipynb") or not await self._exists(path):
            raise UsageError(f"There is no notebook {path}.", "Fetch it first.")
        sessions = await self._sessions.list_sessions()
        if any(session["path"] == path for session in sessions):
            raise UsageError(
                f"The notebook {path} has a kernel already.",
                "Shut that down first, if nothing in it is needed.",
            )

    async def _exists(self, path: str) -> bool:
        return bool(await ensure_async(self._contents.file_exists(path)))

    async def attach(self, path: str, kernel_id: str, kind: str) -> str:
        """Have a session that connects a document with a kernel, so that every front end
        that opens the one gets the other; its id."""
        for session in await self._sessions.list_sessions():
            if session["path"] == path and session["kernel"]["id"] == kernel_id:
                return cast("str", session["id"])
        model = await self._sessions.create_session(
            path=path,
            name=PurePosixPath(path).name,
            type=kind or "notebook",
            kernel_id=kernel_id,
        )
        return cast("str", model["id"])

    def directory(self, path: str) -> str:
        """That a document is in."""
        return path.rpartition("/")[0]

    def session_name(self, path: str) -> str:
        """What its kernel is told: the document's path on this machine."""
        return self.environment(path).get("JPY_SESSION_NAME", "") if path else ""

    def environment(self, path: str) -> dict[str, str]:
        """Of a kernel for a document, should it be started afresh."""
        if not path:
            return dict(os.environ)
        return cast(
            "dict[str, str]",
            self._sessions.get_kernel_env(self.directory(path), PurePosixPath(path).name),
        )
