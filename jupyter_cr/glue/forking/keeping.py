"""Snapshots of forks, recorded as of their original: with its identity and its ports, so
that a restore puts them in its place, and its front ends stay connected."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import msgspec

from jupyter_cr.engine.checkpoint import checkpoint_tree
from jupyter_cr.engine.descriptors import File, tcp_socket, udp_socket
from jupyter_cr.engine.descriptors.inet_address import Address
from jupyter_cr.engine.identity import Identity
from jupyter_cr.engine.open_file_table import FileTable
from jupyter_cr.image import Document, Outcome
from jupyter_cr.image.records import ProcessOutcome
from jupyter_cr.store import Store
from jupyter_cr.store.reader import StoredReader
from jupyter_cr.store.writer import StoredWriter

__all__ = ["keep_fork"]


def keep_fork(
    store: Store,
    original: StoredReader,
    pid: int,
    ports: Mapping[int, int],
    name: str,
    *,
    automatic: str = "",
    parent: str = "",
) -> None:
    """Take a snapshot of a fork, which goes on.

    Args:
        original: the snapshot that it was made from.
        pid: its root, as we see it.
        ports: those of the original -> its own.

    Raises:
        CheckpointRestoreError: as a checkpoint of any tree.
    """
    (identity,) = original.records(Identity)
    back = {own: recorded for recorded, own in ports.items()}
    with store.create(name, parent=parent, named=not automatic, base=original) as writer:
        writer.add(
            msgspec.structs.replace(
                original.header,
                name=writer.name,
                note="",
                created=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                automatic=automatic,
            )
        )
        for document in original.records(Document):
            writer.add(document)
        taken: Any = _AsOriginal(writer, identity, back)
        outcome = checkpoint_tree(pid, taken)
        writer.add(
            Outcome(
                downtime_ms=outcome.downtime_ms,
                elapsed_ms=outcome.elapsed_ms,
                bytes=outcome.bytes,
                processes=tuple(
                    ProcessOutcome(p.pid, p.comm, p.threads, p.descriptors, p.bytes)
                    for p in outcome.processes
                ),
            )
        )
        writer.commit()
    if kernel_id := original.header.kernel.kernel_id:
        # It is the fork that is at the new one.
        store.set_position(kernel_id, original.name)


class _AsOriginal:
    """A writer to which a fork looks like its original."""

    def __init__(
        self, writer: StoredWriter, identity: Identity, ports: Mapping[int, int]
    ) -> None:
        self._writer = writer
        self._identity = identity
        self._ports = ports

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def add(self, record: msgspec.Struct) -> None:
        if isinstance(record, Identity):
            record = self._identity
        if isinstance(record, FileTable):
            record = FileTable(tuple(map(self._renumbered, record.files)))
        self._writer.add(record)

    def _renumbered(self, file: File) -> File:
        record: Any = file.record
        if isinstance(record, tcp_socket.Record | udp_socket.Record):
            record = msgspec.structs.replace(
                record,
                local=self._address(record.local),
                remote=self._address(record.remote),
            )
            return msgspec.structs.replace(file, record=record)
        return file

    def _address(self, address: Address | None) -> Address | None:
        if address is None or address.port not in self._ports:
            return address
        return address.with_port(self._ports[address.port])
