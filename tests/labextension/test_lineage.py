"""The panel by lineage: what grew from what, and where each kernel is now."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.conftest import a_user
from tests.engine.harness import wait_until
from tests.labextension.conftest import require_lab
from tests.labextension.harness import Lab, LabServer, lab
from tests.labextension.pretence import show_many
from tests.labextension.seen import violations

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

PANEL = "#jupyter-cr-panel"


@pytest.fixture(scope="module", params=["JupyterLab Light", "JupyterLab Dark"])
def themed(request: pytest.FixtureRequest) -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user, request.param) as server:
            yield server


def order(window: Lab, name: str) -> Locator:
    """One of the buttons that say how the list is ordered."""
    return window.panel.get_by_role("button", name=re.compile(f"^By {name}"))


def snapshot(window: Lab, path: str, name: str) -> None:
    window.button(path).click()
    expect(window.row(name)).to_be_visible()


def shown(window: Lab) -> list[tuple[str, int]]:
    """Names and levels of the rows, from above."""
    return [
        tuple(row)
        for row in window.rows.evaluate_all(
            """rows => rows
                .sort((a, b) => a.dataset.index - b.dataset.index)
                .map(row => [row.dataset.snapshot, Number(row.ariaLevel)])"""
        )
    ]


def test_what_grew_from_what(themed: LabServer) -> None:
    """A tree of a kernel and its fork: where they are, what is left out by a search and by
    a deletion; moved in by keyboard; and it is by lineage again after a reload."""
    with themed.open("grown.ipynb", "x = 1", "x += 1") as window:
        window.open_panel()
        window.run_cell("grown.ipynb", 0)
        for number in (1, 2, 3):
            snapshot(window, "grown.ipynb", f"grown-{number}")
            window.run_cell("grown.ipynb", 1)
        window.act("grown-2", "Restore")
        expect(window.toast("is back at")).to_be_visible()
        window.run_cell("grown.ipynb", 1)
        snapshot(window, "grown.ipynb", "grown-4")
        kept = window.taken("grown.ipynb")[1]
        window.act("grown-2", "Fork")
        window.is_idle("grown-2.ipynb")
        window.run_cell("grown-2.ipynb", 1)

        order(window, "lineage").click()
        group = window.panel.get_by_role("treeitem", name=re.compile("^grown.ipynb"))
        expect(group).to_have_attribute("aria-expanded", "true")
        expect(window.panel.locator(".jp-cr-Group")).to_have_count(1)
        tree = [
            ("grown-1", 2),
            ("grown-2", 2),
            ("grown-3", 3),
            (kept, 3),
            ("grown-4", 3),
        ]
        assert shown(window) == tree
        # The fork is the current one, and the other's kernel is told by its notebook.
        badges = ".jp-cr-mod-here.jp-cr-Badge"
        expect(window.row("grown-2").locator(badges)).to_have_text(["here"])
        expect(window.row("grown-4").locator(badges)).to_have_text(["grown.ipynb"])
        window.tab("grown.ipynb").click()
        expect(window.row("grown-2").locator(badges)).to_have_text(["grown-2.ipynb"])
        expect(window.row("grown-4").locator(badges)).to_have_text(["here"])
        assert violations(window.page, PANEL) == []

        # What the fork grows is in the same tree.
        window.tab("grown-2.ipynb").click()
        snapshot(window, "grown-2.ipynb", "grown-2-1")
        expect(window.row("grown-2-1")).to_contain_text("in grown-2.ipynb")
        expect(window.row("grown-2").locator(badges)).to_have_count(0)
        tree.append(("grown-2-1", 3))
        assert shown(window) == tree

        window.row("grown-2-1").click()
        press = window.page.keyboard.press
        press("ArrowLeft")
        expect(window.row("grown-2")).to_be_focused()
        press("ArrowLeft")
        expect(window.row("grown-1")).to_be_focused()
        press("ArrowLeft")
        expect(group).to_be_focused()
        press("End")
        expect(window.row("grown-2-1")).to_be_focused()

        search = window.panel.get_by_placeholder("Search")
        search.fill("grown-4")
        expect(window.rows).to_have_count(1)
        expect(window.row("grown-4")).to_contain_text("after grown-2")
        search.fill("")
        window.act("grown-2", "Delete")
        expect(window.row("grown-2")).to_have_count(0)
        expect(window.row("grown-3")).to_contain_text("after grown-1")
        assert shown(window) == [
            ("grown-1", 2),
            ("grown-3", 3),
            (kept, 3),
            ("grown-4", 3),
            ("grown-2-1", 3),
        ]
        # Once it is gone for good, what grew from it grew from what it grew from.
        expect(window.row("grown-3")).not_to_contain_text("after", timeout=20_000)

        window.page.reload()
        window.is_idle("grown.ipynb")
        window.open_panel()
        expect(order(window, "lineage")).to_have_attribute("aria-pressed", "true")
        expect(window.row("grown-2-1")).to_be_visible()
        assert shown(window)[0] == ("grown-1", 2)
        order(window, "time").click()
        # The notebook that one is in comes first.
        window.tab("grown.ipynb").click()
        wait_until(lambda: shown(window)[0] == ("grown-4", 2), "newest first")


def test_thousands(themed: LabServer) -> None:
    """Only what is on the screen is in the page, all can be reached, and what is left out
    leaves no hole."""
    with themed.open("many.ipynb", "x = 1") as window:
        show_many(window, 5000)
        order(window, "lineage").click()
        first = window.row("snapshot 4950")
        expect(first).to_be_visible()
        assert window.rows.count() < 100
        window.panel.locator(".jp-cr-Group").first.focus()
        window.page.keyboard.press("End")
        expect(window.row("snapshot 0049")).to_be_focused()
        window.page.keyboard.press("ArrowLeft")
        expect(window.row("snapshot 0048")).to_be_focused()
        window.panel.get_by_placeholder("Search").fill("snapshot 250")
        expect(window.rows).to_have_count(10)
        assert shown(window) == [(f"snapshot 250{n}", 2) for n in range(10)]
        assert violations(window.page, PANEL) == []
        order(window, "time").click()
        expect(order(window, "time")).to_have_attribute("aria-pressed", "true")
