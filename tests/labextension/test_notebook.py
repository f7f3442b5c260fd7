"""The same bundle where there is no JupyterLab around it: Notebook 7; and in consoles."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.labextension.harness import (
    LIMIT_MS,
    START_LIMIT_MS,
    LabServer,
    expect_enabled,
    kernel_toolbar_button,
)

pytestmark = pytest.mark.timeout(400)


def test_notebook_7(jupyterlab: LabServer) -> None:
    """Snapshot, go back, and a copy in a window of its own."""
    pytest.importorskip("notebook")
    jupyterlab.write("seven.ipynb", "x = 1", "x = 2", "print(x)")
    with jupyterlab.page("notebooks/seven.ipynb") as page:
        cells = page.locator(".jp-CodeCell")
        # It says "Idle", and fades away.
        idle = page.locator(".jp-NotebookKernelStatus-fade")
        expect(idle).to_be_attached(timeout=START_LIMIT_MS)

        def run(number: int) -> None:
            cells.nth(number).locator(".cm-content").click()
            page.keyboard.press("Control+Enter")
            expect(cells.nth(number).locator(".jp-InputPrompt")).to_have_text(
                re.compile(r"\[\d+\]:"), timeout=LIMIT_MS
            )

        button = kernel_toolbar_button(page.locator("body"))
        expect_enabled(button)
        run(0)
        button.click()
        toast = page.locator(".Toastify__toast")
        expect(toast.filter(has_text="Snapshot “seven-1”")).to_be_visible()
        run(1)
        page.keyboard.press("Control+Alt+z")
        expect(toast.filter(has_text="is back at “seven-1”")).to_be_visible()
        run(2)
        expect(cells.nth(2).locator(".jp-OutputArea-output")).to_have_text("1")

        with page.context.expect_page(timeout=LIMIT_MS) as opened:
            page.keyboard.press("Control+Alt+k")
        fork = opened.value
        cell = fork.locator(".jp-CodeCell").nth(2)
        cell.locator(".cm-content").click(timeout=LIMIT_MS)
        expect_enabled(kernel_toolbar_button(fork.locator("body")))
        fork.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-OutputArea-output")).to_have_text("1")


def test_a_cell_is_tried_in_notebook_7(jupyterlab: LabServer) -> None:
    """Its outcome is shown below the notebook, which is the only one on the page."""
    pytest.importorskip("notebook")
    jupyterlab.write("tries.ipynb", "x = 'tried'; print(x)")
    with jupyterlab.page("notebooks/tries.ipynb") as page:
        # It says "Idle", and fades away.
        idle = page.locator(".jp-NotebookKernelStatus-fade")
        expect(idle).to_be_attached(timeout=START_LIMIT_MS)
        expect_enabled(kernel_toolbar_button(page.locator("body")))
        cell = page.locator(".jp-Notebook .jp-CodeCell").first
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Alt+Enter")
        tab = page.locator(".jp-cr-Trial")
        expect(tab.get_by_text("tried", exact=True)).to_be_visible()
        expect(tab.get_by_role("row", name="x added")).to_be_visible()
        tab.get_by_role("button", name="Adopt").click()
        expect(tab).to_have_count(0)
        expect(cell.locator(".jp-OutputArea-output")).to_have_text("tried\n")


def test_a_kernel_of_notebook_7_hibernates(jupyterlab: LabServer) -> None:
    """It says so, and a cell wakes it; the list of what runs does, too."""
    pytest.importorskip("notebook")
    jupyterlab.write("naps.ipynb", "x = 1", "print(x)")
    with jupyterlab.page("notebooks/naps.ipynb") as page:
        cells = page.locator(".jp-CodeCell")
        expect_enabled(kernel_toolbar_button(page.locator("body")))

        def run(number: int) -> None:
            cells.nth(number).locator(".cm-content").click()
            page.keyboard.press("Control+Enter")
            expect(cells.nth(number).locator(".jp-InputPrompt")).to_have_text(
                re.compile(r"\[\d+\]:"), timeout=LIMIT_MS
            )

        def hibernate() -> None:
            page.locator(".lm-MenuBar-item", has_text="Kernel").click()
            page.locator(".lm-Menu-item", has_text="Hibernate Kernel").click()
            expect(sleep).to_contain_text("This kernel is hibernating")

        run(0)
        sleep = page.locator(".jp-cr-Sleep")
        hibernate()
        run(1)
        expect(cells.nth(1).locator(".jp-OutputArea-output")).to_have_text("1")
        expect(sleep).to_be_hidden()
        hibernate()
        with jupyterlab.page("tree") as tree:
            tree.get_by_role("tab", name="Running").click()
            item = tree.locator(".jp-RunningSessions-item", has_text="naps.ipynb")
            expect(item).to_be_visible()
            item.hover()
            item.locator(".jp-RunningSessions-itemShutdown").click()
            expect(sleep).to_be_hidden()
        run(1)


def test_a_console(jupyterlab: LabServer) -> None:
    """It has the button, too; a fork of its kernel gets a console of its own."""
    with jupyterlab.open("beside.ipynb", "x = 1") as window:
        page = window.page
        window.open_panel()
        window.choose_submenu("File", "New", "Console")
        page.get_by_role("button", name="Select Kernel").click()
        console = page.locator(".jp-ConsolePanel")
        editor = console.locator(".jp-CodeConsole-promptCell .cm-content")
        expect(editor).to_be_visible()
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")

        def run(panel: int, code: str, *, printed: str) -> None:
            editor.nth(panel).click()
            page.keyboard.type(code)
            page.keyboard.press("Shift+Enter")
            outputs = console.nth(panel).locator(".jp-OutputArea-output")
            expect(outputs.last).to_have_text(printed, timeout=LIMIT_MS)

        run(0, "x = 1; x", printed="1")
        kernel_toolbar_button(console).click()
        expect(window.toast("Snapshot “python3-")).to_be_visible()
        row = window.rows.filter(has_text="python3-")
        name = str(row.get_attribute("data-snapshot"))
        run(0, "x = 2; x", printed="2")
        window.act(name, "Restore")
        expect(window.toast("is back at")).to_be_visible()
        run(0, "x + 10", printed="11")
        window.act(name, "Fork")
        expect(console).to_have_count(2)
        run(1, "x + 20", printed="21")
