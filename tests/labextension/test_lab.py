"""Every action as people do it: in JupyterLab, in a browser, with a real kernel."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.engine.harness import wait_until
from tests.labextension.harness import Lab, LabServer, expect_enabled

pytestmark = pytest.mark.timeout(400)

BACK = re.compile("is back at|are back at")


def snapshot(window: Lab, path: str) -> str:
    """Click on the button; the snapshot's name."""
    window.open_panel()
    expect_enabled(window.button(path))
    before = window.taken(path)
    window.button(path).click()
    wait_until(lambda: len(window.taken(path)) > len(before), "a snapshot")
    (name,) = set(window.taken(path)).difference(before)
    expect(window.row(name)).to_be_visible()
    return name


def test_snapshot_and_restore(jupyterlab: LabServer) -> None:
    cells = ("x = 1", "x = 2", "print(x)")
    with jupyterlab.open("back.ipynb", *cells) as window:
        window.open_panel()
        window.run_cell("back.ipynb", 0)
        name = snapshot(window, "back.ipynb")
        assert name == "back-1"
        window.run_cell("back.ipynb", 1)
        assert window.run_cell("back.ipynb", 2) == "2"

        window.act(name, "Restore")
        expect(window.toast(BACK)).to_be_visible()
        assert window.run_cell("back.ipynb", 2) == "1"
        expect(window.row(name).locator(".jp-cr-mod-here")).to_be_visible()
        kept = window.taken("back.ipynb")[0]

        window.toast(BACK).get_by_role("button", name="Undo").click()
        expect(window.toast(f"“{kept}”")).to_be_visible()
        assert window.run_cell("back.ipynb", 2) == "2"


def test_undo_leaves_nothing_behind(jupyterlab: LabServer) -> None:
    with jupyterlab.open("undo.ipynb", "x = 1") as window:
        window.open_panel()
        window.run_cell("undo.ipynb", 0)
        name = snapshot(window, "undo.ipynb")
        window.act(name, "Restore")
        undo = window.toast(BACK).get_by_role("button", name="Undo")
        expect(undo).to_be_visible()
        kept, taken = window.taken("undo.ipynb")
        assert taken == name
        expect(window.row(kept)).to_be_visible()
        undo.click()
        expect(window.toast("before-undo-1")).to_be_visible()
        expect(window.row(kept)).to_have_count(0)

        window.button("undo.ipynb").click()
        window.toast("Snapshot “undo-2”").get_by_role("button", name="Undo").click()
        expect(window.row("undo-2")).to_have_count(0)
        assert window.taken("undo.ipynb") == [name]


def test_menu_and_keyboard(jupyterlab: LabServer) -> None:
    with jupyterlab.open("keys.ipynb", "x = 1", "x = 2", "print(x)") as window:
        assert not window.menu_is_enabled("Kernel", "Restore Last Snapshot")
        window.run_cell("keys.ipynb", 0)
        window.page.keyboard.press("Control+Alt+s")
        expect(window.toast("Snapshot “keys-1”")).to_be_visible()
        window.run_cell("keys.ipynb", 1)
        window.choose("Kernel", "Restore Last Snapshot")
        expect(window.toast(BACK)).to_be_visible()
        assert window.run_cell("keys.ipynb", 2) == "1"

        window.toast(BACK).get_by_title("Hide notification").click()
        expect(window.toast(BACK)).to_have_count(0)
        window.run_cell("keys.ipynb", 1)
        window.page.keyboard.press("Control+Alt+z")
        expect(window.toast(BACK)).to_be_visible()
        assert window.run_cell("keys.ipynb", 2) == "1"

        window.page.keyboard.press("Control+Alt+s")
        expect(window.toast("Snapshot “keys-2”")).to_be_visible()
        for name in ("keys-2", "keys-1"):
            window.choose("Kernel", "Step Back to the Snapshot Before")
            expect(window.toast(f"is back at “{name}”")).to_be_visible()
        title = window.button("keys.ipynb").get_attribute("title") or ""
        assert "Ctrl+Alt+S" in title


def test_fork(jupyterlab: LabServer) -> None:
    with jupyterlab.open("fork.ipynb", "x = 1", "x += 1", "print(x)") as window:
        window.open_panel()
        window.run_cell("fork.ipynb", 0)
        name = snapshot(window, "fork.ipynb")
        window.act(name, "Fork")
        expect(window.toast("Forked into fork-1.ipynb")).to_be_visible()
        window.is_idle("fork-1.ipynb")
        window.run_cell("fork-1.ipynb", 1)
        window.run_cell("fork-1.ipynb", 1)
        assert window.run_cell("fork-1.ipynb", 2) == "3"
        assert window.run_cell("fork.ipynb", 2) == "1"

        # And of the kernel as it is, by the menu.
        window.tab("fork-1.ipynb").click()
        window.choose("Kernel", "Fork Kernel into New Notebook")
        window.is_idle("fork-1-fork.ipynb")
        assert window.run_cell("fork-1-fork.ipynb", 2) == "3"


