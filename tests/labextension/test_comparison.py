"""Two snapshots, and a snapshot and its kernel, beside each other."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from tests.labextension.harness import Lab, LabServer
from tests.labextension.seen import violations

pytestmark = pytest.mark.timeout(600)

COMPARISON = ".jp-cr-Comparison"


def take(window: Lab, path: str, name: str) -> None:
    kernel = next(
        session["kernel"]["id"]
        for session in window.server.get("api/sessions")
        if session["path"] == path
    )
    window.server.do(f"kernels/{kernel}/checkpoint", name=name)


def variable(tab: Locator, name: str) -> Locator:
    return tab.get_by_role("row", name=re.compile(f"^{name} "))


def test_two_snapshots(jupyterlab: LabServer) -> None:
    """Chosen in the panel, in whichever order: the older one is first."""
    path = "two.ipynb"
    with jupyterlab.open(
        path,
        "x = 1; same = 2; gone = 3",
        "x = [1, 2]; log = open('run.log', 'w'); del gone",
    ) as window:
        window.run_cell(path, 0)
        take(window, path, "earlier")
        window.run_cell(path, 1)
        take(window, path, "later")
        window.open_panel()
        window.row("later").click()
        window.row("earlier").click(modifiers=["Control"])
        window.panel.get_by_role("button", name="Compare", exact=True).click()

        tab = window.page.locator(COMPARISON)
        expect(tab.get_by_role("heading", level=1)).to_have_text("earlier → later")
        expect(tab.get_by_role("heading", name="Variables")).to_be_visible()
        expect(variable(tab, "x")).to_contain_text("changed")
        expect(variable(tab, "x")).to_contain_text("[1, 2]")
        expect(variable(tab, "gone")).to_contain_text("removed")
        expect(variable(tab, "log")).to_contain_text("added")
        expect(variable(tab, "same")).to_have_count(0)
        expect(tab.get_by_text("The source of no cell differs.")).to_be_visible()
        expect(tab.get_by_text("run.log").last).to_be_visible()
        expect(tab.get_by_role("row", name=re.compile("^Changed "))).to_be_visible()
        assert violations(window.page, COMPARISON) == []


def test_with_now(jupyterlab: LabServer) -> None:
    """With what is on the screen, saved or not."""
    path = "now.ipynb"
    with jupyterlab.open(path, "x = 1") as window:
        window.run_cell(path, 0)
        take(window, path, "first")
        cell = window.cell(path, 0)
        cell.locator(".cm-content").click()
        window.page.keyboard.press("Control+A")
        window.page.keyboard.type("x = 'another'")
        window.page.keyboard.press("Control+Enter")
        window.is_idle(path)
        window.open_panel()
        window.row("first").click(button="right")
        window.menu_item("Compare with Now").click()
        tab = window.page.locator(COMPARISON)
        expect(tab.get_by_role("heading", level=1)).to_have_text("first → now")
        expect(variable(tab, "x")).to_contain_text("'another'")
        lines = tab.locator(".jp-cr-Line")
        expect(lines).to_have_text(["- x = 1\n", "+ x = 'another'\n"])
        # What it was compared with is not to be seen.
        assert window.taken(path) == ["first"]


def test_one_that_is_gone(jupyterlab: LabServer) -> None:
    """What goes wrong is said, with the next step."""
    path = "gone.ipynb"
    with jupyterlab.open(path, "x = 1") as window:
        window.run_cell(path, 0)
        take(window, path, "stays")
        take(window, path, "goes")
        window.open_panel()
        refuse = re.compile(r"/jupyter-cr/snapshots/stays/diff")
        window.page.route(
            refuse,
            lambda route: route.fulfill(
                status=404,
                json={
                    "detail": "There is no snapshot named goes.",
                    "hint": "See the list.",
                },
            ),
        )
        window.row("stays").click()
        window.row("goes").click(modifiers=["Control"])
        window.panel.get_by_role("button", name="Compare", exact=True).click()
        tab = window.page.locator(COMPARISON)
        expect(tab.get_by_role("alert")).to_contain_text("There is no snapshot named goes.")
        expect(tab.get_by_role("alert")).to_contain_text("See the list.")
        window.page.unroute(refuse)
        tab.get_by_role("button", name="Try again").click()
        expect(tab.get_by_text("No variable differs.")).to_be_visible()
