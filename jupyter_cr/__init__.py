"""Checkpoint, restore and fork running Jupyter kernels: whole process trees,
unmodified, as root or as an ordinary user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_cr.api import (
        checkpoint,
        diff,
        fork,
        reseed_after,
        reset_to,
        restore,
        snapshots,
        timeline,
        undo,
    )
    from jupyter_cr.glue.hooks import on_checkpoint, on_fork, on_restore
    from jupyter_cr.magics import load_ipython_extension, unload_ipython_extension

__all__ = [
    "__version__",
    "checkpoint",
    "diff",
    "fork",
    "load_ipython_extension",
    "on_checkpoint",
    "on_fork",
    "on_restore",
    "reseed_after",
    "reset_to",
    "restore",
    "snapshots",
    "timeline",
    "undo",
    "unload_ipython_extension",
]

__version__ = "0.1.0"

_PARTS = {
    "jupyter_cr.api": (
        "checkpoint",
        "diff",
        "fork",
        "reseed_after",
        "reset_to",
        "restore",
        "snapshots",
        "timeline",
        "undo",
    ),
    "jupyter_cr.glue.hooks": ("on_checkpoint", "on_fork", "on_restore"),
    "jupyter_cr.magics": ("load_ipython_extension", "unload_ipython_extension"),
    # What Jupyter Server looks for in the package that its configuration names, and
    # `jupyter-builder develop` in the one whose bundle it links.
    "jupyter_cr.server": (
        "_jupyter_labextension_paths",
        "_jupyter_server_extension_points",
    ),
}


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: the command line needs none of it."""
    from importlib import import_module

    for module, names in _PARTS.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
