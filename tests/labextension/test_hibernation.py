"""Kernels that hibernate, as people see it: the notebook says so, and goes on with the same
kernel as soon as somebody wants something of it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from tests.engine.harness import wait_until
from tests.engine.kernels import CommandLine
from tests.labextension.harness import (
    LIMIT_MS,
    Lab,
    LabServer,
    expect_enabled,
    kernel_toolbar_button,
)

pytestmark = pytest.mark.timeout(400)

ASLEEP = "This kernel is hibernating: its state is kept in snapshot"


def kernel_of(window: Lab, path: str) -> str:
    (kernel_id,) = {
        session["kernel"]["id"]
        for session in window.server.get("api/sessions")
        if session["path"] == path
    }
    return str(kernel_id)


def notice(window: Lab, path: str) -> Locator:
    return window.notebook(path).locator(".jp-cr-Sleep")


def hibernate(window: Lab, path: str) -> str:
    """By the menu; the kernel's id."""
    window.tab(path).click()
    kernel_id = kernel_of(window, path)
    window.choose("Kernel", "Hibernate Kernel")
    expect(notice(window, path)).to_contain_text(ASLEEP)
    assert kernel_id not in window.server.kernels()
    return kernel_id


def resume(window: Lab, path: str) -> None:
    notice(window, path).get_by_role("button", name="Resume").click()
    expect(notice(window, path)).to_be_hidden()


def no_dialog(window: Lab) -> None:
    expect(window.page.locator(".jp-Dialog")).to_have_count(0)


def test_a_cell_wakes_it(jupyterlab: LabServer) -> None:
    with jupyterlab.open("wake.ipynb", "x = 41", "x += 1; print(x)") as window:
        expect(notice(window, "wake.ipynb")).to_be_hidden()
        window.run_cell("wake.ipynb", 0)
        kernel_id = hibernate(window, "wake.ipynb")
        no_dialog(window)
        assert window.run_cell("wake.ipynb", 1) == "42"
        assert kernel_of(window, "wake.ipynb") == kernel_id
        expect(notice(window, "wake.ipynb")).to_be_hidden()
        assert window.run_cell("wake.ipynb", 1) == "43"
        assert window.taken("wake.ipynb") == []
        no_dialog(window)


def test_all_cells_wake_it_once(jupyterlab: LabServer) -> None:
    """JupyterLab asks for a kernel for each of them."""
    cells = (
        "x = globals().get('x', 0) + 1; print(x)",
        *(f"print(x + {n})" for n in range(5)),
    )
    with jupyterlab.open("all.ipynb", *cells) as window:
        window.run_cell("all.ipynb", 0)
        kernel_id = hibernate(window, "all.ipynb")
        window.choose("Run", "Run All Cells")
        for number, printed in enumerate(("2", "2", "3", "4", "5", "6")):
            output = window.cell("all.ipynb", number).locator(".jp-OutputArea-output")
            expect(output).to_have_text(printed)
        assert kernel_of(window, "all.ipynb") == kernel_id
        assert window.run_cell("all.ipynb", 0) == "3"
        no_dialog(window)


def test_a_click_wakes_it_in_every_window(jupyterlab: LabServer) -> None:
    """They all say that it sleeps, and all go on with it."""
    with (
        jupyterlab.open("both.ipynb", "x = 1", "print(x)") as one,
        jupyterlab.open("both.ipynb") as other,
    ):
        one.run_cell("both.ipynb", 0)
        kernel_id = hibernate(one, "both.ipynb")
        expect(notice(other, "both.ipynb")).to_contain_text(ASLEEP)
        resume(other, "both.ipynb")
        expect(notice(one, "both.ipynb")).to_be_hidden()
        for window in (one, other):
            assert window.run_cell("both.ipynb", 1) == "1"
            no_dialog(window)
        assert kernel_of(one, "both.ipynb") == kernel_id


def test_opening_the_notebook_wakes_it(jupyterlab: LabServer) -> None:
    with jupyterlab.open("again.ipynb", "x = 1", "print(x)") as window:
        window.run_cell("again.ipynb", 0)
        kernel_id = hibernate(window, "again.ipynb")
        window.page.reload()
        window.is_idle("again.ipynb", LIMIT_MS * 2)
        assert window.run_cell("again.ipynb", 1) == "1"
        assert kernel_of(window, "again.ipynb") == kernel_id
        expect(notice(window, "again.ipynb")).to_be_hidden()


