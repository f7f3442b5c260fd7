"""Imports point down only, and what is fenced in stays fenced in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jupyter_cr"

LAYERS = (
    {""},  # the package itself: the version, and what is imported when asked for
    {"errors"},
    {"tracer"},
    {"engine"},
    {"image"},
    {"store"},
    {"kernels"},
    {"background"},
    {"bundles", "comparing", "operations"},
    {"lessons"},
    {"glue"},
    {"api"},
    {"cli", "magics", "server"},
)
"""From the bottom up; parts on one level do not know each other."""

LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}

WITHOUT_JUPYTER = ("errors", "tracer", "engine", "image")
JUPYTER = frozenset(
    {
        "IPython",
        "ipykernel",
        "jupyter_client",
        "jupyter_core",
        "jupyter_server",
        "traitlets",
    }
)


# An entry point stands above all, wherever its file is.
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def iter_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, also inside functions."""
    package = ["jupyter_cr", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "jupyter_cr":
                for alias in node.names:
                    is_part = alias.name in LEVELS
                    yield node.lineno, f"{module}.{alias.name}" if is_part else module
            else:
                yield node.lineno, module


def parts_imported(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in iter_imports(path):
        top, _, rest = name.partition(".")
        if top == "jupyter_cr":
            yield line, rest.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part == "":
        return  # see test_the_package_itself_imports_nothing
    assert part in LEVELS, f"{part} has no place in LAYERS"
    wrong = [
        f"{path}:{line}: {part} imports {other}"
        for line, other in parts_imported(path)
        if other != part and LEVELS[other] >= LEVELS[part]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing() -> None:
    code = "import sys, jupyter_cr; print([m for m in sys.modules if 'jupyter_cr.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert done.stdout == b"[]\n"


def test_lower_layers_know_no_jupyter() -> None:
    wrong = [
        f"{path}:{line}: {name}"
        for path in MODULES
        if part_of(path) in WITHOUT_JUPYTER
        for line, name in iter_imports(path)
        if name.partition(".")[0] in JUPYTER
    ]
    assert not wrong, "\n".join(wrong)


def test_python_ptrace_is_behind_one_module() -> None:
    users = {
        path.relative_to(PACKAGE)
        for path in MODULES
        for _, name in iter_imports(path)
        if name.partition(".")[0] == "ptrace"
    }
    assert len(users) <= 1, users
    assert all(path.parts[0] == "tracer" for path in users)


def test_imports_inside_functions_count() -> None:
    inside = ast.parse((PACKAGE / "operations.py").read_text())
    at_top = {node.lineno for node in inside.body}
    imports = parts_imported(PACKAGE / "operations.py")
    assert "engine" in {other for line, other in imports if line not in at_top}
