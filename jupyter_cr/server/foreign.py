"""Kernels that another provisioner than ours looks after, because the user chose it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from jupyter_cr.errors import RestoreError
from jupyter_cr.kernels.engine_process import EngineProcess, Progress
from jupyter_cr.kernels.provisioner import (
    Running,
    SnapshotProvisioner,
    reap,
    telling_before_swap,
)

__all__ = ["replace_foreign", "require_provisioner"]


def require_provisioner(kernels: Any, kernel_name: str) -> None:
    """See that a kernel of that name can be started from a snapshot.

    Args:
        kernels: the server's kernel manager.

    Raises:
        RestoreError: there is no such kernel spec, or its provisioner is another.
    """
    try:
        spec = kernels.kernel_spec_manager.get_kernel_spec(kernel_name)
    except NoSuchKernel as error:
        raise RestoreError(
            f"There is no kernel spec {kernel_name!r} here any more.",
            "Install it again (jupyter kernelspec list shows what there is), or bring "
            "the snapshot back in a terminal: jupyter cr fork, or restore.",
        ) from error
    factory = KernelProvisionerFactory.instance(parent=kernels)
    stanza = spec.metadata.get("kernel_provisioner", {})
    name = stanza.get("provisioner_name", factory.default_provisioner_name)
    entry = factory.provisioners.get(name)
    if entry is None or not issubclass(entry.load(), SnapshotProvisioner):
        raise RestoreError(
            f"Kernels of {kernel_name!r} are started by {name!r}, which cannot start "
            "them from a snapshot.",
            "Let it be jupyter-cr-provisioner, in the kernel spec or as "
            "KernelProvisionerFactory.default_provisioner_name.",
        )


async def replace_foreign(
    manager: Any,
    engine: EngineProcess,
    snapshot: str,
    progress: Progress | None,
    before: Callable[[], None],
    *,
    asked_within: bool = False,
) -> Running:
    """Bring a snapshot back in place of a kernel's processes. Nobody may look after it
    meanwhile (`KernelManager.stop_restarter`), who would take that for a crash.

    Args:
        manager: the kernel's manager; its provisioner is a `LocalProvisioner`.
        engine: which does it.
        before: called when the tree that runs now is about to be ended.
        asked_within: a process of the kernel has asked for it.

    Raises:
        CheckpointRestoreError: as the engine did; the kernel goes on.
    """
    provisioner: LocalProvisioner = manager.provisioner

    request = {
        "op": "restore",
        "name": snapshot,
        "replacing": provisioner.pid,
        "asked_within": asked_within,
        "stay": True,
    }
    running = await engine.run(request, Running, telling_before_swap(progress, before))
    former: Any = provisioner.process
    provisioner.process = engine.process
    provisioner.pid = running.pid
    provisioner.pgid = os.getpgid(running.pid)
    await reap(former)
    return running
