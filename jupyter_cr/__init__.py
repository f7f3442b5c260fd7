"""Checkpoint, restore and fork running Jupyter kernels: whole process trees,
unmodified, as root or as an ordinary user."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
