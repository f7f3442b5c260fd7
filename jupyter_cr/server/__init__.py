"""The extension of Jupyter Server: REST, events, the kernels' socket."""

from __future__ import annotations

from typing import Any

__all__ = ["_jupyter_labextension_paths", "_jupyter_server_extension_points"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Called by Jupyter Server to find the extension's application."""
    # Imported where needed: other parts of this package have less to import.
    from jupyter_cr.server.extension import SnapshotExtension

    return [{"module": "jupyter_cr.server.extension", "app": SnapshotExtension}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Called by jupyter-builder to find what has been built from ``labextension/``."""
    return [{"src": "labextension", "dest": "jupyter-cr"}]
