"""The pictures in README.md, taken of a real JupyterLab: ``make pictures``."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, expect

from tests.conftest import ROOT, a_user
from tests.labextension.harness import Lab, LabServer, expect_enabled, lab

FOLDER = ROOT / "labextension" / "pictures"
COLOURS = 256
SCALE = 2
SETTLE_MS = 800

READ = """import pandas as pd

table = pd.read_csv("stations.csv")
table.tail(3)"""
COUNT = "len(table)"
BREAK = "table = table[table.degrees > 100]  # oops"
SHELL = """import subprocess

shell = subprocess.Popen(
    ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
log = open("run.log", "w")"""
PLOT = "axes = table.degrees.plot(figsize=(5, 2.6))"
HISTOGRAM = """axes = table.degrees.plot.hist(
    bins=30, figsize=(5, 2.6), color="C1"
)"""
SHARP = 'c.InlineBackend.figure_format = "retina"\n'
ROWS = 3000

POINTER = """() => {
    const pointer = document.createElement("div");
    pointer.id = "pointer";
    pointer.innerHTML = `<svg width="24" height="24" viewBox="0 0 24 24">
        <path d="M3 2 L3 19 L7.5 15 L10.5 22 L13.5 20.7 L10.5 14 L17 14 Z"
              fill="black" stroke="white" stroke-width="1.5"/></svg>`;
    const caption = document.createElement("div");
    caption.id = "caption";
    const style = document.createElement("style");
    style.textContent = `
        #pointer { position: fixed; z-index: 100001; pointer-events: none; }
        #caption { position: fixed; z-index: 100000; pointer-events: none; bottom: 44px;
            left: 33%; transform: translateX(-50%); padding: 10px 22px; color: white;
            border-radius: 22px; background: #333; font: 600 17px sans-serif; }
        #caption:empty { display: none; }
        .cm-cursorLayer { visibility: hidden; }`;
    document.body.append(style, pointer, caption);
}"""


def save(picture: Image.Image, name: str) -> None:
    """As a PNG of few colours: these are flat ones, and it is a third of the size."""
    few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(FOLDER / name, optimize=True)


def shot(of: Page | Locator) -> Image.Image:
    """With an edge, which a light page needs upon a light one."""
    picture = Image.open(io.BytesIO(of.screenshot())).convert("RGB")
    width, height = picture.size
    edge = ((0, 0), (width - 1, height - 1))
    ImageDraw.Draw(picture).rectangle(edge, outline="#bdbdbd", width=SCALE)
    return picture


@dataclass
class Film:
    """What somebody does, with a pointer and captions."""

    window: Lab
    frames: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    at: tuple[float, float] = (560, 420)

    def __post_init__(self) -> None:
        self.window.page.evaluate(POINTER)
        self._point(*self.at)

    def caption(self, text: str) -> None:
        self.window.page.evaluate(
            "text => { document.getElementById('caption').textContent = text; }", text
        )

    def show(self, duration_ms: int) -> None:
        self.frames.append(shot(self.window.page))
        self.durations.append(duration_ms)

    def move(self, to: Locator) -> None:
        box = to.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        from_x, from_y = self.at
        for step in range(1, 7):
            part = step / 6
            self._point(from_x + (x - from_x) * part, from_y + (y - from_y) * part)
            self.show(70)
        self.at = (x, y)

    def click(self, on: Locator) -> None:
        self.move(on)
        self.show(600)
        # The machine is still busy with the frames.
        self.window.page.wait_for_timeout(SETTLE_MS)
        self.window.page.mouse.click(*self.at)

    def save(self, name: str) -> None:
        """One palette for all frames, so that only what changes is stored."""
        palette = self._palette()
        few = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE)
            for frame in self.frames
        ]
        few[0].save(
            FOLDER / name,
            save_all=True,
            append_images=few[1:],
            duration=self.durations,
            loop=0,
            optimize=True,
            disposal=1,
        )

    def _palette(self) -> Image.Image:
        width, height = self.frames[0].size
        all_frames = Image.new("RGB", (width, height * len(self.frames)))
        for number, frame in enumerate(self.frames):
            all_frames.paste(frame, (0, height * number))
        return all_frames.quantize(COLOURS, dither=Image.Dither.NONE)

    def _point(self, x: float, y: float) -> None:
        self.window.page.mouse.move(x, y)
        self.window.page.evaluate(
            """([x, y]) => {
                const pointer = document.getElementById("pointer");
                pointer.style.left = `${x - 3}px`;
                pointer.style.top = `${y - 2}px`;
            }""",
            [x, y],
        )


def snapshot(window: Lab, path: str, name: str, note: str = "") -> None:
    """Of a notebook's kernel, as the server is asked for it."""
    sessions = window.server.get("api/sessions")
    (kernel,) = [s["kernel"]["id"] for s in sessions if s["path"] == path]
    window.server.do(f"kernels/{kernel}/checkpoint", name=name, note=note)
    expect(window.row(name)).to_be_visible()


@contextmanager
def opened(
    server: LabServer, path: str, *sources: str, size: tuple[int, int]
) -> Iterator[Lab]:
    """A window of its own for each picture, with no snapshots but its own."""
    with server.open(path, *sources, size=size, scale=SCALE) as window:
        window.open_panel()
        expect_enabled(window.button(path))
        yield window
    for snapshot in server.server.get("jupyter-cr/snapshots")["snapshots"]:
        server.server.fetch("DELETE", f"jupyter-cr/snapshots/{quote(snapshot['name'])}")


def notified(window: Lab, text: str) -> None:
    """Its notification is on the screen, and nothing moves any more."""
    expect(window.toast(text)).to_be_visible()
    expect(window.page.locator(".Toastify__toast")).to_have_count(1)
    expect(window.page.locator("[class*=slide-enter]")).to_have_count(0)
    window.page.wait_for_timeout(SETTLE_MS)


def dismiss(window: Lab) -> None:
    """No notification is on the screen."""
    toasts = window.page.locator(".Toastify__toast:not([class*=slide-exit])")
    for _ in range(toasts.count()):
        toasts.first.locator(".jp-Notification-Toast-Close").click()
        window.page.wait_for_timeout(300)
    expect(window.page.locator(".Toastify__toast")).to_have_count(0)


def take_button(server: LabServer) -> None:
    """A click on the camera, and what it says."""
    path = "weather.ipynb"
    with opened(server, path, READ, COUNT, size=(1000, 560)) as window:
        window.run_cell(path, 0, 60_000)
        window.run_cell(path, 1)
        window.button(path).click()
        notified(window, "kernel paused")
        Film(window).move(window.button(path))
        save(shot(window.page), "snapshot.png")


def take_panel(server: LabServer, name: str) -> None:
    """The list: of this notebook first, one looked into, and of another."""
    path, other = "weather.ipynb", "report.ipynb"
    server.write(other, "x = 1")
    with opened(server, path, READ, SHELL, size=(1000, 660)) as window:
        kernel = server.server.fetch("POST", "api/sessions", session_of(other))
        assert kernel[0] == 201, kernel
        snapshot(window, other, "nightly")
        window.run_cell(path, 0, 60_000)
        snapshot(window, path, "as it came")
        window.run_cell(path, 1)
        snapshot(window, path, "cleaned", "before the outliers go")
        snapshot(window, path, "monthly means", "for the report")
        window.act("cleaned", "Restore")
        cleaned = window.row("cleaned")
        expect(cleaned.locator(".jp-cr-mod-here")).to_be_visible()
        dismiss(window)
        cleaned.get_by_label("Show what is inside").click()
        expect(cleaned.get_by_text("bash")).to_be_visible()
        window.row("monthly means").hover()
        window.page.wait_for_timeout(SETTLE_MS)
        save(shot(window.panel), name)


def session_of(path: str) -> dict[str, object]:
    kernel = {"name": "python3"}
    return {"path": path, "name": path, "type": "notebook", "kernel": kernel}


def take_fork(server: LabServer) -> None:
    """A copy beside its original, each gone its own way."""
    path, fork = "stations.ipynb", "stations-1.ipynb"
    with opened(server, path, READ, PLOT, size=(1300, 660)) as window:
        window.run_cell(path, 0, 60_000)
        window.button(path).click()
        notified(window, "kernel paused")
        dismiss(window)
        window.act("stations-1", "Fork")
        window.is_idle(fork)
        dismiss(window)
        window.run_cell(path, 1, 60_000)
        editor = window.cell(fork, 1).locator(".cm-content")
        editor.click()
        editor.fill(HISTOGRAM)
        window.run_cell(fork, 1)
        window.page.wait_for_timeout(SETTLE_MS)
        save(shot(window.page), "fork.png")


def take_undo(server: LabServer) -> None:
    """Save, break something, restore."""
    path = "analysis.ipynb"
    size = (900, 560)
    with opened(server, path, READ, BREAK, COUNT, size=size) as window:
        window.run_cell(path, 0, 60_000)
        window.run_cell(path, 2)
        film = Film(window)
        film.caption("A table of 3000 rows")
        film.show(1800)
        film.caption("Save: one click")
        film.click(window.button(path))
        notified(window, "kernel paused")
        film.show(2200)
        dismiss(window)
        film.caption("Break something")
        film.click(window.cell(path, 1).locator(".cm-content"))
        window.run_cell(path, 1)
        window.run_cell(path, 2)
        film.show(2200)
        film.caption("Restore: one click")
        row = window.rows.first
        film.move(row)
        film.click(row.get_by_role("button", name="Restore"))
        notified(window, "is back at")
        film.show(2000)
        film.click(window.cell(path, 2).locator(".cm-content"))
        window.run_cell(path, 2)
        film.caption("All 3000 rows are back")
        film.show(3000)
        film.save("undo.gif")


def prepare(server: LabServer) -> None:
    """The data that is shown, and plots that are sharp."""
    home, uid = server.server.user.home, server.server.user.uid
    dice = random.Random(7)
    lines = ["station,degrees"]
    for number in range(ROWS):
        lines.append(f"{1000 + number % 40},{dice.gauss(11, 6):.1f}")
    file = server.server.root / "stations.csv"
    file.write_text("\n".join(lines) + "\n")
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text(SHARP)
    for path in (file, profile.parent, profile):
        os.chown(path, uid, uid)


def main(wanted: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for theme, names in (
        ("JupyterLab Light", ("undo.gif", "snapshot.png", "panel-light.png", "fork.png")),
        ("JupyterLab Dark", ("panel-dark.png",)),
    ):
        todo = [name for name in names if not wanted or name in wanted]
        if not todo:
            continue
        for user in a_user("ordinary"):
            with lab(user, theme) as server:
                prepare(server)
                for name in todo:
                    take(server, name)
                    size = (FOLDER / name).stat().st_size
                    print(f"{name}: {size // 1000} kB")


def take(server: LabServer, name: str) -> None:
    match name:
        case "undo.gif":
            take_undo(server)
        case "snapshot.png":
            take_button(server)
        case "fork.png":
            take_fork(server)
        case _:
            take_panel(server, name)


if __name__ == "__main__":
    main(sys.argv[1:])
