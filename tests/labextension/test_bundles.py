"""Snapshots that are carried elsewhere in one file, and those that come in one."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import JSHandle, Locator, expect

from tests.conftest import a_user
from tests.engine.harness import LIMIT, wait_until
from tests.labextension.conftest import require_lab
from tests.labextension.harness import Lab, LabServer, lab
from tests.labextension.seen import violations

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

# A file of the server's, as if somebody dragged it from a desktop.
DRAGGED = """async ([url, name]) => {
    const content = await (await fetch(url)).blob();
    const data = new DataTransfer();
    data.items.add(new File([content], name));
    return data;
}"""
CLI = "import sys; from jupyter_cr.cli import main; sys.exit(main())"


@pytest.fixture(scope="module", params=["JupyterLab Light", "JupyterLab Dark"])
def themed(request: pytest.FixtureRequest) -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user, request.param) as server:
            yield server


def export_as_somebody_else(server: LabServer, name: str, file: str) -> None:
    """Into the server's files, signed with another key."""
    user = server.server.user
    wait_until(
        lambda: (
            server.server.get(f"jupyter-cr/snapshots/{name}/summary")["state"] == "durable"
        ),
        "it is on disk",
    )
    environment = dict(user.environment)
    environment["JUPYTER_CONFIG_DIR"] = str(user.home / "somebody-else")
    subprocess.run(
        user.command(
            user.python, "-c", CLI, "export", name, str(server.server.root / file)
        ),
        env=environment,
        timeout=LIMIT,
        check=True,
    )


def dragged(window: Lab, file: str) -> JSHandle:
    return window.page.evaluate_handle(
        DRAGGED, [f"{window.server.url}files/{quote(file)}", file]
    )


def dialog(window: Lab) -> Locator:
    return window.page.locator(".jp-Dialog")


def choose(window: Lab, button: str) -> None:
    dialog(window).get_by_role("button", name=button, exact=True).click()
    expect(dialog(window)).to_have_count(0)


def look_inside(window: Lab, name: str) -> Locator:
    row = window.row(name)
    row.get_by_label("Show what is inside").click()
    return row


def import_by_button(window: Lab, file: Path) -> None:
    with window.page.expect_file_chooser() as chosen:
        window.panel.get_by_role("button", name=re.compile("^Import a snapshot")).click()
    chosen.value.set_files(file)


def delete(window: Lab, name: str) -> None:
    assert window.server.fetch("DELETE", f"jupyter-cr/snapshots/{name}")[0] == 204
    expect(window.row(name)).to_have_count(0)


def test_out_and_in_again(themed: LabServer, tmp_path: Path) -> None:
    """What somebody exports, they trust when it comes back."""
    with themed.open("own.ipynb", "x = 6 * 7", "x") as window:
        window.open_panel()
        window.run_cell("own.ipynb", 0)
        window.button("own.ipynb").click()
        row = look_inside(window, "own-1")
        with window.page.expect_download() as download:
            row.get_by_role("button", name="Export", exact=True).click()
        assert download.value.suggested_filename == "own-1.jupyter-cr.tar"
        expect(window.toast("passwords and keys")).to_be_visible()
        file = tmp_path / "own.tar"
        download.value.save_as(file)
        with tarfile.open(file) as tar:
            assert tar.getnames()[-1] == "signature.json"

        delete(window, "own-1")
        import_by_button(window, file)
        expect(window.toast("Imported “own-1”.")).to_be_visible()
        expect(dialog(window)).to_have_count(0)
        window.act("own-1", "Fork")
        window.is_idle("own-1.ipynb")
        assert window.run_cell("own-1.ipynb", 1) == "42"


def test_from_somebody_else(themed: LabServer) -> None:
    """It is told what is missing, and that it is not trusted; it runs only after somebody
    has said that it may."""
    log = themed.server.root / "gone.log"
    with themed.open("theirs.ipynb", "x = 1; log = open('gone.log', 'a')", "x") as window:
        window.open_panel()
        window.run_cell("theirs.ipynb", 0)
        window.button("theirs.ipynb").click()
        expect(window.row("theirs-1")).to_be_visible()
        export_as_somebody_else(themed, "theirs-1", "from a friend.tar")
        delete(window, "theirs-1")
        log.unlink()

        data = dragged(window, "from a friend.tar")
        for event in ("dragenter", "dragover"):
            window.panel.dispatch_event(event, {"dataTransfer": data})
        expect(window.panel).to_have_class(re.compile("jp-cr-mod-drop"))
        window.panel.dispatch_event("drop", {"dataTransfer": data})
        expect(window.panel).not_to_have_class(re.compile("jp-cr-mod-drop"))
        expect(dialog(window)).to_contain_text("Imported “theirs-1”")
        expect(dialog(window)).to_contain_text("gone.log")
        expect(dialog(window)).to_contain_text("run its code")
        assert violations(window.page, ".jp-Dialog") == []
        choose(window, "Not Now")
        expect(window.row("theirs-1")).to_contain_text("not trusted")

        # To restore it is to be asked first.
        log.touch()
        log.chmod(0o666)
        window.act("theirs-1", "Restore")
        expect(dialog(window)).to_contain_text("Trust “theirs-1”?")
        choose(window, "Cancel")
        expect(window.row("theirs-1")).to_contain_text("not trusted")
        row = look_inside(window, "theirs-1")
        expect(row).to_contain_text("It came from elsewhere.")
        assert violations(window.page, "#jupyter-cr-panel") == []
        row.get_by_role("button", name="Trust…").click()
        choose(window, "Trust")
        expect(window.toast("is trusted now")).to_be_visible()
        expect(row).not_to_contain_text("not trusted")
        expect(row.get_by_role("button", name="Trust…")).to_have_count(0)
        window.act("theirs-1", "Restore")
        expect(window.toast("is back at")).to_be_visible()
        assert window.run_cell("theirs.ipynb", 1) == "1"

        # By the menu, and restored at once.
        delete(window, "theirs-1")
        import_by_button(window, themed.server.root / "from a friend.tar")
        choose(window, "Not Now")
        window.row("theirs-1").click(button="right")
        window.menu_item("Trust…").click()
        choose(window, "Cancel")
        window.act("theirs-1", "Fork")
        choose(window, "Trust and Fork")
        window.is_idle("theirs-1.ipynb")
        assert window.run_cell("theirs-1.ipynb", 1) == "1"
        window.row("theirs-1").click(button="right")
        expect(window.menu_item("Export")).to_be_visible()
        expect(window.menu_item("Trust…")).to_be_hidden()
        window.page.keyboard.press("Escape")


def test_what_is_no_bundle(themed: LabServer, tmp_path: Path) -> None:
    file = tmp_path / "holiday.tar"
    file.write_bytes(b"holiday " * 100_000)
    with themed.open("none.ipynb", "x = 1") as window:
        window.open_panel()
        import_by_button(window, file)
        expect(window.toast("“holiday.tar” is no bundle")).to_be_visible()
        expect(window.toast("Get it again")).to_be_visible()
