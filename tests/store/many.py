"""A store with thousands of snapshots, for tests and benchmarks."""

from __future__ import annotations

from msgspec.structs import replace

from jupyter_cr.store import Store
from jupyter_cr.store.entry import Examined, examine, fingerprint, new_id
from jupyter_cr.store.meta import Meta, write_meta
from jupyter_cr.store.scan import adopt
from jupyter_cr.store.session import Session
from tests.store.harness import take

__all__ = ["take_many"]


def take_many(store: Store, count: int) -> None:
    """Snapshots of 200 kernels in turn, all like the first, which is really taken: ``one``,
    then ``snapshot-0`` and so on, a second apart."""
    directory = take(store, "one")
    like = examine(directory)
    manifest = (directory / "manifest").read_bytes()

    def insert(session: Session) -> None:
        for number in range(count - 1):
            copy = directory.with_name(new_id())
            copy.mkdir(mode=0o700)
            (copy / "manifest").write_bytes(manifest)
            write_meta(copy, Meta(name=f"snapshot-{number}", parent=like.entry.id))
            at = f"{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"
            entry = replace(
                like.entry,
                id=copy.name,
                name=f"snapshot-{number}",
                created=f"2026-02-01T{at}+00:00",
                kernel_id=f"kernel-{number % 200}",
                parent=like.entry.id,
                fingerprint=fingerprint(copy),
            )
            adopt(session, store.root, Examined(entry, like.usage))

    store._catalogue.write(insert)
    store.close()
