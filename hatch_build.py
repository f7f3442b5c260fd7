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
    """An editable installation takes what there is, since it must do without Node: `make
    labextension` builds it. Everything else that is built has the extension in it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each target."""
        bundle = Path(self.root, BUNDLE)

        def is_built() -> bool:
            return (bundle / "package.json").is_file()

        # In a source distribution it is built already.
        is_source = Path(self.root, "PKG-INFO").is_file() and is_built()
        is_skipped = "SKIP_JUPYTER_BUILDER" in os.environ
        if version != "editable" and not is_source and not is_skipped:
            self._build()
        if self.target_name == "wheel" and is_built():
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
