"""Whatever people read can be translated: JupyterLab can mark all that passes through
`trans`, and nothing of ours is without the mark."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import a_user
from tests.labextension.conftest import require_lab
from tests.labextension.harness import LabServer, lab
from tests.labextension.pretence import pretend_refused, show_many

pytestmark = pytest.mark.timeout(400)

MARK = "‡"
MARKED = {
    "translation-extension/plugin": {"stringsPrefix": MARK, "displayStringsPrefix": True}
}
PANEL = "#jupyter-cr-panel"

# Names, numbers and times are no words, and what the server says is in its own language.
DATA = re.compile(
    r"""[\W\d]*
    | \W*\d[\d.,]*\ ?(bytes?|kB|MB|GB|ms|s)
    | now | \d+\ \w+\ ago | [A-Z][a-z]{2}\ \d+ | 20\d\d | [\d:]+\s[AP]M
    | words(-[-\d]+)? | paper | final | snapshot\ \d+
    | (analysis/)?(model-\d+|words)\.ipynb
    | with\ the\ cleaned\ table | page\ 3\ is\ damaged | python\S* | /.*
    | \[\d+\]\ table\ =\ table\.dropna\(\)(\ \(double-click\ to\ rename\))?
    | \[\d\] | x(\ =\ 1)? | int
    | PTRACE_SEIZE.* | Set\ kernel.yama.* | ptrace | sudo\ sysctl.*""",
    re.VERBOSE,
)

COLLECT = """roots => roots.flatMap(root => {
    const found = [];
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        found.push(texts.currentNode.data);
    }
    for (const node of [root, ...root.querySelectorAll('*')]) {
        for (const name of ['title', 'aria-label', 'placeholder', 'alt']) {
            found.push(node.getAttribute(name) ?? '');
        }
    }
    return found;
})"""


@pytest.fixture(scope="module")
def marked() -> Iterator[LabServer]:
    require_lab()
    for user in a_user("ordinary"):
        with lab(user, settings=MARKED) as server:
            yield server


def unmarked(page: Page, selector: str) -> set[str]:
    """What people read there that has no mark; there is something."""
    texts = {
        line.strip()
        for text in page.locator(selector).evaluate_all(COLLECT)
        for line in text.splitlines()
        if line.strip()
    }
    assert any(MARK in text for text in texts), texts
    return {text for text in texts if not is_marked(text)}


def is_marked(text: str) -> bool:
    """Whether all of it, or each of its parts that is no data."""
    return text.startswith(MARK) or all(
        MARK in part or DATA.fullmatch(part) for part in re.split(r",\s| · ", text)
    )


def test_panel(marked: LabServer) -> None:
    with marked.open("words.ipynb", "x = 1") as window:
        window.open_panel()
        expect(window.panel.get_by_role("heading")).to_be_visible()
        assert unmarked(window.page, PANEL) == set()
        window.button("words.ipynb").click()
        row = window.row("words-1")
        row.locator(".jp-cr-Caret").click()
        expect(row.locator(".jp-cr-Process").first).to_be_visible()
        assert unmarked(window.page, PANEL) == set()
        assert unmarked(window.page, ".Toastify__toast-body") == set()
        window.panel.get_by_role("searchbox").fill("nowhere")
        expect(window.panel.locator(".jp-cr-Hint")).to_be_visible()
        assert unmarked(window.page, PANEL) == set()

        show_many(window, 60)
        window.row("snapshot 0059").click()
        window.row("snapshot 0057").click(modifiers=["Shift"])
        expect(window.panel.locator(".jp-cr-Selection")).to_be_visible()
        assert unmarked(window.page, PANEL) == set()
        window.row("snapshot 0058").locator(".jp-cr-Item-name").dblclick()
        expect(window.panel.locator(".jp-cr-Editor")).to_be_visible()
        assert unmarked(window.page, PANEL) == set()
        window.page.keyboard.press("Escape")
        window.row("snapshot 0059").click(button="right")
        assert unmarked(window.page, '.lm-Menu-item[data-command^="jupyter-cr:"]') == set()
        window.page.keyboard.press("Escape")
        window.panel.get_by_role("searchbox").fill("snapshot 0012")
        expect(window.rows).to_have_count(1)
        window.row("snapshot 0012").click(button="right")
        window.page.locator('.lm-Menu-item[data-command="jupyter-cr:trust"]').click()
        dialog = window.page.locator(".jp-Dialog")
        expect(dialog).to_be_visible()
        assert unmarked(window.page, ".jp-Dialog-content") == set()
        window.page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        window.page.unroute_all()
        pretend_refused(window)
        window.is_idle("words.ipynb")
        window.open_panel()
        expect(window.panel.get_by_role("alert")).to_be_visible()
        assert unmarked(window.page, PANEL) == set()


def test_elsewhere(marked: LabServer) -> None:
    """In the page of a kernel that hibernates, and wherever that is listed."""
    with marked.open("words.ipynb", "x = 1") as window:
        page = window.page
        window.open_panel()
        expect(window.row("words-1")).to_be_visible()
        assert unmarked(page, ".jp-cr-Status") == set()
        window.panel.locator(".jp-cr-mod-narrow").first.click()
        expect(page.locator(".jp-cr-Sleep")).to_be_visible()
        assert unmarked(page, ".jp-cr-Sleep") == set()
        assert unmarked(page, ".jp-cr-Status") == set()
        assert unmarked(page, PANEL) == set()
        toast = page.locator(".Toastify__toast-body")
        expect(toast.filter(has_text="none in memory")).to_be_visible()
        assert unmarked(page, ".Toastify__toast-body") == set()
        page.locator('.lm-TabBar-tab[data-id="jp-running-sessions"]').click()
        item = page.locator(".jp-RunningSessions-item", has_text="words.ipynb")
        expect(item.last).to_be_visible()
        for name in ("Hibernating Kernels", "Kernel Snapshots"):
            toolbar = f'.jp-RunningSessions-toolbar[aria-label*="{name}"]'
            assert unmarked(page, toolbar) == set()
        page.keyboard.press("Control+Shift+c")
        page.locator("#command-palette input, .lm-CommandPalette-input").first.fill(
            "kernel snapshots"
        )
        ours = page.locator('.lm-CommandPalette-item[data-command^="jupyter-cr:"]')
        labels = ours.locator(".lm-CommandPalette-itemLabel")
        expect(labels.first).to_be_visible()
        # As a whole: what is searched for is in elements of its own.
        assert [text for text in labels.all_inner_texts() if text[0] != MARK] == []
        page.keyboard.press("Escape")
        window.tab("words.ipynb").locator(".lm-TabBar-tabCloseIcon").click()
        card = page.locator(".jp-LauncherCard", has_text="words.ipynb")
        expect(card).to_be_visible()
        assert (card.get_attribute("title") or "").startswith(MARK)
        section = page.locator(".jp-Launcher-section", has=card)
        expect(section.locator("h2")).to_have_text(f"{MARK}Hibernating Kernels")


def test_comparisons_and_trials(marked: LabServer) -> None:
    with marked.open("words.ipynb", "x = 1") as window:
        window.button("words.ipynb").click()
        window.open_panel()
        expect(window.rows.first).to_be_visible()
        window.row("words-1").click(button="right")
        window.page.locator(
            '.lm-Menu-item[data-command="jupyter-cr:compare-with-now"]'
        ).click()
        comparison = window.page.locator(".jp-cr-Comparison")
        expect(comparison.locator(".jp-cr-Section")).to_have_count(4)
        assert unmarked(window.page, ".jp-cr-Comparison") == set()
        window.tab("words.ipynb").click()
        window.cell("words.ipynb", 0).locator(".cm-content").click()
        window.page.keyboard.press("Control+Alt+Enter")
        trial = window.page.locator(".jp-cr-Trial")
        expect(trial.locator(".jp-cr-Section")).to_have_count(2)
        assert unmarked(window.page, ".jp-cr-Trial") == set()
        trial.locator(".jp-cr-Decisions .jp-mod-reject").click()
        expect(trial).to_have_count(0)


def test_timeline(marked: LabServer) -> None:
    """The slider, the marks, and what is said when a run is undone."""
    with marked.open("words-2.ipynb", "x = 1") as window:
        page = window.page
        window.notebook("words-2.ipynb").locator(
            '[data-jp-item-name="kernel-timeline"] >> css=jp-button, button'
        ).first.click()
        bar = window.notebook("words-2.ipynb").locator(".jp-cr-Timeline")
        expect(bar.get_by_role("slider")).to_have_attribute("max", "0")
        assert unmarked(page, ".jp-cr-Timeline:not(.lm-mod-hidden)") == set()
        window.run_cell("words-2.ipynb", 0)
        expect(bar.get_by_role("slider")).to_have_attribute("max", "1")
        expect(bar).to_contain_text("x = 1")
        assert unmarked(page, ".jp-cr-Timeline:not(.lm-mod-hidden)") == set()
        assert unmarked(page, ".jp-cr-Mark") == set()
        page.keyboard.press("Control+Alt+u")
        toast = page.locator(".Toastify__toast-body")
        expect(toast.filter(has_text="x = 1")).to_be_visible()
        assert unmarked(page, ".Toastify__toast-body") == set()
