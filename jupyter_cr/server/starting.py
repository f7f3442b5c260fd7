"""Having the server's kernel manager start a kernel in our way."""

from __future__ import annotations

from typing import Any

from jupyter_core.utils import ensure_async

__all__ = ["ask_for_status", "start_kernel"]

_LINGER_MS = 1000


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


def ask_for_status(manager: Any) -> None:
    """Have a kernel publish that it is idle, as soon as it is: when it came to the end of
    a cell before anybody listened, nobody would know.

    Args:
        manager: the kernel's.
    """
    shell = manager.connect_shell()
    try:
        # Of those that a server takes for a sign of what the kernel does, the most idle.
        manager.session.send(shell.socket, "is_complete_request", {"code": ""})
    finally:
        shell.close(linger=_LINGER_MS)