def test_it_hibernates_by_other_means(jupyterlab: LabServer) -> None:
    """Culled, or by the command line: every page is told."""
    with jupyterlab.open("other.ipynb", "x = 1", "print(x)") as window:
        window.run_cell("other.ipynb", 0)
        kernel_id = kernel_of(window, "other.ipynb")
        jupyterlab.server.do(f"kernels/{kernel_id}/hibernate")
        expect(notice(window, "other.ipynb")).to_contain_text(ASLEEP)
        no_dialog(window)
        window.open_panel()
        window.panel.get_by_role("button", name="Resume other.ipynb").click()
        expect(notice(window, "other.ipynb")).to_be_hidden()
        assert window.run_cell("other.ipynb", 1) == "1"


def test_it_is_restarted(jupyterlab: LabServer) -> None:
    """Nobody is to work on with variables that they think are gone, or to lose them."""
    cells = ("x = globals().get('x', 0) + 1; print(x)", "print('y')")
    with jupyterlab.open("restart.ipynb", *cells) as window:
        assert window.run_cell("restart.ipynb", 0) == "1"
        hibernate(window, "restart.ipynb")
        dialog = window.page.locator(".jp-Dialog")
        window.choose("Kernel", "Restart Kernel and Run All Cells…")
        expect(dialog).to_contain_text("all variables will be lost")
        dialog.get_by_role("button", name="Cancel").click()
        no_dialog(window)
        expect(notice(window, "restart.ipynb")).to_contain_text(ASLEEP)
        window.choose("Kernel", "Restart Kernel…")
        dialog.get_by_role("button", name="Resume").click()
        expect(notice(window, "restart.ipynb")).to_be_hidden()
        assert window.run_cell("restart.ipynb", 0) == "2"
        hibernate(window, "restart.ipynb")
        window.choose("Kernel", "Restart Kernel and Run All Cells…")
        dialog.get_by_role("button", name="Start afresh").click()
        no_dialog(window)
        output = window.cell("restart.ipynb", 1).locator(".jp-OutputArea-output")
        expect(output).to_have_text("y")
        output = window.cell("restart.ipynb", 0).locator(".jp-OutputArea-output")
        expect(output).to_have_text("1")
        no_dialog(window)


LONG = """
import pathlib, time
print("begun")
while not pathlib.Path("wake-now").exists():
    time.sleep(0.05)
print("ended")
"""


def test_in_the_middle_of_a_cell(jupyterlab: LabServer) -> None:
    """It goes on there, and what it prints arrives."""
    with jupyterlab.open("middle.ipynb", LONG, "print(1)") as window:
        cell = window.start_cell("middle.ipynb", 0)
        prompt, output = cell.locator(".jp-InputPrompt"), cell.locator(".jp-OutputArea")
        expect(output).to_contain_text("begun")
        hibernate(window, "middle.ipynb")
        resume(window, "middle.ipynb")
        expect(prompt).to_have_text("[*]:")
        go = jupyterlab.server.root / "wake-now"
        go.touch()
        try:
            expect(output).to_contain_text("ended")
            expect(prompt).to_have_text(re.compile(r"\[1\]:"))
            assert output.inner_text().split() == ["begun", "ended"]
            assert window.run_cell("middle.ipynb", 1) == "1"
        finally:
            go.unlink()


def test_a_console(jupyterlab: LabServer) -> None:
    with jupyterlab.open("console.ipynb", "x = 1") as window:
        page = window.page
        window.choose_submenu("File", "New", "Console")
        page.get_by_role("button", name="Select Kernel").click()
        console = page.locator(".jp-ConsolePanel")
        editor = console.locator(".jp-CodeConsole-promptCell .cm-content")
        expect_enabled(kernel_toolbar_button(console))

        def run(code: str, *, printed: str) -> None:
            editor.click()
            page.keyboard.type(code)
            page.keyboard.press("Shift+Enter")
            outputs = console.locator(".jp-OutputArea-output")
            expect(outputs.last).to_have_text(printed, timeout=LIMIT_MS)

        run("x = 7; x", printed="7")
        window.choose("Kernel", "Hibernate Kernel")
        sleep = console.locator(".jp-cr-Sleep")
        expect(sleep).to_contain_text("Press Resume.")
        sleep.get_by_role("button", name="Resume").click()
        expect(sleep).to_be_hidden()
        expect_enabled(kernel_toolbar_button(console))
        run("x + 1", printed="8")


