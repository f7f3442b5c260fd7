"""What is wrong with a page for those who see it badly or not at all."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

__all__ = ["violations"]


def violations(page: Page, inside: str) -> list[str]:
    """What axe-core finds inside an element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=inside).response["violations"]
    return [
        f"{v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes'][:3]]}"
        for v in found
    ]
