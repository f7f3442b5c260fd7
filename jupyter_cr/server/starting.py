"""Having the server's kernel manager start a kernel in our way."""

from __future__ import annotations

from typing import Any

from jupyter_core.utils import ensure_async

__all__ = ["start_kernel"]


async def start_kernel(kernels: Any, kernel_id: str, **options: Any) -> None:
    """Start a kernel under a given id.

    Args:
        kernels: the kernel manager.
        options: of its ``start_kernel()``.

    Raises:
        Exception: whatever the provisioner has raised; the manager then knows nothing of
            that kernel.
    """
    try:
        await ensure_async(kernels.start_kernel(kernel_id=kernel_id, **options))
    except BaseException:
        # MultiKernelManager (jupyter_client 8.10) keeps what did not start as pending, for
        # ever: its shutdown_all() would fail on it, and the server never stop.
        kernels._pending_kernels.pop(kernel_id, None)
        raise
