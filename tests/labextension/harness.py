"""A real JupyterLab in a real browser, and what people do in it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.conftest import ROOT, User
from tests.server.harness import TOKEN, Server, jupyter_server, notebook, start_server

__all__ = [
    "BUNDLE",
    "CHROMIUM",
    "IDLE",
    "LIMIT_MS",
    "START_LIMIT_MS",
    "Lab",
    "LabServer",
    "expect_enabled",
    "kernel_toolbar_button",
    "lab",
]

BUNDLE = ROOT / "jupyter_cr" / "labextension"
CHROMIUM = Path("/usr/bin/chromium")

START_LIMIT_MS = 120_000
LIMIT_MS = 45_000
expect.set_options(timeout=LIMIT_MS)
IDLE = re.compile(r"\| \W?Idle")
"""What the status bar says of a kernel, perhaps with a mark (`test_translation.py`)."""

_LAB = (
    "-c",
    "import sys; from jupyterlab.labapp import main; sys.exit(main())",
)
_BROWSER = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SETTINGS = "lab/user-settings/@jupyterlab"
_THEMES = "apputils-extension/themes"
_METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": ""}}
_QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
_NOTEBOOK_7 = {
    "ServerApp": {"jpserver_extensions": {"notebook": find_spec("notebook") is not None}}
}


_COLLABORATION = {
    "ServerApp": {
        "jpserver_extensions": {"jupyter_server_fileid": True, "jupyter_server_ydoc": True}
    }
}
_SHARED = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "@jupyter"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(_BROWSER), timeout=START_LIMIT_MS
        )
        try:
            yield browser
        finally:
            browser.close()


class Lab:
    """One window.

    Args:
        path: of what is opened first.
        scale: pixels of a picture for each pixel of the page.
    """

    def __init__(
        self,
        browser: Browser,
        server: Server,
        path: str,
        size: tuple[int, int] = (1300, 800),
        scale: float = 1,
    ) -> None:
        self.server = server
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=scale
        )
        context.set_default_timeout(LIMIT_MS)
        self.page: Page = context.new_page()
        self.page.goto(
            f"{server.url}lab/tree/{path}?token={TOKEN}&reset", timeout=START_LIMIT_MS
        )
        self.is_idle(path, START_LIMIT_MS)

    def close(self) -> None:
        self.page.context.close()

    # Notebooks

    def notebook(self, path: str) -> Locator:
        """The panel of a notebook that is open."""
        tab = self.tab(path)
        panel = tab.get_attribute("data-id")
        return self.page.locator(f"#{panel}")

    def tab(self, path: str) -> Locator:
        name = re.escape(path.rpartition("/")[2])
        return self.page.locator(
            "#jp-main-dock-panel .lm-TabBar-tab",
            has=self.page.locator(".lm-TabBar-tabLabel", has_text=re.compile(f"^{name}$")),
        )

    def is_idle(self, path: str, limit_ms: int = LIMIT_MS) -> None:
        """Wait until a notebook is open, and its kernel idle; it is the current one
        then."""
        self.tab(path).click(timeout=limit_ms)
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text(
            IDLE, timeout=limit_ms
        )

    def run_cell(self, path: str, number: int, limit_ms: int = LIMIT_MS) -> str:
        """What a cell prints, when it has ended."""
        cell = self.start_cell(path, number)
        expect(cell.locator(".jp-InputPrompt")).to_have_text(
            re.compile(r"\[\d+\]:"), timeout=limit_ms
        )
        outputs = cell.locator(".jp-OutputArea-output")
        return outputs.inner_text().strip() if outputs.count() else ""

    def start_cell(self, path: str, number: int) -> Locator:
        cell = self.cell(path, number)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        return cell

    def cell(self, path: str, number: int) -> Locator:
        return self.notebook(path).locator(".jp-Cell").nth(number)

    # Menus

    def open_menu(self, menu: str) -> None:
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{menu}$")).click()

    def menu_item(self, command: str) -> Locator:
        return self.page.locator(
            ".lm-Menu-item",
            has=self.page.locator(
                ".lm-Menu-itemLabel", has_text=re.compile(f"^{command}$")
            ),
        )

    def choose(self, menu: str, command: str) -> None:
        self.open_menu(menu)
        self.menu_item(command).click()

    def choose_submenu(self, menu: str, submenu: str, command: str) -> None:
        self.open_menu(menu)
        self.menu_item(submenu).hover()
        self.menu_item(command).click()

    def menu_is_enabled(self, menu: str, command: str) -> bool:
        self.open_menu(menu)
        classes = self.menu_item(command).get_attribute("class") or ""
        self.page.keyboard.press("Escape")
        return "lm-mod-disabled" not in classes

    # What is ours

    @property
    def panel(self) -> Locator:
        return self.page.locator("#jupyter-cr-panel")

    def open_panel(self) -> None:
        if not self.panel.is_visible():
            self.page.locator('.lm-TabBar-tab[data-id="jupyter-cr-panel"]').click()
        expect(self.panel).to_be_visible()

    @property
    def rows(self) -> Locator:
        """Of snapshots, in the panel."""
        return self.panel.locator(".jp-cr-Row")

    def row(self, name: str) -> Locator:
        return self.panel.locator(f'.jp-cr-Row[data-snapshot="{name}"]')

    def taken(self, path: str) -> list[str]:
        """Names of a notebook's snapshots, as the server has them, newest first."""
        page = self.server.get(f"jupyter-cr/snapshots?path={quote(path)}")
        return [snapshot["name"] for snapshot in page["snapshots"]]

    def button(self, path: str) -> Locator:
        """*Snapshot kernel* in a notebook's toolbar."""
        return kernel_toolbar_button(self.notebook(path))

    def toast(self, text: str | re.Pattern[str]) -> Locator:
        """A notification on the screen, and not one that is just going."""
        return self.page.locator(".Toastify__toast:not([class*=slide-exit])", has_text=text)

    def act(self, name: str, action: str) -> None:
        """Click one of the buttons of a row."""
        row = self.row(name)
        row.hover()
        row.get_by_role("button", name=re.compile(f"^{action}")).click()


