"""Two people in one notebook (jupyter-collaboration): what one does with its kernel, both
see, and nothing is written past the model that they share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.conftest import a_user
from tests.engine.harness import wait_until
from tests.labextension import test_timeline as timeline
from tests.labextension.conftest import require_lab
from tests.labextension.harness import Lab, LabServer, expect_enabled, lab

pytest.importorskip(
    "jupyter_server_ydoc",
    reason="jupyter-collaboration is not installed: pip install jupyter-collaboration",
)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def shared() -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user, is_shared=True) as server:
            yield server


@contextmanager
def two(shared: LabServer, path: str, *sources: str) -> Iterator[tuple[Lab, Lab]]:
    with shared.open(path, *sources) as one, shared.open(path) as other:
        yield one, other
        for window in (one, other):
            expect(window.page.locator(".jp-Dialog")).to_have_count(0)


def edit(window: Lab, path: str, number: int, source: str) -> None:
    window.cell(path, number).locator(".cm-content").click()
    window.page.keyboard.press("Control+a")
    window.page.keyboard.type(source)


def expect_source(window: Lab, path: str, number: int, source: str) -> None:
    expect(window.cell(path, number).locator(".cm-content")).to_have_text(source)


def test_kernel_and_notebook_come_back(shared: LabServer) -> None:
    path = "both.ipynb"
    with two(shared, path, "x = 1", "print(x)") as (one, other):
        one.open_panel()
        edit(one, path, 0, "x = 11")
        expect_source(other, path, 0, "x = 11")
        one.run_cell(path, 0)
        # At once: what has just been typed is not in the file yet.
        edit(other, path, 1, "print(x + 0)")
        expect_source(one, path, 1, "print(x + 0)")
        one.button(path).click()
        expect(one.row("both-1")).to_be_visible()
        document = shared.server.get("jupyter-cr/snapshots/both-1/document")
        assert ["".join(cell["source"]) for cell in document["cells"]] == [
            "x = 11",
            "print(x + 0)",
        ]

        edit(other, path, 0, "x = 22")
        assert other.run_cell(path, 0) == ""
        expect_source(one, path, 0, "x = 22")
        one.row("both-1").click(button="right")
        one.page.locator(".lm-Menu-item", has_text="Restore Kernel and Notebook").click()
        told = one.toast("Kernel and notebook are back")
        expect(told).to_be_visible()
        for window in (one, other):
            expect_source(window, path, 0, "x = 11")
            assert window.run_cell(path, 1) == "11"
        told.get_by_role("button", name="Undo").click()
        for window in (one, other):
            expect_source(window, path, 0, "x = 22")
        assert other.run_cell(path, 1) == "22"

        def saved() -> bool:
            content = json.loads((shared.server.root / path).read_text())
            return "".join(content["cells"][0]["source"]) == "x = 22"

        wait_until(saved, "the file to be saved")


def test_one_after_the_other(shared: LabServer) -> None:
    """Though jupyter-collaboration does not answer all who have it save."""
    path = "many.ipynb"
    with two(shared, path, "x = 1") as (one, _):
        one.open_panel()
        one.run_cell(path, 0)
        for number in range(1, 7):
            edit(one, path, 0, f"x = {number}")
            one.button(path).click()
            expect(one.row(f"many-{number}")).to_be_visible()
            expect_enabled(one.button(path))


def test_fork(shared: LabServer) -> None:
    """The copy is as the notebook is on the screen, and belongs to both, too."""
    with two(shared, "forked.ipynb", "x = 1", "print(x)") as (one, other):
        one.run_cell("forked.ipynb", 0)
        edit(other, "forked.ipynb", 1, "x += 1; print(x)")
        expect_source(one, "forked.ipynb", 1, "x += 1; print(x)")
        one.tab("forked.ipynb").click()
        one.choose("Kernel", "Fork Kernel into New Notebook")
        fork = "forked-fork.ipynb"
        one.is_idle(fork)
        expect_source(one, fork, 1, "x += 1; print(x)")
        assert one.run_cell(fork, 1) == "2"
        assert other.run_cell("forked.ipynb", 1) == "2"
        with shared.open(fork) as third:
            assert third.run_cell(fork, 1) == "3"
            expect(one.cell(fork, 1).locator(".jp-OutputArea-output")).to_have_text("3")


def test_undo_run(shared: LabServer) -> None:
    """Whoever ran the cell, and whoever undoes it: both see kernel and notebook go back,
    and what was typed since is offered."""
    path = "undone.ipynb"
    with two(shared, path, "rows = [1, 2, 3]", "rows.clear()", "print(rows)") as windows:
        one, other = windows
        timeline.switch_on(one, path)
        timeline.run(one, path, 0)
        timeline.run(other, path, 1)
        edit(one, path, 2, "print(rows, 'since')")
        expect_source(other, path, 2, "print(rows, 'since')")
        other.tab(path).click()
        timeline.undo(other)
        told = other.toast(timeline.BACK)
        expect(told).to_contain_text("rows.clear()")
        for window in windows:
            expect(timeline.prompt(window, path, 1)).to_have_text("[ ]:")
            expect_source(window, path, 2, "print(rows)")
        told.get_by_role("button", name="Keep My Edits").click()
        for window in windows:
            expect_source(window, path, 2, "print(rows, 'since')")
            assert window.run_cell(path, 2) == "[1, 2, 3] since"


STEPS = """
import pathlib, time
print("begun")
for name in ("one", "two"):
    while not pathlib.Path(name).exists():
        time.sleep(0.05)
    print(name)