def test_rename_note_and_search(jupyterlab: LabServer) -> None:
    with jupyterlab.open("names.ipynb", "x = 1") as window:
        window.open_panel()
        window.run_cell("names.ipynb", 0)
        name = snapshot(window, "names.ipynb")
        window.row(name).locator(".jp-cr-Item-name").dblclick()
        window.panel.get_by_label("Name of the snapshot").fill("A better name")
        window.page.keyboard.press("Enter")
        row = window.row("A better name")
        expect(row).to_be_visible()

        row.get_by_label("Show what is inside").click()
        expect(row.get_by_text("1 process")).to_be_visible()
        row.get_by_text("Add a note").click()
        row.get_by_label("Note").fill("with the cleaned table")
        window.page.keyboard.press("Enter")
        expect(row.get_by_text("with the cleaned table")).to_be_visible()
        details = jupyterlab.server.get("jupyter-cr/snapshots?q=cleaned")
        assert [s["name"] for s in details["snapshots"]] == ["A better name"]

        search = window.panel.get_by_placeholder("Search snapshots")
        search.fill("CLEANED")
        expect(window.rows).to_have_count(1)
        search.fill("not there at all")
        expect(window.rows).to_have_count(0)
        expect(window.panel.get_by_text("No snapshot has")).to_be_visible()


def test_a_name_that_is_refused(jupyterlab: LabServer) -> None:
    """It says why and what to do, and the name can be edited further."""
    with jupyterlab.open("taken.ipynb", "x = 1") as window:
        window.open_panel()
        window.run_cell("taken.ipynb", 0)
        first, second = (snapshot(window, "taken.ipynb") for _ in range(2))
        window.row(second).locator(".jp-cr-Item-name").dblclick()
        editor = window.panel.get_by_label("Name of the snapshot")
        editor.fill(first)
        editor.press("Enter")
        error = window.toast(f"There is a snapshot named {first} already.")
        expect(error).to_contain_text("Choose another name")
        expect(editor).to_be_focused()
        editor.press("Escape")
        expect(window.row(second)).to_be_visible()


def test_delete_and_undo(jupyterlab: LabServer) -> None:
    with jupyterlab.open("gone.ipynb", "x = 1") as window:
        window.open_panel()
        window.run_cell("gone.ipynb", 0)
        names = [snapshot(window, "gone.ipynb") for _ in range(3)]
        window.row(names[0]).click()
        window.row(names[2]).click(modifiers=["Shift"])
        expect(window.panel.get_by_text("3 selected")).to_be_visible()
        window.page.keyboard.press("Delete")
        for name in names:
            expect(window.row(name)).to_have_count(0)
        window.toast("3 snapshots deleted").get_by_role("button", name="Undo").click()
        for name in names:
            expect(window.row(name)).to_be_visible()

        window.act(names[0], "Delete")
        expect(window.toast(f"“{names[0]}” deleted")).to_be_visible()
        # What was not undone is deleted when the page goes, too.
        window.page.goto("about:blank")
        wait_until(lambda: sorted(window.taken("gone.ipynb")) == names[1:], "deletion")


def test_two_windows(jupyterlab: LabServer) -> None:
    with (
        jupyterlab.open("both.ipynb", "x = 1") as one,
        jupyterlab.open("both.ipynb") as other,
    ):
        one.open_panel()
        other.open_panel()
        one.run_cell("both.ipynb", 0)
        name = snapshot(one, "both.ipynb")
        expect(other.row(name)).to_be_visible()
        other.row(name).locator(".jp-cr-Item-name").dblclick()
        other.panel.get_by_label("Name of the snapshot").fill("seen by both")
        other.page.keyboard.press("Enter")
        row = one.row("seen by both")
        expect(row).to_be_visible()
        for note in ("from one", ""):
            url = "jupyter-cr/snapshots/seen%20by%20both"
            status, _, _ = jupyterlab.server.fetch("PATCH", url, {"note": note})
            assert status == 200
            for window in (one, other):
                noted = window.row("seen by both").locator(".jp-cr-Item-note")
                expect(noted).to_have_text(note) if note else expect(noted).to_have_count(0)
        one.act("seen by both", "Restore")
        expect(other.row("seen by both").locator(".jp-cr-mod-here")).to_be_visible()
        status, _, _ = jupyterlab.server.fetch(
            "DELETE", "jupyter-cr/snapshots/seen%20by%20both"
        )
        assert status == 204
        for window in (one, other):
            expect(window.row("seen by both")).to_have_count(0)


def test_two_windows_get_a_kernel_back(jupyterlab: LabServer) -> None:
    """Whichever of them has it brought back after it was shut down."""
    with (
        jupyterlab.open("lost.ipynb", "x = 1", "print(x)") as one,
        jupyterlab.open("lost.ipynb") as other,
    ):
        one.open_panel()
        one.run_cell("lost.ipynb", 0)
        name = snapshot(one, "lost.ipynb")
        one.tab("lost.ipynb").click()
        one.choose("Kernel", "Shut Down Kernel")
        for window in (one, other):
            kernel = window.notebook("lost.ipynb").locator(".jp-KernelName")
            expect(kernel).to_contain_text("No Kernel")
        one.act(name, "Restore")
        expect(one.toast(BACK)).to_be_visible()
        for window in (one, other):
            window.is_idle("lost.ipynb")
            assert window.run_cell("lost.ipynb", 1) == "1"