def kernel_toolbar_button(inside: Locator) -> Locator:
    """*Snapshot kernel* in the toolbar of a notebook or console."""
    # JupyterLab's own element around the button, or the button itself.
    return inside.locator(
        '[data-jp-item-name="kernel-snapshot"] >> css=jp-button, button'
    ).first


def expect_enabled(button: Locator, is_enabled: bool = True) -> None:
    """JupyterLab's toolbar buttons are elements of its own."""
    if is_enabled:
        expect(button).not_to_have_attribute("aria-disabled", "true")
    else:
        expect(button).to_have_attribute("aria-disabled", "true")


@dataclass(frozen=True)
class LabServer:
    """A server of JupyterLab with our bundle as it was built last, and a browser."""

    server: Server
    browser: Browser
    options: Sequence[str] = ()

    @contextmanager
    def restarted(self) -> Iterator[Server]:
        """Stop the server, and have another one in its place."""
        self.server.stop()
        server = start_server(
            self.server.user, *self.options, serve=_LAB, port=self.server.port
        )
        try:
            yield server
        finally:
            server.stop()

    def write(self, path: str, *sources: str) -> None:
        """A notebook with these cells."""
        file = self.server.root / path
        file.write_text(json.dumps(notebook(*sources) | {"metadata": _METADATA}))
        os.chown(file, self.server.user.uid, self.server.user.uid)

    @contextmanager
    def page(self, path: str) -> Iterator[Page]:
        """Any page of the server."""
        context = self.browser.new_context(viewport={"width": 1300, "height": 800})
        context.set_default_timeout(LIMIT_MS)
        try:
            page = context.new_page()
            page.goto(f"{self.server.url}{path}?token={TOKEN}", timeout=START_LIMIT_MS)
            yield page
        finally:
            context.close()

    @contextmanager
    def open(
        self,
        path: str,
        *sources: str,
        size: tuple[int, int] = (1300, 800),
        scale: float = 1,
    ) -> Iterator[Lab]:
        """A window with that notebook, which is made if there are sources for it."""
        if sources:
            self.write(path, *sources)
        window = Lab(self.browser, self.server, path, size, scale)
        try:
            yield window
        finally:
            window.close()


@contextmanager
def lab(
    user: User,
    theme: str = "JupyterLab Light",
    settings: Mapping[str, dict[str, Any]] | None = None,
    *options: str,
    is_shared: bool = False,
    browser: Browser | None = None,
) -> Iterator[LabServer]:
    """JupyterLab for a user, in this theme.

    Args:
        settings: of JupyterLab's plugins, by their names.
        options: of the server.
        is_shared: with jupyter-collaboration, which is left alone otherwise.
        browser: that there is already; a process can have but one.
    """
    home = user.home
    config, shared = home / "config", home / "data" / "labextensions"
    for name, content in (
        ("labconfig/page_config.json", _QUIET),
        ("jupyter_server_config.d/notebook.json", _NOTEBOOK_7),
        *([("jupyter_server_config.d/shared.json", _COLLABORATION)] if is_shared else []),
        *(
            (f"{_SETTINGS}/{plugin}.jupyterlab-settings", chosen)
            for plugin, chosen in {_THEMES: {"theme": theme}, **(settings or {})}.items()
        ),
    ):
        file = config / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    shared.mkdir(parents=True)
    (shared / "jupyter-cr").symlink_to(BUNDLE)
    if is_shared:
        (shared / "@jupyter").symlink_to(_SHARED)
    for path in (home, *home.rglob("*")):
        os.chown(path, user.uid, user.uid, follow_symlinks=False)
    static = Path(sys.prefix) / "share" / "jupyter" / "lab"
    options = (f"--LabApp.app_dir={static}", *options)
    if not is_shared:
        options = ("--YDocExtension.disable_rtc=True", *options)
    with jupyter_server(user, *options, serve=_LAB) as server, ExitStack() as stack:
        found = browser or stack.enter_context(chromium())
        yield LabServer(server, found, options)