def test_it_cannot_hibernate(jupyterlab: LabServer) -> None:
    """It says why, and the kernel goes on."""
    inotify = "import ctypes; print(ctypes.CDLL(None).inotify_init())"
    with jupyterlab.open("stays.ipynb", inotify, "print(1)") as window:
        window.run_cell("stays.ipynb", 0)
        window.choose("Kernel", "Hibernate Kernel")
        error = window.page.locator(".Toastify__toast--error")
        expect(error).to_contain_text("inotify")
        expect(error).to_contain_text("Stop the file watcher")
        expect(notice(window, "stays.ipynb")).to_be_hidden()
        assert window.run_cell("stays.ipynb", 1) == "1"
        window.choose("Kernel", "Shut Down Kernel")
        expect(window.notebook("stays.ipynb").locator(".jp-KernelName")).to_contain_text(
            "No Kernel"
        )
        assert not window.menu_is_enabled("Kernel", "Hibernate Kernel")


def test_it_cannot_be_resumed(jupyterlab: LabServer) -> None:
    """JupyterLab shows why, and the notebook still says where the state is."""
    with jupyterlab.open("broken.ipynb", "x = 1", "print(x)") as window:
        window.run_cell("broken.ipynb", 0)
        kernel_id = hibernate(window, "broken.ipynb")
        (name,) = window.taken("broken.ipynb")
        pages = CommandLine(jupyterlab.server.user).pack(name)
        with open(pages, "r+b") as file:
            was = file.read(7)
            file.seek(0)
            file.write(b"damaged")
        window.start_cell("broken.ipynb", 1)
        dialog = window.page.locator(".jp-Dialog")
        expect(dialog).to_contain_text("does not match its checksum")
        dialog.get_by_role("button", name="Ok").click()
        no_dialog(window)
        expect(notice(window, "broken.ipynb")).to_contain_text(ASLEEP)
        with open(pages, "r+b") as file:
            file.write(was)
        assert window.run_cell("broken.ipynb", 1) == "1"
        assert kernel_of(window, "broken.ipynb") == kernel_id


def test_where_all_is_listed(jupyterlab: LabServer) -> None:
    """The list of what runs and the launcher have it go on, even if its notebook has been
    closed."""
    with jupyterlab.open("listed.ipynb", "x = 1", "print(x)") as window:
        page = window.page
        window.run_cell("listed.ipynb", 0)
        kernel_id = hibernate(window, "listed.ipynb")

        def close() -> None:
            window.tab("listed.ipynb").locator(".lm-TabBar-tabCloseIcon").click()
            expect(window.tab("listed.ipynb")).to_have_count(0)

        page.locator('.lm-TabBar-tab[data-id="jp-running-sessions"]').click()
        section = page.locator("#jp-running-sessions").get_by_role(
            "region", name="Hibernating Kernels"
        )
        item = section.locator(".jp-RunningSessions-item", has_text="listed.ipynb")
        expect(item).to_be_visible()
        close()
        item.hover()
        item.locator(".jp-RunningSessions-itemShutdown").click()
        window.is_idle("listed.ipynb")
        expect(item).to_have_count(0)
        assert window.run_cell("listed.ipynb", 1) == "1"

        hibernate(window, "listed.ipynb")
        expect(item).to_be_visible()
        close()
        card = page.locator(
            '.jp-LauncherCard[data-category="Hibernating Kernels"]', has_text="listed.ipynb"
        )
        card.click()
        window.is_idle("listed.ipynb")
        expect(card).to_have_count(0)
        assert window.run_cell("listed.ipynb", 1) == "1"
        assert kernel_of(window, "listed.ipynb") == kernel_id
        wait_until(lambda: not window.taken("listed.ipynb"), "no snapshot left")
