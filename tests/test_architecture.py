"""ARCHITECTURE.md is true: what it names exists, and what exists it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jupyter_cr.engine import descriptors
from jupyter_cr.engine.descriptors import KINDS
from jupyter_cr.engine.state import address_space

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.M | re.S)
    assert found is not None, f"no section {title}"
    return found[1]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def test_the_kinds_are_those_of_the_code() -> None:
    names = [kind.__name__.rpartition(".")[2] for kind in KINDS]
    assert first_cells(section("Descriptors")) == names


def test_every_refused_descriptor_is_named() -> None:
    text = section("Descriptors")
    assert [tag for tag in descriptors._REFUSED if f"`{tag}`" not in text] == []


def test_every_refused_memory_is_named() -> None:
    text = section("Memory")
    assert [flag for flag in address_space._REFUSED if f"`{flag}`" not in text] == []


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:jupyter_cr|tests)/[^`]*)`", TEXT)))
)
def test_what_is_named_exists(name: str) -> None:
    path = ROOT / name
    assert path.is_dir() if name.endswith("/") else path.is_file()


def test_every_package_is_named() -> None:
    packages = {
        path.parent.relative_to(ROOT) for path in ROOT.glob("jupyter_cr/**/__init__.py")
    }
    unnamed = {f"{package}/" for package in packages if f"`{package}/`" not in TEXT}
    assert unnamed == {"jupyter_cr/"}


def test_the_image_is_told_as_the_code_has_it() -> None:
    from jupyter_cr.image.frame import TRAILER_TYPE

    assert f"record of type {TRAILER_TYPE:X}" in section("The image")
