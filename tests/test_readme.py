"""What README.md tells people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from jupyter_cr.cli.commands import cr

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
README = PAGES[0].read_text()


def code(text: str) -> str:
    """All that stands in code blocks or between backquotes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *inline])


def commands() -> set[str]:
    return set(re.findall(r"\bjupyter[ -]cr (\w+)", code(README)))


@pytest.mark.parametrize("name", sorted(commands()))
def test_commands_exist(name: str) -> None:
    assert name in cr.commands


def test_all_commands_are_told() -> None:
    assert set(cr.commands) <= commands()


@pytest.mark.parametrize(
    ("name", "option"), sorted(set(re.findall(r"`(?!jupyter)(\w+) (--[a-z-]+)", README)))
)
def test_options_exist(name: str, option: str) -> None:
    known = [o for p in cr.commands[name].params for o in p.opts]
    assert option in known


def test_all_print_json() -> None:
    without = {
        name
        for name, command in cr.commands.items()
        if not any(
            "--json" in p.opts for p in command.params if isinstance(p, click.Option)
        )
    }
    assert without == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    told = set(re.findall(r"\bmake ([a-z-]+)", code(page.read_text())))
    assert told <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    paths = re.findall(r"`((?:jupyter_cr|tests)/[\w/]+\.py)`", text)
    assert [name for name in {*links, *paths} if not (ROOT / name).exists()] == []
