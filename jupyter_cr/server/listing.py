"""What a list of snapshots says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jupyter_cr.errors import NoSuchSnapshot
from jupyter_cr.server.answers import Page, Query
from jupyter_cr.store import Snapshot, Store

__all__ = ["find_page", "find_summary"]


def find_page(store: Store, query: Query) -> Page:
    """Those that are wanted, newest first; all of them if the limit is 0.

    Raises:
        StorageError: the store is not readable.
    """
    kernel_id, path = query.kernel_id or None, query.path or None
    if query.is_by_kernel:
        shown = store.list(
            limit=query.limit or None,
            newest_first=True,
            kernel_id=kernel_id,
            path=path,
            offset=query.offset,
            with_points=False,
        )
        total = store.count(kernel_id, path, with_points=False)
    else:
        found = store.list(
            newest_first=True, kernel_id=kernel_id, path=path, with_points=query.points
        )
        wanted = [snapshot for snapshot in found if query.matches(snapshot)]
        end = query.offset + query.limit if query.limit else None
        shown, total = wanted[query.offset : end], len(wanted)
    kernels = {snapshot.kernel_id for snapshot in shown}
    names = {snapshot.name for snapshot in shown}
    if not query.points:
        shown = _without_points(store, shown)
    positions = {
        kernel_id: name
        for kernel_id, name in store.positions().items()
        if kernel_id in kernels or name in names
    }
    return Page(snapshots=tuple(shown), total=total, positions=positions)


def find_summary(store: Store, name: str) -> Snapshot:
    """One line of the list, as that has it without points.

    Raises:
        NoSuchSnapshot: there is none.
    """
    (snapshot,) = _without_points(store, [store.summary(name)])
    return snapshot


def _without_points(store: Store, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Those, as grown from what a list without points has, too."""
    above = {snapshot.name: snapshot.name for snapshot in snapshots}

    def find(name: str) -> str:
        passed = []
        while name and name not in above:
            passed.append(name)
            try:
                parent = store.summary(name)
            except NoSuchSnapshot:
                name = ""
                break
            if not parent.is_point:
                break
            name = parent.parent
        found = above.get(name, name)
        above.update(dict.fromkeys(passed, found))
        return found

    return [
        snapshot
        if (parent := find(snapshot.parent)) == snapshot.parent
        else msgspec.structs.replace(snapshot, parent=parent)
        for snapshot in snapshots
    ]
