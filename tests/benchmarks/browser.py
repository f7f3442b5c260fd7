"""What a person waits for in JupyterLab, from a click until the page shows that it is done:
measured in the page itself, in Debian's Chromium.

``python -m tests.benchmarks.browser [--repeat N]`` measures nothing else.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jupyter_cr.store import Store
from tests.benchmarks.figures import Figure, Figures, Limit, median
from tests.benchmarks.measure import Bench
from tests.benchmarks.report import Facts, to_table
from tests.conftest import ROOT, User, _environment
from tests.store.many import take_many

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.labextension.harness import Lab, LabServer

__all__ = ["measure_browser"]

_CHROMIUM = Path("/usr/bin/chromium")
_BUNDLE = ROOT / "jupyter_cr" / "labextension" / "package.json"
_PLAYED = 2
"""Times that each thing is done before it counts: code is loaded then, by either side."""
_COUNT = 5000
_MOST_MS = 60_000
_SNAPSHOT_MS, _FORK_MS, _PANEL_MS = 300, 1500, 300
_SIZES = {"idle": (0, 700), "1 GiB, warm": (1024, 900)}
"""MiB of random bytes, and the target for a restore in ms."""
_FILL = "import os; data = [os.urandom(1 << 20) for _ in range({mib})]; x = 1"
_PATH = "bench.ipynb"
_NAME = "bench-1"
"""That JupyterLab gives, where all others have been deleted."""

# Has the time noted from the next click, wherever that is, until something is true.
_WATCH = """async ([source, argument, most]) => {
    const isDone = eval(source);
    window.benchTook = new Promise((resolve, reject) => {
        const begin = () => {
            const began = performance.now();
            const look = () => {
                const took = performance.now() - began;
                if (isDone(argument)) {
                    resolve(took);
                } else if (took > most) {
                    reject(new Error('not done'));
                } else {
                    requestAnimationFrame(look);
                }
            };
            look();
        };
        document.addEventListener('pointerdown', begin, { capture: true, once: true });
    });
}"""
_TOLD = """text => [...document.querySelectorAll('.Toastify__toast')]
    .some(toast => toast.textContent.includes(text))"""
_SHOWN = """() => document.querySelectorAll('#jupyter-cr-panel .jp-cr-Row').length > 5"""
_FORKED = """path => [...window.jupyterapp.shell.widgets('main')].some(widget =>
    widget.context?.path === path
    && widget.sessionContext.session?.kernel?.status === 'idle')"""

# The same, and then a cell: until its output is there.
_THEN_RUN = """source => {
    const isDone = eval(source);
    let prompt = null;
    let isRun = false;
    return argument => {
        if (!isDone(argument)) {
            return false;
        }
        if (prompt === null) {
            prompt = '';
            const { commands } = window.jupyterapp;
            commands.execute('notebook:run-cell').then(() => { isRun = true; });
        }
        return isRun;
    };
}"""
_RESTART = """async () => {
    const began = performance.now();
    const { commands, shell } = window.jupyterapp;
    await shell.currentWidget.sessionContext.session.kernel.restart();
    await commands.execute('notebook:run-cell');
    return performance.now() - began;
}"""
_LIST = """async url => {
    const began = performance.now();
    const page = await (await fetch(url)).json();
    return performance.now() - began;
}"""


def measure_browser(bench: Bench) -> None:
    """All of it, or why not."""
    if missing := _missing():
        bench.say(f"in the browser: left out, {missing}")
        bench.figures.add(
            Figure(name="in the browser", workload="JupyterLab", unit="ms", note=missing)
        )
        return
    for workload, (mib, target) in _SIZES.items():
        bench.say(f"in the browser: {workload}")
        with bench.figures.unless_it_fails("in the browser", workload):
            _measure_kernel(bench, workload, mib, target)
    bench.say(f"in the browser: {_COUNT:,} snapshots")
    with bench.figures.unless_it_fails("in the browser", f"of {_COUNT:,}"):
        _measure_panel(bench)


def _missing() -> str:
    if not _CHROMIUM.is_file():
        return "Chromium is not installed: apt-get install chromium"
    if find_spec("playwright") is None or find_spec("jupyterlab") is None:
        return "JupyterLab and Playwright are not installed: make labextension"
    if not _BUNDLE.is_file():
        return "the extension is not built: make labextension"
    return ""


@contextmanager
def _jupyterlab(directory: Path) -> Iterator[LabServer]:
    from tests.labextension.harness import lab

    user = User("me", os.geteuid(), (), sys.executable, directory, _environment(directory))
    with lab(
        user, "JupyterLab Light", None, "--LabApp.expose_app_in_browser=True"
    ) as server:
        yield server


@contextmanager
def _home(bench: Bench) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="browser-", dir=bench.home) as name:
        yield Path(name)


def _from_click(
    window: Lab, click: Callable[[], None], done: str, about: str = ""
) -> float:
    """Milliseconds; `done`: a function, of JavaScript, that is asked in each frame."""
    window.page.evaluate(_WATCH, [done, about, _MOST_MS])
    click()
    return float(window.page.evaluate("() => window.benchTook"))


def _then_run(done: str) -> str:
    return f"({_THEN_RUN})({done!r})"


def _measure_kernel(bench: Bench, workload: str, mib: int, target: float) -> None:
    found: dict[str, list[float]] = {}
    with (
        _home(bench) as home,
        _jupyterlab(home) as server,
        server.open(_PATH, "x = 1", _FILL.format(mib=mib)) as window,
    ):
        window.open_panel()
        window.run_cell(_PATH, 1, _MOST_MS)
        kernel = _kernel_of(window, _PATH)
        for number in range(bench.repeat + _PLAYED):
            took = _round(window, kernel, is_warm=mib > 0)
            if number >= _PLAYED:
                for name, ms in took.items():
                    found.setdefault(name, []).append(ms)
        window.cell(_PATH, 0).locator(".cm-content").click()
        restarts = [float(window.page.evaluate(_RESTART)) for _ in range(bench.repeat + 1)][
            1:
        ]
    limit = Limit("a plain restart of the kernel", median(restarts))
    targets = {"click on Snapshot": _SNAPSHOT_MS, "restore": target, "fork": _FORK_MS}
    for name, samples in found.items():
        kind = next(kind for kind in targets if name.startswith(kind))
        is_meant = not (mib and kind == "click on Snapshot")
        bench.figures.add(
            Figure(
                name=f"in the browser: {name}",
                workload=workload,
                unit="ms",
                samples=tuple(samples),
                target=targets[kind] if is_meant else None,
                limit=limit,
            )
        )


def _round(window: Lab, kernel: str, *, is_warm: bool) -> dict[str, float]:
    """Save, go back, open a copy; everything is cleared away again."""
    took = {}
    if is_warm:
        window.server.do(f"kernels/{kernel}/checkpoint", name=_NAME, warm=True)
    else:
        took["click on Snapshot, until it is told"] = _from_click(
            window, window.button(_PATH).click, _TOLD, f"“{_NAME}”"
        )
    row = window.row(_NAME)
    row.wait_for()
    window.cell(_PATH, 0).locator(".cm-content").click()
    took["restore, until a cell has run"] = _from_click(
        window, lambda: _act(row, "Restore"), _then_run(_TOLD), f"back at “{_NAME}”"
    )
    took["fork, until its kernel is idle"] = _from_click(
        window, lambda: _act(row, "Fork"), _FORKED, f"{_NAME}.ipynb"
    )
    _clear(window, kernel)
    return took


def _act(row: Locator, action: str) -> None:
    row.hover()
    row.locator(f'.jp-cr-Action[aria-label^="{action}"]').click()


def _clear(window: Lab, kernel: str) -> None:
    """Without forks, notifications and snapshots again."""
    from playwright.sync_api import expect

    for session in window.server.get("api/sessions"):
        if session["kernel"]["id"] != kernel:
            window.server.fetch("DELETE", f"api/sessions/{session['id']}")
            window.server.fetch("DELETE", f"api/contents/{quote(session['path'])}")
    window.page.evaluate(
        """path => {
            for (const widget of [...window.jupyterapp.shell.widgets('main')]) {
                if (widget.context && widget.context.path !== path) {
                    widget.dispose();
                }
            }
        }""",
        _PATH,
    )
    for snapshot in window.server.get("jupyter-cr/snapshots?limit=0")["snapshots"]:
        window.server.fetch("DELETE", f"jupyter-cr/snapshots/{quote(snapshot['name'])}")
    expect(window.rows).to_have_count(0)
    # They come one after the other, and go as slowly.
    expect(window.page.locator(".Toastify__toast")).to_have_count(0, timeout=_MOST_MS)
    window.is_idle(_PATH)


def _kernel_of(window: Lab, path: str) -> str:
    sessions: list[Any] = window.server.get("api/sessions")
    (kernel,) = [s["kernel"]["id"] for s in sessions if s["path"] == path]
    return str(kernel)


def _measure_panel(bench: Bench) -> None:
    opened, listed = [], []
    with _home(bench) as home:
        take_many(Store(home / "store"), _COUNT)
        with _jupyterlab(home) as server:
            server.write(_PATH, "x = 1")
            for _ in range(bench.repeat):
                # Another window each time: a panel that was opened once is there.
                with server.open(_PATH) as window:
                    tab = window.page.locator('[data-id="jupyter-cr-panel"]')
                    opened.append(_from_click(window, tab.click, _SHOWN))
                    url = f"{window.server.url}jupyter-cr/snapshots?limit=0"
                    listed.append(float(window.page.evaluate(_LIST, url)))
    for name, samples, target in (
        ("panel opens", opened, _PANEL_MS),
        ("all are listed by the server", listed, None),
    ):
        bench.figures.add(
            Figure(
                name=f"in the browser: {name}",
                workload=f"of {_COUNT:,}",
                unit="ms",
                samples=tuple(samples),
                target=target,
            )
        )


def main() -> None:
    """Measure this alone, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    # So that server, kernels and browser are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-bench-", dir="/dev/shm") as name:
        bench = Bench(
            Path(name), repeat, Figures(), lambda text: print(text, file=sys.stderr)
        )
        measure_browser(bench)
    to_table(Facts.here(repeat), bench.figures.found)


if __name__ == "__main__":
    main()
