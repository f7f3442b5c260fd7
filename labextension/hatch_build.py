"""Builds the JupyterLab extension into wheels and source distributions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "labextension"
BUNDLE = "jupyter_cr/labextension"
SHARED = "share/jupyter/labextensions/jupyter-cr"


class LabExtensionHook(BuildHookInterface[Any]):
    """An editable installation is without it, and without Node: `make labextension` builds
    the extension and links it. Everything else that is built has it inside."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each target."""
        # Linked, since files that pip installs would be written through that link.
        if version == "editable":
            return
        built = Path(self.root, BUNDLE, "package.json")
        # In a source distribution it is built already.
        is_source = Path(self.root, "PKG-INFO").is_file() and built.is_file()
        if not is_source and "SKIP_JUPYTER_BUILDER" not in os.environ:
            self._build()
        if self.target_name == "wheel" and built.is_file():
            build_data["shared_data"] |= {
                BUNDLE: SHARED,
                f"{SOURCE}/install.json": f"{SHARED}/install.json",
            }

    def _build(self) -> None:
        if shutil.which("node") is None:
            raise RuntimeError(
                "The JupyterLab extension cannot be built: Node.js is not installed. "
                "Install it (version 20 or later), or set SKIP_JUPYTER_BUILDER=1 to do "
                "without the extension."
            )
        from hatch_jupyter_builder import npm_builder

        npm_builder(
            self.target_name,
            "standard",
            path=str(Path(self.root, SOURCE)),
            npm=["jlpm"],
            build_cmd="build:prod",
        )
