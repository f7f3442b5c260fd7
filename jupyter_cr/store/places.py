"""Where a store is, as a person says it: a directory, or a URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jupyter_cr.store.remote_files import is_url
from jupyter_cr.store.store import Store

if TYPE_CHECKING:
    from jupyter_cr.store.remote import RemoteStore

__all__ = ["AnyStore", "open_store"]

AnyStore: TypeAlias = "Store | RemoteStore"


def open_store(where: str) -> AnyStore:
    """A store by its URL or path; the user's own if that is empty."""
    if not where:
        return Store()
    if is_url(where):
        # Imported where needed: 20 ms.
        from jupyter_cr.store.remote import RemoteStore

        return RemoteStore(where)
    return Store(Path(where).expanduser().absolute())
