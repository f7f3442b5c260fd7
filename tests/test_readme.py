"""What README.md tells people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from jupyter_cr.cli.commands import cr
from jupyter_cr.kernels.provisioner import SnapshotProvisioner
from jupyter_cr.server.extension import SnapshotExtension

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
README = PAGES[0].read_text()
PICTURES = ROOT / "labextension" / "pictures"


def code(text: str) -> str:
    """All that stands in code blocks or between backquotes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *inline])


def commands() -> set[str]:
    return set(re.findall(r"\bjupyter[ -]cr ([\w-]+)", code(README)))


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
    paths = re.findall(r"`((?:jupyter_cr|tests)/[\w/]+\.py|binder/)`", text)
    assert [name for name in {*links, *paths} if not (ROOT / name).exists()] == []


def anchors(text: str) -> list[str]:
    """Of all headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    known = anchors(text)
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text)
    lost = [
        anchor
        for name, anchor in links
        if anchor not in (anchors((ROOT / name).read_text()) if name else known)
    ]
    assert lost == []
    assert len(set(known)) == len(known)


def shown() -> dict[str, str]:
    """Each picture in README, with what it says to those who cannot see it."""
    tags = re.findall(r"<img ([^>]*)>", README)
    assert "![" not in README, "as <img>, with a width: they have two pixels for each"
    attributes = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in tags]
    return {each["src"]: each.get("alt", "") for each in attributes}


def test_pictures_are_those_that_are_taken() -> None:
    pictures = {path.relative_to(ROOT).as_posix() for path in PICTURES.iterdir()}
    assert set(shown()) == pictures
    script = (ROOT / "tests" / "labextension" / "pictures.py").read_text()
    assert [path for path in pictures if f'"{Path(path).name}"' not in script] == []


def test_pictures_are_described() -> None:
    assert [path for path, alt in shown().items() if len(alt) < 20] == []


def test_pictures_are_small() -> None:
    """A clone and a page have to stay quick."""
    large = {
        path.name: path.stat().st_size
        for path in PICTURES.iterdir()
        if path.stat().st_size > (700_000 if path.suffix == ".gif" else 200_000)
    }
    assert large == {}


def test_pictures_are_in_no_wheel() -> None:
    """What wheels are made of is in other directories."""
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    inside = [*wheel["packages"], *wheel["shared-data"]]
    assert [name for name in inside if PICTURES.is_relative_to(ROOT / name)] == []


def test_the_settings_named_exist() -> None:
    """Traits, as an administrator gives them to a server."""
    known = {
        f"{kind.__name__}.{name}"
        for kind in (SnapshotExtension, SnapshotProvisioner)
        for name in kind.class_own_traits(config=True)
    }
    told = set(re.findall(r"--(Snapshot\w+\.\w+)", README))
    assert told <= known
    # What is left out is told elsewhere: `jupyter server --help-all`.
    assert told >= {name for name in known if "hibernate" in name}


def test_the_calls_of_the_seccomp_profile_are_in_the_table() -> None:
    (names,) = re.findall(r"names: \[([^]]+)\]", README)
    calls = set(re.findall(r'"(\w+)"', names))
    (row,) = re.findall(r"^\| in Docker: [^|]*\| ([^|]*) \|", README, re.M)
    assert set(row.split(", ")) == calls - {"userfaultfd"}
