"""Snapshots at rest: their catalogue, their directories, what there is and what goes.

::

    ROOT/catalogue.sqlite     names, notes, tags, lineage, sizes, states: `catalogue`
    ROOT/reserve              room, so that on a full disk something can go: `reserve`
    ROOT/lock                 held while the catalogue is written, or made anew: `catalogue`
    ROOT/seed                 of the hashes of pages: `packs`
    ROOT/packs/ID.*           pages that one snapshot was the first to have: `packs`
    ROOT/snapshots/ID/        one snapshot; ID is 16 hexadecimal digits, and means nothing
        manifest              the image, but for its pages: `jupyter_cr.image`
        twins                 its live twins, as the engine notes them: `twins`
        keeper                the server that is to end them: `twins`
        meta                  what the catalogue knows and the image does not: `meta`
        lease                 locked by whoever writes or reads the snapshot: `lease`
    ROOT/NAME/                of before the first release, and not read any more: `older`
    ROOT/.older               which of these somebody has been told of
    ROOT/remote/              copies of small files of stores elsewhere: `mirror`

The directories are what counts. The catalogue is what they say, in a form that is quick to
ask: where it is lost or damaged, it is made anew from them (`scan`), and nothing but which
snapshot each kernel last was at has to be guessed.

**Who may do what at once.** Everything that changes a name, or decides that something goes,
is one transaction on the catalogue, which only one process has at a time. Whoever writes a
snapshot holds its lease alone, whoever reads it holds it with others; Linux takes it back
from a process that dies. Nothing is deleted but under a lease held alone, after the
catalogue has said that it goes: so a removed snapshot that is being read goes with its last
reader, and what a killed process leaves is found by the next (`garbage`). Of packs, the
catalogue knows which pages snapshots need; a writer claims those that it has found before
it refers to them, and what goes is hidden from writers before (`pack_table`).
"""

from __future__ import annotations

from jupyter_cr.store.names import check_name, suggest_name
from jupyter_cr.store.root import store_root
from jupyter_cr.store.snapshot import Freed, Pruned, Snapshot, State
from jupyter_cr.store.store import Store
from jupyter_cr.store.twins import TwinLimits

__all__ = [
    "Freed",
    "Pruned",
    "Snapshot",
    "State",
    "Store",
    "TwinLimits",
    "check_name",
    "store_root",
    "suggest_name",
]
