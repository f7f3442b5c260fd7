"""Snapshots at rest: their names, their directory, what there is and what goes."""

from __future__ import annotations

from jupyter_cr.store.names import check_name, suggest_name
from jupyter_cr.store.root import store_root
from jupyter_cr.store.store import Snapshot, State, Store

__all__ = ["Snapshot", "State", "Store", "check_name", "store_root", "suggest_name"]
