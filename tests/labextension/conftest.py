"""One JupyterLab and one browser for all tests of a file; each has its own notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import a_user
from tests.labextension.harness import BUNDLE, CHROMIUM, LabServer, lab

_FIRST = {
    "test_lab.py": (
        "test_snapshot_and_restore",
        "test_fork",
        "test_rename_note_and_search",
        "test_delete_and_undo",
        "test_two_windows",
        "test_a_failure_says_what_to_do",
        "test_a_running_cell_goes_on",
    ),
    "test_notebook.py": ("test_notebook_7", "test_a_console"),
}
"""What everybody does first, by file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser takes a processor for minutes: all else is in make test-long."""
    for item in items:
        is_ours = item.path.parent == Path(__file__).parent
        if is_ours and item.name not in _FIRST.get(item.path.name, ()):
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