"""


@pytest.mark.parametrize("restorer", [0, 1], ids=["who runs it", "the other"])
def test_a_running_cell(shared: LabServer, restorer: int) -> None:
    """Each line once, whoever restores it."""
    path = f"running{restorer}.ipynb"
    steps = STEPS.replace("Path(name)", f"Path(name + '{restorer}')")
    with two(shared, path, steps, "print(1)") as windows:
        one, other = windows
        cells = [window.cell(path, 0) for window in windows]
        one.start_cell(path, 0)

        def show(*lines: str) -> None:
            for cell in cells:
                expect(cell.locator(".jp-OutputArea-output")).to_have_text(
                    "\n".join(lines), use_inner_text=True
                )

        show("begun")
        one.button(path).click()
        name = f"running{restorer}-1"
        expect(one.toast(f"Snapshot “{name}”")).to_be_visible()
        steps_file = shared.server.root / f"one{restorer}"
        steps_file.touch()
        show("begun", "one")
        steps_file.unlink()
        windows[restorer].open_panel()
        windows[restorer].act(name, "Restore")
        expect(windows[restorer].toast("is back at")).to_be_visible()
        show("begun")
        steps_file.touch()
        show("begun", "one")
        (shared.server.root / f"two{restorer}").touch()
        show("begun", "one", "two")
        for cell in cells:
            expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[1\]:"))
        assert other.run_cell(path, 1) == "1"

        # It has ended, and runs again.
        (shared.server.root / f"two{restorer}").unlink()
        windows[restorer].act(name, "Restore")
        expect(cells[restorer].locator(".jp-InputPrompt")).to_have_text("[*]:")
        show("begun", "one")
        (shared.server.root / f"two{restorer}").touch()
        show("begun", "one", "two")
        for cell in cells:
            expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[1\]:"))


@pytest.mark.parametrize("waker", [0, 1], ids=["who ran it", "the other"])
def test_it_hibernates_in_a_cell(shared: LabServer, waker: int) -> None:
    """It goes on there, for both."""
    path = f"naps{waker}.ipynb"
    steps = STEPS.replace("Path(name)", f"Path(name + 'n{waker}')")
    with two(shared, path, steps) as windows:
        one = windows[0]
        one.start_cell(path, 0)
        cells = [window.cell(path, 0) for window in windows]
        for cell in cells:
            expect(cell.locator(".jp-OutputArea-output")).to_have_text("begun")
        one.tab(path).click()
        one.choose("Kernel", "Hibernate Kernel")
        sleep = windows[waker].notebook(path).locator(".jp-cr-Sleep")
        sleep.get_by_role("button", name="Resume").click()
        for cell in cells:
            expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")
        for name in ("one", "two"):
            (shared.server.root / f"{name}n{waker}").touch()
        for cell in cells:
            expect(cell.locator(".jp-OutputArea-output")).to_have_text(
                "begun\none\ntwo", use_inner_text=True
            )
            expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[1\]:"))


def test_it_hibernates(shared: LabServer) -> None:
    path = "sleeps.ipynb"
    with two(shared, path, "x = 1", "print(x)") as (one, other):
        one.run_cell(path, 0)
        one.tab(path).click()
        one.choose("Kernel", "Hibernate Kernel")
        for window in (one, other):
            sleep = window.notebook(path).locator(".jp-cr-Sleep")
            expect(sleep).to_contain_text("This kernel is hibernating")
        assert other.run_cell(path, 1) == "1"
        expect(one.notebook(path).locator(".jp-cr-Sleep")).to_be_hidden()
        assert one.run_cell(path, 1) == "1"
