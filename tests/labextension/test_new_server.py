"""A page that stays open while its server is stopped and started anew."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.conftest import a_user
from tests.labextension.conftest import require_lab
from tests.labextension.harness import lab

pytestmark = pytest.mark.timeout(400)


def test_kernels_have_hibernated() -> None:
    """It shows that, and a cell wakes each."""
    require_lab()
    option = "--SnapshotExtension.hibernate_on_stop=True"
    for user in a_user("ordinary"):
        with (
            lab(user, "JupyterLab Light", None, option) as jupyterlab,
            jupyterlab.open("stays.ipynb", "x = 1", "print(x)") as window,
        ):
            window.run_cell("stays.ipynb", 0)
            (before,) = jupyterlab.server.kernels()
            sleep = window.notebook("stays.ipynb").locator(".jp-cr-Sleep")
            with jupyterlab.restarted() as server:
                # JupyterLab asks for sessions every ten seconds, and less and less often as
                # long as it gets no answer: a server that starts slowly waits for it.
                expect(sleep).to_contain_text("This kernel is hibernating", timeout=240_000)
                assert server.kernels() == {}
                # JupyterLab's own word that the server was gone.
                dialog = window.page.locator(".jp-Dialog")
                if dialog.count():
                    dialog.get_by_role("button").last.click()
                assert window.run_cell("stays.ipynb", 1) == "1"
                assert list(server.kernels()) == [before]
                expect(sleep).to_be_hidden()
