"""Kernels whose server was killed: the next server takes them over."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel

from jupyter_cr.errors import CheckpointRestoreError, NoSuchProcess, UsageError
from jupyter_cr.kernels.provisioner import Adoption
from jupyter_cr.kernels.records import KernelRecord, iter_orphans
from jupyter_cr.kernels.target import resolve_target
from jupyter_cr.server.documents import Documents
from jupyter_cr.server.starting import start_kernel

__all__ = ["adopt_kernels"]


async def adopt_kernels(
    kernels: Any, documents: Documents, root_dir: str, log: logging.Logger
) -> list[str]:
    """Look after the living kernels of servers that are gone, under their old ids.

    Args:
        kernels: the kernel manager.
        root_dir: of this server's files: kernels of notebooks elsewhere are left alone.

    Returns:
        Ids of the kernels.
    """
    adopted = []
    for record in iter_orphans():
        path = _api_path(record, root_dir)
        if path is None or record.kernel_id in kernels or not record.claim():
            continue
        if (pid := await asyncio.to_thread(_find, record)) is None:
            log.info("Kernel %s has ended since.", record.kernel_id)
            continue
        try:
            await _adopt(kernels, documents, record, pid, path)
        except (CheckpointRestoreError, NoSuchKernel) as error:
            log.warning("Kernel %s cannot be taken over: %s", record.kernel_id, error)
            record.write()
        else:
            log.info("Kernel %s is looked after again.", record.kernel_id)
            adopted.append(record.kernel_id)
    return adopted


def _find(record: KernelRecord) -> int | None:
    """The pid of the kernel's root, if it lives. A server that was killed in the middle of
    a restore did not note the new one; the kernel's connection file leads to it."""
    try:
        return resolve_target(record.connection_file).pid
    except (NoSuchProcess, UsageError):
        return None


async def _adopt(
    kernels: Any, documents: Documents, record: KernelRecord, pid: int, path: str
) -> None:
    await start_kernel(
        kernels,
        record.kernel_id,
        kernel_name=record.kernel_name,
        cwd=record.cwd or None,
        env=documents.environment(path),
        adoption=Adoption(Path(record.connection_file), pid),
    )
    if path:
        kind = "notebook" if path.endswith(".ipynb") else "console"
        await documents.attach(path, record.kernel_id, kind)


def _api_path(record: KernelRecord, root_dir: str) -> str | None:
    """Of its document; empty if it had none; None if that is outside of the root."""
    if not record.session_name:
        return ""
    relative = os.path.relpath(record.session_name, root_dir)
    return None if relative.startswith("..") else relative.replace(os.sep, "/")
