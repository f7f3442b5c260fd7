"""What goes by itself: snapshots that a policy does not keep, and twins that cost too much
or that nobody will need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from jupyter_cr.errors import ImageError, StorageError, UsageError
from jupyter_cr.store import Store, TwinLimits
from jupyter_cr.store.older import older_lines, older_of
from jupyter_cr.store.retention import parse_policy

__all__ = ["Housekeeping"]

NO_LIMITS = TwinLimits()

_INTERVAL_S = 30.0
"""Between looks at how old twins are."""


class Housekeeping:
    """Of one server, in a store that others use, too.

    Args:
        emit: tells what has happened.
        log: is told of a policy that is not understood.
        retention: which snapshots are kept, a policy of `jupyter_cr.store.retention`;
            empty for all.
        limits: of all twins in the store.
        survive: whether twins of snapshots that this server took outlive it.
    """

    def __init__(
        self,
        emit: Callable[..., None],
        log: logging.Logger,
        *,
        retention: str = "",
        limits: TwinLimits = NO_LIMITS,
        survive: bool = False,
    ) -> None:
        self._emit = emit
        self._log = log
        self._policy = self._understood(retention.strip())
        self._limits = limits
        self._survive = survive
        self._store = Store()
        self._own: set[str] = set()
        """Ids of snapshots whose twins are to end with this server."""
        self.claimed: frozenset[str] = frozenset()
        """Those of them whose own was killed."""
        self._watch: asyncio.Task[None] | None = None

    def _understood(self, retention: str) -> str:
        try:
            if retention:
                parse_policy(retention)
        except UsageError as error:
            self._log.error(
                "SnapshotExtension.retention: all snapshots are kept. %s", error
            )
            return ""
        return retention

    async def start(self) -> None:
        """Take over the twins of servers that were killed, begin to look at how old twins
        are, if there is a limit, and say what cannot be read any more."""
        if older := await asyncio.to_thread(older_of, self._store.root):
            self._log.warning(" ".join(older_lines(self._store.root, older)))
        with suppress(StorageError):
            if not self._survive:
                self.claimed = claimed = await asyncio.to_thread(self._store.claim_twins)
                self._own |= claimed
                if claimed:
                    self._log.info(
                        "Twins of %d snapshots taken over from a server that is gone",
                        len(claimed),
                    )
        await self._evict(self._limits)
        if self._limits.age is not None:
            self._watch = asyncio.ensure_future(self._watch_twins())

    async def stop(self) -> None:
        """The server stops."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        if self._own:
            await self._evict(TwinLimits(count=0), only=self._own)
            with suppress(ImageError, StorageError):
                await asyncio.to_thread(self._store.forget_memory, self._own)
        await asyncio.to_thread(self._store.close)

    async def own(self, snapshot: str) -> None:
        """A snapshot has been taken in memory, for a timeline or a fork: it ends with this
        server in any case."""
        with suppress(ImageError, StorageError):
            self._own.add(await asyncio.to_thread(self._store.keep_twins, snapshot))

    async def after(self, snapshot: str, *, has_twins: bool) -> None:
        """A snapshot has been taken. That is so whether or not others can go."""
        with suppress(ImageError, StorageError):
            if has_twins and not self._survive:
                self._own.add(await asyncio.to_thread(self._store.keep_twins, snapshot))
            if self._policy:
                pruned = await asyncio.to_thread(self._store.prune, self._policy)
                for removed in pruned.removed:
                    self._emit("deleted", snapshot=removed.name)
        if has_twins:
            await self._evict(self._limits)

    async def _evict(self, limits: TwinLimits, **those: Any) -> None:
        if limits == NO_LIMITS:
            return
        with suppress(StorageError):
            evicted = await asyncio.to_thread(self._store.evict_twins, limits, **those)
            for name in evicted:
                self._emit("updated", snapshot=name, state="durable")

    async def _watch_twins(self) -> None:
        while True:
            await self._evict(self._limits)
            await asyncio.sleep(_INTERVAL_S)
