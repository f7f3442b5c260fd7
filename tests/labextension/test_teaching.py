"""Lessons: one user publishes in a browser, another starts and goes back, in theirs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.conftest import a_user
from tests.labextension.conftest import require_lab
from tests.labextension.harness import Lab, LabServer, lab
from tests.server.test_lessons import another_user, with_lessons

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

TITLE = "Lesson 3"
START_MS = 60_000


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-lessons-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def labs(place: Path) -> Iterator[tuple[LabServer, LabServer]]:
    """A teacher's and a student's."""
    require_lab()
    if os.geteuid() != 0:
        pytest.skip("not run by root, who can become two users")
    ordinary = contextmanager(a_user)
    with ordinary("ordinary") as first, ordinary("ordinary") as second:
        teacher = another_user(first)
        os.chown(place, teacher.uid, teacher.uid)
        with (
            lab(with_lessons(teacher, place)) as one,
            lab(with_lessons(second, place), browser=one.browser) as other,
        ):
            yield one, other


def dialog(window: Lab) -> Locator:
    return window.page.locator(".jp-Dialog")


def card(window: Lab) -> Locator:
    return window.page.locator(".jp-LauncherCard", has_text=TITLE)


def reset_button(window: Lab, path: str) -> Locator:
    return window.notebook(path).locator('[data-jp-item-name="lesson-reset"] jp-button')


def publish(window: Lab, path: str) -> None:
    window.run_cell(path, 0)
    window.button(path).click()
    expect(window.toast("Snapshot “weather-1”")).to_be_visible()
    window.open_panel()
    expect(window.row("weather-1")).to_be_visible()
    window.row("weather-1").click(button="right")
    window.menu_item("Publish as Lesson…").click()
    expect(dialog(window)).to_contain_text("passwords and keys")
    dialog(window).locator("input").fill(TITLE)
    dialog(window).get_by_role("button", name="Publish", exact=True).click()
    expect(window.toast("is published")).to_be_visible(timeout=START_MS)


def section(window: Lab) -> Locator:
    window.open_panel()
    found = window.panel.locator(".jp-cr-Lessons")
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    return found


def test_published_started_and_reset(labs: tuple[LabServer, LabServer]) -> None:
    teachers, students = labs
    with teachers.open("weather.ipynb", "data = [1, 2, 3]", "data") as window:
        publish(window, "weather.ipynb")
        expect(reset_button(window, "weather.ipynb")).to_be_hidden()
        expect(section(window)).to_contain_text("by you")

        with students.open("own.ipynb", "data") as other:
            other.choose("File", "New Launcher")
            card(other).click()
            # Nothing is run of somebody who is not known.
            expect(dialog(other)).to_contain_text("with all your rights")
            dialog(other).get_by_role("button", name="Trust and Start").click()
            path = f"{TITLE}.ipynb"
            other.is_idle(path, START_MS)
            assert other.run_cell(path, 1) == "[1, 2, 3]"

            # What the student does, and what comes back.
            other.cell(path, 1).locator(".cm-content").click()
            other.page.keyboard.press("Control+A")
            other.page.keyboard.type("data.clear(); data")
            assert other.run_cell(path, 1) == "[]"
            expect(reset_button(other, path)).to_be_visible()
            reset_button(other, path).click()
            expect(other.toast(f"Kernel and notebook are back at “{TITLE}”")).to_be_visible(
                timeout=START_MS
            )
            expect(other.cell(path, 1).locator(".cm-content")).to_have_text("data")
            assert other.run_cell(path, 1) == "[1, 2, 3]"

            # And the student's own work, again.
            other.toast("are back at").get_by_role("button", name="Undo").click()
            expect(other.cell(path, 1).locator(".cm-content")).to_have_text(
                "data.clear(); data", timeout=START_MS
            )
            assert other.run_cell(path, 1) == "[]"

            # In a notebook of one's own, as that of an assignment, whose kernel ends.
            other.tab("own.ipynb").click()
            other.choose("Kernel", "Start Lesson in This Notebook…")
            dialog(other).get_by_role("button", name="Start", exact=True).click()
            expect(reset_button(other, "own.ipynb")).to_be_visible(timeout=START_MS)
            other.is_idle("own.ipynb", START_MS)
            assert other.run_cell("own.ipynb", 0) == "[1, 2, 3]"

        window.page.reload()
        window.is_idle("weather.ipynb", START_MS)
        expect(section(window)).to_contain_text("started 2 times")
        section(window).get_by_role("button", name=f"Withdraw “{TITLE}”").click()
        dialog(window).get_by_role("button", name="Withdraw", exact=True).click()
        expect(section(window).locator("li")).to_have_count(0)

    with students.open("plain.ipynb", "1") as other:
        # A kernel of no lesson has none to go back to.
        expect(other.button("plain.ipynb")).to_be_visible()
        expect(reset_button(other, "plain.ipynb")).to_be_hidden()
        other.open_menu("Kernel")
        expect(other.menu_item("Snapshot Kernel")).to_be_visible()
        expect(other.menu_item("Reset to Lesson Start")).to_be_hidden()
        other.page.keyboard.press("Escape")
        other.choose("File", "New Launcher")
        expect(other.page.locator(".jp-LauncherCard").first).to_be_visible()
        expect(card(other)).to_have_count(0)
