"""The extension of Jupyter Server: REST, events, the kernels' socket."""

from __future__ import annotations

from typing import Any

__all__ = ["_jupyter_server_extension_points"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Called by Jupyter Server to find the extension's application."""
    # Imported where needed: other parts of this package have less to import.
    from jupyter_cr.server.extension import SnapshotExtension

    return [{"module": "jupyter_cr.server.extension", "app": SnapshotExtension}]
