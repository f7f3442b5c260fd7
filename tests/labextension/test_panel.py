"""The panel: what it says where there is nothing, with thousands, and to those who do not
see or do not use a mouse."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.labextension.harness import LabServer, expect_enabled
from tests.labextension.pretence import pretend_refused, show_many
from tests.labextension.seen import violations

pytestmark = pytest.mark.timeout(400)

MANY = 5000
PANEL = "#jupyter-cr-panel"
REST = re.compile(r":\d+/jupyter-cr/")


def test_nothing_yet(jupyterlab: LabServer) -> None:
    with jupyterlab.open("empty.ipynb", "x = 1") as window:
        window.open_panel()
        expect(window.panel.get_by_text("Nothing to go back to yet")).to_be_visible()
        assert violations(window.page, PANEL) == []


def test_thousands(jupyterlab: LabServer) -> None:
    """All can be reached, but only what is on the screen is in the page."""
    with jupyterlab.open("many.ipynb", "x = 1") as window:
        show_many(window, MANY)
        expect(window.row("snapshot 4999")).to_be_visible()
        assert window.rows.count() < 100
        window.panel.locator(".jp-cr-Group").first.focus()
        window.page.keyboard.press("End")
        expect(window.row("snapshot 0000")).to_be_visible()
        expect(window.row("snapshot 0000")).to_be_focused()
        window.panel.get_by_placeholder("Search").fill("snapshot 2500")
        expect(window.rows).to_have_count(1)
        assert violations(window.page, PANEL) == []


def test_keyboard_alone(jupyterlab: LabServer) -> None:
    with jupyterlab.open("keyboard.ipynb", "x = 1") as window:
        show_many(window, 60)
        press = window.page.keyboard.press
        group = window.panel.get_by_role("treeitem", name="model-1.ipynb")
        group.focus()
        expect(group).to_have_attribute("aria-expanded", "true")
        press("ArrowLeft")
        expect(group).to_have_attribute("aria-expanded", "false")
        expect(window.row("snapshot 0059")).to_have_count(0)
        press("ArrowRight")
        press("ArrowDown")
        expect(window.row("snapshot 0059")).to_be_focused()
        press("Shift+ArrowDown")
        press("Shift+ArrowDown")
        expect(window.panel.get_by_text("3 selected")).to_be_visible()
        press("Escape")
        expect(window.panel.get_by_text("3 selected")).to_have_count(0)
        press("F2")
        expect(window.panel.get_by_label("Name of the snapshot")).to_be_focused()
        press("Escape")
        expect(window.row("snapshot 0057")).to_be_focused()
        press("Delete")
        expect(window.row("snapshot 0057")).to_have_count(0)
        window.toast("deleted").get_by_role("button", name="Undo").click()
        expect(window.row("snapshot 0057")).to_be_visible()


def test_a_long_name(jupyterlab: LabServer) -> None:
    """What somebody has called it is seen, the date is cut off: its age stands below."""
    with jupyterlab.open("names.ipynb", "x = 1") as window:
        show_many(window, 3, prefix="before-cleaned-20261128-10")
        row = window.row("before-cleaned-20261128-100002")
        base, stamp = row.locator(".jp-cr-Item-base"), row.locator(".jp-cr-Item-stamp")
        expect(base).to_have_text("before-cleaned")
        expect(stamp).to_have_text("-20261128-100002")
        for part, is_cut in ((base, False), (stamp, True)):
            cut = part.evaluate("element => element.scrollWidth > element.clientWidth")
            assert cut is is_cut


def test_a_damaged_one(jupyterlab: LabServer) -> None:
    """It says so, and can only be deleted."""
    with jupyterlab.open("damaged.ipynb", "x = 1") as window:
        show_many(window, 10)
        row = window.row("snapshot 0007")
        expect(row).to_contain_text("damaged")
        row.hover()
        expect(row.get_by_role("button", name=re.compile("^Restore"))).to_be_disabled()
        expect(row.get_by_role("button", name=re.compile("^Fork"))).to_be_disabled()
        expect(row.get_by_role("button", name=re.compile("^Delete"))).to_be_enabled()


def test_a_machine_that_does_not_permit_it(jupyterlab: LabServer) -> None:
    """It is said in a sentence, with the next step, and no button pretends otherwise."""
    with jupyterlab.open("refused.ipynb", "x = 1") as window:
        pretend_refused(window)
        window.is_idle("refused.ipynb")
        window.open_panel()
        notice = window.panel.get_by_role("alert")
        expect(notice).to_contain_text("Kernels cannot be snapshotted on this machine.")
        expect(notice).to_contain_text("sudo sysctl kernel.yama.ptrace_scope=0")
        expect_enabled(window.button("refused.ipynb"), False)
        button = window.panel.get_by_role("button", name="Snapshot refused.ipynb")
        expect(button).to_be_disabled()
        assert violations(window.page, PANEL) == []


def test_a_server_without_it(jupyterlab: LabServer) -> None:
    with jupyterlab.open("missing.ipynb", "x = 1") as window:
        window.page.route(REST, lambda route: route.fulfill(status=404, body="?"))
        window.page.reload()
        window.is_idle("missing.ipynb")
        window.open_panel()
        expect(window.panel.get_by_role("alert")).to_contain_text("pip install jupyter-cr")
        expect_enabled(window.button("missing.ipynb"), False)
        window.page.unroute(REST)
        window.panel.get_by_text("Try again").click()
        expect(window.panel.get_by_text("Nothing to go back to yet")).to_be_visible()
        expect_enabled(window.button("missing.ipynb"))
