"""One JupyterLab and one browser for all tests of a file; each has its own notebook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import a_user
from tests.labextension.harness import BUNDLE, CHROMIUM, LabServer, lab


def require_lab() -> None:
    """Leave a test out where there is no bundle or no browser."""
    if not (BUNDLE / "package.json").is_file():
        pytest.skip("the extension is not built: make labextension")
    if not CHROMIUM.is_file():
        pytest.skip("Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def jupyterlab() -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user) as server:
            yield server
