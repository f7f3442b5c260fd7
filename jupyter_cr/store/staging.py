"""Images on the way into a store or out of it: in directories of their own, in the store,
as they hold whatever was in memory."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jupyter_cr.engine.streams import storage_errors
from jupyter_cr.store.lease import Lease, is_held
from jupyter_cr.store.root import prepare_root

__all__ = ["Staging", "staging", "stale_stagings"]

_PREFIX = ".staging-"
_NEW_S = 60.0


@dataclass(frozen=True)
class Staging:
    """`directory`: of one image, empty; `packs`: for its pack, which gets the directory's
    name."""

    directory: Path
    packs: Path


@contextmanager
def staging(root: Path, id_: str) -> Iterator[Staging]:
    """Room for an image; removed at the end, or, if we are killed, by the next collection
    of garbage.

    Raises:
        StorageError: the store cannot be written to.
    """
    prepare_root(root)
    place = root / f"{_PREFIX}{os.urandom(8).hex()}"
    with storage_errors(place):
        place.mkdir(mode=0o700)
    try:
        with Lease.new(place):
            made = Staging(place / "snapshots" / id_, place / "packs")
            with storage_errors(place):
                made.directory.mkdir(mode=0o700, parents=True)
                made.packs.mkdir(mode=0o700)
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


def stale_stagings(root: Path) -> list[Path]:
    """Those whose makers were killed; a new one may be without its lease yet."""
    before = time.time() - _NEW_S
    return [
        path
        for path in root.glob(f"{_PREFIX}*")
        if not is_held(path) and _mtime(path) < before
    ]


def _mtime(path: Path) -> float:
    """Infinite if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf
