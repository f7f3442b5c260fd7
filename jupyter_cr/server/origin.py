"""Where kernels come from."""

from __future__ import annotations

from contextlib import suppress

from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.store import Store

__all__ = ["find_origin"]


def find_origin(store: Store, kernel_id: str) -> str:
    """The snapshot, of another kernel, that a kernel was forked from: the first that is
    not its own, from where it is back through what was taken before. Empty if it was not
    forked, or that one is gone.

    Raises:
        StorageError: the store is not readable.
    """
    name = store.position(kernel_id)
    seen = set()
    with suppress(NoSuchSnapshot):
        while name and name not in seen:
            seen.add(name)
            found = store.summary(name)
            if found.kernel_id != kernel_id:
                return name
            name = found.parent
    return ""
