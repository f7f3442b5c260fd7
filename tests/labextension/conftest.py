"""One JupyterLab and one browser for all tests of a file; each has its own notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import a_user
from tests.labextension.harness import BUNDLE, CHROMIUM, LabServer, lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser takes a processor for minutes."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.long)


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
