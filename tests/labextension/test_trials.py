"""A cell that runs in a fork, and what somebody decides then."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.engine.harness import wait_until
from tests.labextension.harness import Lab, LabServer
from tests.labextension.seen import violations

pytestmark = pytest.mark.timeout(600)

TRIAL = ".jp-cr-Trial"
CELLS = ("x = 1", "x = x + 41; print('tried', x)", "x")


def kernels(window: Lab) -> list[Any]:
    return [kernel["id"] for kernel in window.server.get("api/kernels")]


def try_cell(window: Lab, path: str, number: int) -> Locator:
    cell = window.cell(path, number)
    cell.locator(".cm-content").click()
    window.page.keyboard.press("Control+Alt+Enter")
    return window.page.locator(TRIAL)


def test_discard(jupyterlab: LabServer) -> None:
    path = "discard.ipynb"
    with jupyterlab.open(path, *CELLS) as window:
        window.run_cell(path, 0)
        before = kernels(window)
        tab = try_cell(window, path, 1)
        expect(tab.get_by_text("tried 42")).to_be_visible()
        row = tab.get_by_role("row", name="x changed")
        expect(row).to_contain_text("1")
        expect(row).to_contain_text("42")
        assert violations(window.page, TRIAL) == []
        assert len(kernels(window)) == len(before) + 1
        # Nothing has happened to the notebook or its kernel.
        expect(window.cell(path, 1).locator(".jp-OutputArea-output")).to_have_count(0)
        window.tab(path).click()
        assert window.run_cell(path, 2) == "1"
        tab.get_by_role("button", name="Discard").click()
        expect(tab).to_have_count(0)
        wait_until(lambda: kernels(window) == before, "the fork has ended")
        assert (
            window.server.get("jupyter-cr/snapshots?kernel_id=" + before[0])["snapshots"]
            == []
        )


def test_adopt_and_undo(jupyterlab: LabServer) -> None:
    path = "adopt.ipynb"
    with jupyterlab.open(path, *CELLS) as window:
        window.run_cell(path, 0)
        before = kernels(window)
        tab = try_cell(window, path, 1)
        expect(tab.get_by_text("tried 42")).to_be_visible()
        tab.get_by_role("button", name="Adopt").click()
        expect(tab).to_have_count(0)
        outputs = window.cell(path, 1).locator(".jp-OutputArea-output")
        expect(outputs).to_have_text("tried 42\n")
        expect(window.cell(path, 1).locator(".jp-InputPrompt")).to_have_text("[2]:")
        toast = window.toast("has taken the place")
        expect(toast).to_be_visible()
        # Under the old id, and connected.
        wait_until(lambda: kernels(window) == before, "the fork has no id of its own")
        assert window.run_cell(path, 2) == "42"
        toast.get_by_role("button", name="Undo").click()
        expect(outputs).to_have_count(0)
        window.is_idle(path)
        assert window.run_cell(path, 2) == "1"


def test_what_raises_cannot_be_adopted(jupyterlab: LabServer) -> None:
    path = "raises.ipynb"
    with jupyterlab.open(path, "x = 1; 1 / 0") as window:
        before = kernels(window)
        tab = try_cell(window, path, 0)
        expect(tab.get_by_text("The cell has failed")).to_be_visible()
        expect(tab.get_by_text("ZeroDivisionError").first).to_be_visible()
        expect(tab.get_by_role("button", name="Adopt")).to_be_disabled()
        expect(tab.get_by_role("row", name="x added")).to_be_visible()
        window.tab("Fork of raises.ipynb").locator(".lm-TabBar-tabCloseIcon").click()
        wait_until(lambda: kernels(window) == before, "the fork has ended")


def test_a_page_that_goes(jupyterlab: LabServer) -> None:
    """With it go the forks that only it could have decided about."""
    path = "reload.ipynb"
    with jupyterlab.open(path, *CELLS) as window:
        window.run_cell(path, 0)
        before = kernels(window)
        tab = try_cell(window, path, 1)
        expect(tab.get_by_text("tried 42")).to_be_visible()
        window.page.reload()
        window.is_idle(path)
        wait_until(lambda: kernels(window) == before, "the fork has ended")


def test_a_cell_that_waits_and_is_interrupted(jupyterlab: LabServer) -> None:
    path = "waits.ipynb"
    with jupyterlab.open(
        path, "name = input('Who? '); import time; time.sleep(600)"
    ) as window:
        before = kernels(window)
        tab = try_cell(window, path, 0)
        tab.get_by_role("textbox").fill("me")
        window.page.keyboard.press("Enter")
        expect(tab.get_by_role("textbox")).to_have_count(0)
        tab.get_by_role("button", name="Interrupt").click()
        expect(tab.get_by_text("KeyboardInterrupt").first).to_be_visible()
        tab.get_by_role("button", name="Discard").click()
        wait_until(lambda: kernels(window) == before, "the fork has ended")
