"""Cells that run while their kernel is brought back: they show what the kernel has printed
in its own past, each line once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.labextension.harness import Lab, LabServer

pytestmark = pytest.mark.timeout(400)

STEPS = """
import pathlib, sys, time
from IPython.display import display
shown = display("0 done", display_id=True)
print("begun")
for number, name in enumerate(("one", "two", "three"), 1):
    while not pathlib.Path(STEM + name).exists():
        time.sleep(0.05)
    print(name)
    shown.update(f"{number} done")
"""


class Steps:
    """A cell that waits for somebody to have it go on."""

    def __init__(self, window: Lab, path: str) -> None:
        self.window = window
        self.path = path
        self.stem = path.removesuffix(".ipynb")
        self.cell = window.start_cell(path, 0)
        self.shows("0", "begun")

    @property
    def prompt(self) -> Locator:
        return self.cell.locator(".jp-InputPrompt")

    def file(self, name: str) -> Path:
        return self.window.server.root / f"{self.stem}{name}"

    def go(self, name: str) -> None:
        self.file(name).touch()

    def stay(self, name: str) -> None:
        self.file(name).unlink()

    def shows(self, number: str, *lines: str) -> None:
        outputs = self.cell.locator(".jp-OutputArea-output")
        expect(outputs.nth(0)).to_have_text(f"'{number} done'")
        expect(outputs.nth(1)).to_have_text("\n".join(lines), use_inner_text=True)
        expect(outputs).to_have_count(2)

    def checkpoint(self) -> str:
        """Without saving the notebook: it does not have the outputs."""
        (kernel_id,) = {
            session["kernel"]["id"]
            for session in self.window.server.get("api/sessions")
            if session["path"] == self.path
        }
        answer = self.window.server.do(f"kernels/{kernel_id}/checkpoint")
        return str(answer["name"])

    def restore(self, name: str) -> None:
        self.window.act(name, "Restore")
        told = self.window.toast(f"is back at “{name}”")
        expect(told).to_be_visible()
        told.get_by_title("Hide notification").click()
        expect(told).to_have_count(0)


@contextmanager
def steps(jupyterlab: LabServer, path: str) -> Iterator[Steps]:
    stem = path.removesuffix(".ipynb")
    with jupyterlab.open(path, f"STEM = {stem!r}{STEPS}", "print(1)") as window:
        window.open_panel()
        cell = Steps(window, path)
        try:
            yield cell
        finally:
            for name in ("one", "two", "three"):
                cell.file(name).unlink(missing_ok=True)


def test_it_is_still_running(jupyterlab: LabServer) -> None:
    """What it has printed since is gone, and comes once."""
    with steps(jupyterlab, "still.ipynb") as cell:
        name = cell.checkpoint()
        cell.go("one")
        cell.shows("1", "begun", "one")
        cell.stay("one")
        cell.restore(name)
        cell.shows("0", "begun")
        cell.go("one")
        cell.shows("1", "begun", "one")
        # And from somewhere in between.
        between = cell.checkpoint()
        cell.go("two")
        cell.shows("2", "begun", "one", "two")
        cell.restore(between)
        cell.shows("2", "begun", "one", "two")
        cell.go("three")
        cell.shows("3", "begun", "one", "two", "three")
        expect(cell.prompt).to_have_text(re.compile(r"\[1\]:"))
        assert cell.window.run_cell("still.ipynb", 1) == "1"


def test_it_has_ended(jupyterlab: LabServer) -> None:
    """It runs again, twice."""
    with steps(jupyterlab, "ended.ipynb") as cell:
        cell.go("one")
        cell.shows("1", "begun", "one")
        name = cell.checkpoint()
        for _ in range(2):
            cell.go("two")
            cell.go("three")
            cell.shows("3", "begun", "one", "two", "three")
            expect(cell.prompt).to_have_text(re.compile(r"\[1\]:"))
            cell.stay("two")
            cell.restore(name)
            expect(cell.prompt).to_have_text("[*]:")
            cell.shows("1", "begun", "one")
        cell.restore(name)
        cell.shows("1", "begun", "one")
        cell.go("two")
        cell.shows("3", "begun", "one", "two", "three")
        expect(cell.prompt).to_have_text(re.compile(r"\[1\]:"))
        assert cell.window.run_cell("ended.ipynb", 1) == "1"


def test_it_hibernates(jupyterlab: LabServer) -> None:
    """What it showed, it goes on to show."""
    with steps(jupyterlab, "sleeps.ipynb") as cell:
        window = cell.window
        window.tab("sleeps.ipynb").click()
        window.choose("Kernel", "Hibernate Kernel")
        sleep = window.notebook("sleeps.ipynb").locator(".jp-cr-Sleep")
        sleep.get_by_role("button", name="Resume").click()
        expect(cell.prompt).to_have_text("[*]:")
        cell.shows("0", "begun")
        for name in ("one", "two", "three"):
            cell.go(name)
        outputs = cell.cell.locator(".jp-OutputArea-output")
        expect(outputs.nth(1)).to_have_text("begun\none\ntwo\nthree", use_inner_text=True)
        expect(cell.prompt).to_have_text(re.compile(r"\[1\]:"))


def test_run_all_cells(jupyterlab: LabServer) -> None:
    """One of them goes back: that is done once, and what waits is shown as not run."""
    path = "all.ipynb"
    cells = ("x = 1", "%checkpoint all-cells", "x = 2", "%restore all-cells", "x = 3")
    with jupyterlab.open(path, *cells) as window:
        prompts = [
            window.cell(path, number).locator(".jp-InputPrompt") for number in range(5)
        ]
        window.choose("Run", "Run All Cells")
        outputs = window.cell(path, 1).locator(".jp-OutputArea-output")
        expect(outputs).to_contain_text("restored", timeout=30_000)
        expect(prompts[1]).to_have_text("[2]:")
        for prompt in prompts[3:]:
            expect(prompt).to_have_text(re.compile(r"\[ ?\]:"))
        window.is_idle(path)
        # As often as it could have gone round.
        window.page.wait_for_timeout(4000)
        assert len(window.taken(path)) == 2
        window.cell(path, 4).locator(".cm-content").click()
        window.page.keyboard.press("ControlOrMeta+a")
        window.page.keyboard.type("print(x)")
        assert window.run_cell(path, 4) == "1"
