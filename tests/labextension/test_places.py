"""All that we show, where it is shown: in each theme, with what axe-core says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.conftest import a_user
from tests.labextension.conftest import require_lab
from tests.labextension.harness import Lab, LabServer, lab
from tests.labextension.pretence import pretend_refused, show_many
from tests.labextension.seen import violations

pytestmark = pytest.mark.timeout(400)

PANEL = "#jupyter-cr-panel"
STATUS = ".jp-cr-Status"


@pytest.fixture(scope="module", params=["JupyterLab Light", "JupyterLab Dark"])
def themed(request: pytest.FixtureRequest) -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user, request.param) as server:
            yield server


def section(window: Lab, name: str) -> Locator:
    """Of the list of what runs."""
    running = window.page.locator("#jp-running-sessions")
    if not running.is_visible():
        window.page.locator('.lm-TabBar-tab[data-id="jp-running-sessions"]').click()
    return running.get_by_role("region", name=name)


def all_of(window: Lab, name: str) -> Locator:
    """The button above a section that does something with all of it."""
    toolbar = window.page.get_by_role("toolbar", name=f"{name} toolbar")
    return toolbar.locator(".jp-RunningSessions-shutdownAll")


def test_panel(themed: LabServer) -> None:
    """Empty, with every kind of snapshot, and what is inside one; while one is edited;
    and where Linux does not permit it."""
    with themed.open("panel.ipynb", "x = 1") as window:
        window.open_panel()
        expect(window.panel.get_by_text("Nothing to go back to yet")).to_be_visible()
        assert violations(window.page, PANEL) == []
        window.run_cell("panel.ipynb", 0)
        window.button("panel.ipynb").click()
        row = window.row("panel-1")
        row.get_by_role("button", name="Show what is inside").click()
        expect(row).to_contain_text("threads")
        row.locator(".jp-cr-Item-main").click()
        assert violations(window.page, PANEL) == []
        row.locator(".jp-cr-Item-name").dblclick()
        expect(window.panel.get_by_label("Name of the snapshot")).to_be_focused()
        assert violations(window.page, PANEL) == []
        show_many(window, 60)
        window.panel.get_by_role("treeitem", name="model-1.ipynb").click()
        expect(window.row("snapshot 0049")).to_contain_text("hibernating")
        assert violations(window.page, PANEL) == []
        window.page.unroute_all()
        pretend_refused(window)
        window.is_idle("panel.ipynb")
        window.open_panel()
        expect(window.panel.get_by_role("alert")).to_be_visible()
        assert violations(window.page, PANEL) == []


def test_list_of_what_runs(themed: LabServer) -> None:
    """Snapshots are listed, shown in the panel by a click, and deleted, but not those in
    which kernels hibernate."""
    with themed.open("runs.ipynb", "x = 1", "print(x)") as window:
        window.run_cell("runs.ipynb", 0)
        for number in (1, 2):
            window.button("runs.ipynb").click()
            expect(window.toast(f"Snapshot “runs-{number}”")).to_be_visible()
        listed = section(window, "Kernel Snapshots")
        item = listed.locator(".jp-RunningSessions-item", has_text="runs-1")
        expect(item).to_contain_text("MB")
        item.locator(".jp-RunningSessions-itemLabel").click()
        expect(window.row("runs-1")).to_be_visible()
        section(window, "Kernel Snapshots")
        item.hover()
        item.locator(".jp-RunningSessions-itemShutdown").click()
        expect(item).to_have_count(0)
        window.toast("“runs-1” deleted").get_by_role("button", name="Undo").click()
        expect(item).to_be_visible()

        window.tab("runs.ipynb").click()
        window.choose("Kernel", "Hibernate Kernel")
        sleeps = section(window, "Hibernating Kernels")
        sleeper = sleeps.locator(".jp-RunningSessions-item", has_text="runs.ipynb")
        expect(sleeper).to_be_visible()
        assert violations(window.page, ".jp-cr-Sleep:not(.lm-mod-hidden)") == []
        all_of(window, "Kernel Snapshots").click()
        dialog = window.page.locator(".jp-Dialog")
        expect(dialog).to_contain_text("Kernels are not affected")
        dialog.get_by_role("button", name="Delete All").click()
        expect(item).to_have_count(0)
        expect(sleeper).to_be_visible()
        all_of(window, "Hibernating Kernels").click()
        expect(dialog).to_contain_text("Resume all kernels that hibernate?")
        dialog.get_by_role("button", name="Resume All").click()
        expect(sleeper).to_have_count(0)
        window.is_idle("runs.ipynb")
        assert window.run_cell("runs.ipynb", 1) == "1"


def test_status_bar(themed: LabServer) -> None:
    """How many there are of this kernel, and what all cost; and whether it sleeps."""
    with themed.open("status.ipynb", "x = 1") as window:
        status = window.page.locator(STATUS).get_by_role("button")
        window.run_cell("status.ipynb", 0)
        window.button("status.ipynb").click()
        expect(status).to_have_text(re.compile(r"^1 · \d+ MB$"))
        expect(status).to_have_attribute("title", re.compile("1 of this kernel, "))
        assert violations(window.page, STATUS) == []
        status.click()
        expect(window.row("status-1")).to_be_visible()
        window.tab("status.ipynb").click()
        window.choose("Kernel", "Hibernate Kernel")
        expect(status).to_have_attribute("title", re.compile("^This kernel hibernates"))
        expect(status).to_have_text(re.compile(r"^2 · "))
        assert violations(window.page, STATUS) == []


def test_launcher(themed: LabServer) -> None:
    """A card goes back to any snapshot."""
    with themed.open("card.ipynb", "x = 1", "print(x)") as window:
        window.run_cell("card.ipynb", 0)
        window.button("card.ipynb").click()
        expect(window.toast("Snapshot “card-1”")).to_be_visible()
        window.tab("card.ipynb").locator(".lm-TabBar-tabCloseIcon").click()
        card = window.page.locator(".jp-LauncherCard", has_text="Restore Snapshot")
        card.click()
        dialog = window.page.locator(".jp-Dialog")
        dialog.get_by_role("combobox").select_option("card-1")
        dialog.get_by_role("button", name="Ok").click()
        expect(window.toast("is back at “card-1”")).to_be_visible()
        window.is_idle("card.ipynb")
        assert window.run_cell("card.ipynb", 1) == "1"


def test_timeline(themed: LabServer) -> None:
    """The slider above the notebook, and the marks in the gutter."""
    with themed.open("timeline.ipynb", "x = 1", "x = 2") as window:
        window.choose("Kernel", "Snapshot Before Each Run")
        bar = window.notebook("timeline.ipynb").locator(".jp-cr-Timeline")
        expect(bar).to_contain_text("Beginning")
        assert violations(window.page, ".jp-cr-Timeline:not(.lm-mod-hidden)") == []
        window.run_cell("timeline.ipynb", 0)
        expect(bar).to_contain_text("x = 1")
        mark = window.cell("timeline.ipynb", 0).locator(".jp-cr-Mark")
        expect(mark).to_be_visible()
        assert violations(window.page, ".jp-cr-Timeline:not(.lm-mod-hidden)") == []
        assert violations(window.page, ".jp-cr-Mark") == []