INOTIFY = "import ctypes; print(ctypes.CDLL(None).inotify_init())"


def test_a_failure_says_what_to_do(jupyterlab: LabServer) -> None:
    with jupyterlab.open("fails.ipynb", INOTIFY) as window:
        window.run_cell("fails.ipynb", 0)
        window.button("fails.ipynb").click()
        error = window.page.locator(".Toastify__toast--error")
        expect(error).to_contain_text("inotify")
        expect(error).to_contain_text("Stop the file watcher before the checkpoint.")
        expect_enabled(window.button("fails.ipynb"))


def test_what_cannot_be_kept(jupyterlab: LabServer) -> None:
    """It is said, and can be given up."""
    with jupyterlab.open("given.ipynb", "x = 1", INOTIFY, "print(x)") as window:
        window.open_panel()
        window.run_cell("given.ipynb", 0)
        name = snapshot(window, "given.ipynb")
        window.run_cell("given.ipynb", 1)
        window.act(name, "Restore")
        error = window.page.locator(".Toastify__toast--error")
        expect(error).to_contain_text("inotify")
        error.get_by_role("button", name="Restore anyway").click()
        dialog = window.page.locator(".jp-Dialog")
        expect(dialog).to_contain_text("will be lost")
        dialog.get_by_role("button", name="Restore").click()
        expect(window.toast(BACK)).to_be_visible()
        assert window.run_cell("given.ipynb", 2) == "1"
        assert window.taken("given.ipynb") == [name]


def test_the_notebook_comes_back_too(jupyterlab: LabServer) -> None:
    with jupyterlab.open("doc.ipynb", "x = 1", "print(x)") as window:
        window.open_panel()
        window.run_cell("doc.ipynb", 0)
        name = snapshot(window, "doc.ipynb")
        editor = window.cell("doc.ipynb", 0).locator(".cm-content")
        editor.click()
        window.page.keyboard.press("Control+a")
        window.page.keyboard.type("x = 'changed'")
        window.run_cell("doc.ipynb", 0)

        window.row(name).click(button="right")
        window.page.locator(".lm-Menu-item", has_text="Restore Kernel and Notebook").click()
        expect(window.toast("Kernel and notebook are back")).to_be_visible()
        expect(editor).to_have_text("x = 1")
        assert window.run_cell("doc.ipynb", 1) == "1"
        saved = json.loads((jupyterlab.server.root / "doc.ipynb").read_text())
        assert "".join(saved["cells"][0]["source"]) == "x = 1"

        window.toast("are back").get_by_role("button", name="Undo").click()
        expect(editor).to_have_text("x = 'changed'")
        assert window.run_cell("doc.ipynb", 1) == "changed"


LONG = """
import pathlib, time
print("begun")
while not pathlib.Path("go").exists():
    time.sleep(0.05)
print("ended")
"""


def test_a_running_cell_goes_on(jupyterlab: LabServer) -> None:
    with jupyterlab.open("runs.ipynb", LONG, "print(1)") as window:
        window.open_panel()
        cell = window.start_cell("runs.ipynb", 0)
        prompt, output = cell.locator(".jp-InputPrompt"), cell.locator(".jp-OutputArea")
        expect(output).to_contain_text("begun")
        name = snapshot(window, "runs.ipynb")
        go = jupyterlab.server.root / "go"
        go.touch()
        expect(output).to_contain_text("ended")
        expect(prompt).to_have_text(re.compile(r"\[1\]:"))
        go.unlink()

        window.act(name, "Restore")
        expect(window.toast(BACK)).to_be_visible()
        expect(prompt).to_have_text("[*]:")
        expect(output).not_to_contain_text("ended")
        expect(output).to_contain_text("begun")
        go.touch()
        expect(output).to_contain_text("ended")
        expect(prompt).to_have_text(re.compile(r"\[1\]:"))
        assert window.run_cell("runs.ipynb", 1) == "1"


def test_a_kernel_that_was_shut_down_comes_back(jupyterlab: LabServer) -> None:
    with jupyterlab.open("ended.ipynb", "x = 1", "print(x)") as window:
        window.open_panel()
        window.run_cell("ended.ipynb", 0)
        name = snapshot(window, "ended.ipynb")
        window.choose("Kernel", "Shut Down Kernel")
        expect(window.notebook("ended.ipynb").locator(".jp-KernelName")).to_contain_text(
            "No Kernel"
        )
        window.act(name, "Restore")
        expect(window.toast(BACK)).to_be_visible()
        window.is_idle("ended.ipynb")
        assert window.run_cell("ended.ipynb", 1) == "1"
