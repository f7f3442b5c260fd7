"""The timeline as people use it: undo a run, redo it, branch off, and lose nothing."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from tests.engine.harness import wait_until
from tests.labextension.harness import (
    Lab,
    LabServer,
    expect_enabled,
    kernel_toolbar_button,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

BACK = "back at before"


def kernel_of(window: Lab, path: str) -> str:
    (kernel_id,) = {
        session["kernel"]["id"]
        for session in window.server.get("api/sessions")
        if session["path"] == path
    }
    return str(kernel_id)


def bar(window: Lab, path: str) -> Locator:
    return window.notebook(path).locator(".jp-cr-Timeline")


def slider(window: Lab, path: str) -> Locator:
    return bar(window, path).get_by_role("slider")


def marks(window: Lab, path: str, number: int) -> Locator:
    return window.cell(path, number).locator(".jp-cr-Mark")


def wait_for_point(window: Lab, path: str) -> None:
    """That the kernel, as it is, is one, and the page knows."""
    kernel_id = kernel_of(window, path)

    def at_base() -> bool:
        timeline = window.server.get(f"jupyter-cr/kernels/{kernel_id}/timeline")
        return bool(timeline["base"]) and not timeline["since"]

    wait_until(at_base, "a point")


def points(window: Lab, path: str) -> int:
    kernel_id = kernel_of(window, path)
    return len(window.server.get(f"jupyter-cr/kernels/{kernel_id}/timeline")["points"])


def switch_on(window: Lab, path: str) -> None:
    window.tab(path).click()
    window.choose("Kernel", "Snapshot Before Each Run")
    expect(bar(window, path)).to_be_visible()
    wait_for_point(window, path)


def run(window: Lab, path: str, number: int) -> str:
    printed = window.run_cell(path, number)
    wait_for_point(window, path)
    return printed


def undo(window: Lab) -> None:
    window.page.keyboard.press("Control+Alt+u")


def output(window: Lab, path: str, number: int) -> Locator:
    return window.cell(path, number).locator(".jp-OutputArea-output")


def prompt(window: Lab, path: str, number: int) -> Locator:
    return window.cell(path, number).locator(".jp-InputPrompt").first


def type_into(window: Lab, path: str, number: int, text: str) -> None:
    window.cell(path, number).locator(".cm-content").click()
    window.page.keyboard.press("Control+a")
    window.page.keyboard.type(text)


def test_undo_redo_branch(jupyterlab: LabServer) -> None:
    path = "steps.ipynb"
    cells = ("rows = list(range(3000))", "print(len(rows))", "rows.clear(); print('oops')")
    with jupyterlab.open(path, *cells) as window:
        switch_on(window, path)
        run(window, path, 0)
        assert run(window, path, 1) == "3000"
        expect(marks(window, path, 0)).to_be_visible()
        expect(marks(window, path, 2)).to_have_count(0)
        assert run(window, path, 2) == "oops"
        expect(marks(window, path, 2)).to_be_visible()

        undo(window)
        expect(window.toast(BACK)).to_contain_text("rows.clear()")
        expect(output(window, path, 2)).to_have_count(0)
        expect(prompt(window, path, 2)).to_have_text("[ ]:")
        expect(output(window, path, 1)).to_have_text("3000")
        expect(marks(window, path, 2)).to_have_count(0)
        assert run(window, path, 1) == "3000"

        # What was run since is a branch of its own; back, and forward in it.
        undo(window)
        expect(window.toast(BACK)).to_contain_text("print(len(rows))")
        window.page.keyboard.press("Control+Alt+r")
        expect(window.toast("at another point")).to_be_visible()
        expect(prompt(window, path, 1)).to_have_text("[3]:")

        # The other branch, by the slider.
        handle = slider(window, path)
        expect(handle).to_have_attribute("max", "4")
        handle.fill("3")
        expect(bar(window, path)).to_contain_text("rows.clear()")
        expect(output(window, path, 2)).to_have_text("oops")
        wait_for_point(window, path)
        assert run(window, path, 1) == "0"


def test_redo(jupyterlab: LabServer) -> None:
    path = "redo.ipynb"
    with jupyterlab.open(path, "x = 1", "x = 2; print('two')", "print(x)") as window:
        switch_on(window, path)
        run(window, path, 0)
        run(window, path, 1)
        undo(window)
        expect(output(window, path, 1)).to_have_count(0)
        toast = window.toast(BACK)
        toast.get_by_role("button", name="Redo").click()
        expect(output(window, path, 1)).to_have_text("two")
        assert run(window, path, 2) == "2"


def test_edits_are_not_lost(jupyterlab: LabServer) -> None:
    path = "edits.ipynb"
    with jupyterlab.open(path, "x = 1; print(x)", "y = 1") as window:
        switch_on(window, path)
        type_into(window, path, 0, "x = 2; print(x)")
        run(window, path, 0)
        type_into(window, path, 1, "y = 'edited'")
        undo(window)
        toast = window.toast(BACK)
        expect(window.cell(path, 1).locator(".cm-content")).to_have_text("y = 1")
        # The run that was undone had been typed before.
        expect(window.cell(path, 0).locator(".cm-content")).to_have_text("x = 2; print(x)")
        toast.get_by_role("button", name="Keep My Edits").click()
        expect(window.cell(path, 1).locator(".cm-content")).to_have_text("y = 'edited'")
        expect(output(window, path, 0)).to_have_count(0)
        # Redo has them, too.
        window.page.keyboard.press("Control+Alt+r")
        expect(output(window, path, 0)).to_have_text("2")
        expect(window.cell(path, 1).locator(".cm-content")).to_have_text("y = 'edited'")


def test_run_all(jupyterlab: LabServer) -> None:
    """Each cell's notebook has what the cells before it have printed, and what was there
    before of those behind it."""
    path = "all.ipynb"
    cells = [f"print('run', globals().get('n', 0), {n})" for n in range(3)]
    with jupyterlab.open(path, *cells, "n = 1") as window:
        for number in range(4):
            window.run_cell(path, number)
        switch_on(window, path)
        window.choose("Run", "Run All Cells")
        expect(output(window, path, 2)).to_have_text("run 1 2")
        wait_until(lambda: points(window, path) == 5, "a point after each")
        wait_for_point(window, path)
        marks(window, path, 2).click()
        expect(output(window, path, 2)).to_have_text("run 0 2")
        expect(output(window, path, 1)).to_have_text("run 1 1")
        expect(prompt(window, path, 3)).to_have_text("[4]:")


def test_a_segfault_is_undone(jupyterlab: LabServer) -> None:
    path = "segfault.ipynb"
    fatal = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with jupyterlab.open(path, "x = 41", fatal, "print(x + 1)") as window:
        switch_on(window, path)
        run(window, path, 0)
        window.start_cell(path, 1)
        dialog = window.page.locator(".jp-Dialog")
        expect(dialog).to_contain_text("appears to have died")
        dialog.get_by_role("button", name="Ok").click()
        toast = window.toast("The kernel has ended in")
        expect(toast).to_be_visible()
        toast.get_by_role("button", name="Undo Run").click()
        expect(window.toast(BACK)).to_be_visible()
        expect(prompt(window, path, 1)).to_have_text("[ ]:")
        window.is_idle(path)
        assert run(window, path, 2) == "42"


def test_two_windows(jupyterlab: LabServer) -> None:
    """They show the same marks and points, and each can go back."""
    path = "windows.ipynb"
    with (
        jupyterlab.open(path, "x = 1", "x = 2", "print(x)") as one,
        jupyterlab.open(path) as other,
    ):
        switch_on(one, path)
        expect(bar(other, path)).to_be_visible()
        run(one, path, 0)
        run(one, path, 1)
        for window in (one, other):
            expect(slider(window, path)).to_have_attribute("max", "2")
            expect(marks(window, path, 1)).to_be_visible()
        other.tab(path).click()
        undo(other)
        expect(other.toast(BACK)).to_be_visible()
        expect(marks(one, path, 1)).to_have_count(0)
        expect(slider(one, path)).to_have_value("1")
        assert run(one, path, 2) == "1"


def test_a_point_is_kept(jupyterlab: LabServer) -> None:
    path = "kept.ipynb"
    with jupyterlab.open(path, "x = 1") as window:
        window.open_panel()
        switch_on(window, path)
        run(window, path, 0)
        expect(window.rows).to_have_count(0)
        bar(window, path).get_by_role("button", name=re.compile("^Keep")).click()
        dialog = window.page.locator(".jp-Dialog")
        dialog.get_by_role("button", name="Ok").click()
        expect(window.toast("Kept as snapshot “kept-1”")).to_be_visible()
        expect(window.row("kept-1")).to_be_visible()


def test_keyboard(jupyterlab: LabServer) -> None:
    """The slider by arrows, the mark by Enter; both say where they lead."""
    path = "keyboard.ipynb"
    with jupyterlab.open(path, "x = 1", "x = 2", "print(x)") as window:
        switch_on(window, path)
        run(window, path, 0)
        run(window, path, 1)
        handle = slider(window, path)
        expect(handle).to_have_value("2")
        handle.focus()
        window.page.keyboard.press("ArrowLeft")
        expect(handle).to_have_attribute("aria-valuetext", re.compile("x = 1"))
        expect(window.toast(BACK)).to_contain_text("x = 2")
        expect(prompt(window, path, 1)).to_have_text("[ ]:")
        mark = marks(window, path, 0)
        expect(mark).to_have_attribute("aria-label", re.compile("before this run"))
        mark.focus()
        window.page.keyboard.press("Enter")
        expect(window.toast(BACK)).to_contain_text("x = 1")
        expect(prompt(window, path, 0)).to_have_text("[ ]:")


def test_a_console(jupyterlab: LabServer) -> None:
    with jupyterlab.open("console-timeline.ipynb", "x = 1") as window:
        page = window.page
        window.choose_submenu("File", "New", "Console")
        page.get_by_role("button", name="Select Kernel").click()
        console = page.locator(".jp-ConsolePanel")
        editor = console.locator(".jp-CodeConsole-promptCell .cm-content")
        expect_enabled(kernel_toolbar_button(console))

        def enter(code: str, *, printed: str) -> None:
            editor.click()
            page.keyboard.type(code)
            page.keyboard.press("Shift+Enter")
            expect(console.locator(".jp-OutputArea-output").last).to_have_text(printed)

        enter("x = 7; x", printed="7")
        console.locator('[data-jp-item-name="kernel-timeline"] >> css=jp-button').click()
        handle = console.locator(".jp-cr-Timeline").get_by_role("slider")
        expect(console.locator(".jp-cr-Timeline")).to_contain_text("Beginning")
        enter("x = 8; x", printed="8")
        expect(handle).to_have_attribute("max", "1")
        console.locator(".jp-cr-Timeline").get_by_role("button", name="Undo Run").click()
        expect(window.toast(BACK)).to_be_visible()
        enter("x", printed="7")
