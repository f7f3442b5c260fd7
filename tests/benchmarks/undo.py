"""A notebook on a real server, whose cells can be undone: by nobody, by the timeline, or by
Kishu, where that is installed in the kernel's environment."""

from __future__ import annotations

import ast
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dateutil import parser

from tests.benchmarks.kernel import pss
from tests.engine.harness import wait_until
from tests.server.harness import FrontEnd, Server, notebook

__all__ = ["Kishu", "Plain", "Timeline", "Undone", "UndoneError", "opened", "settled_bytes"]

LIMIT = 60.0
CHECK_LIMIT = 20.0
_MEASURED = 6.0
"""Seconds after which a timeline has measured its memory."""


class UndoneError(Exception):
    """Going back, or what makes it possible, has failed: what was said."""


class Plain:
    """Without any undo: one starts over."""

    name = "plain"

    def __init__(self, server: Server, kernel: str, cells: tuple[str, ...]) -> None:
        self.server = server
        self.cells = cells
        self.directory = server.root / f"{self.name}-{uuid.uuid4().hex[:8]}"
        self.directory.mkdir()
        os.chown(self.directory, server.user.uid, server.user.uid)
        self.path = self.directory / "a.ipynb"
        server.fetch("PUT", f"api/contents/{self._relative}", self._document)
        self.id = server.open_notebook(self._relative, kernel)
        self.front_end: FrontEnd = server.front_end(self.id)
        self.pid = int(self.ask("__import__('os').getpid()"))
        self.said: list[str] = []
        self.attach()

    @property
    def _relative(self) -> str:
        return str(self.path.relative_to(self.server.root))

    @property
    def _document(self) -> dict[str, object]:
        return {"type": "notebook", "content": notebook(*self.cells)}

    def attach(self) -> None:
        """Begin, before the first cell."""

    def run(self, code: str) -> float:
        """Milliseconds from sending a cell until the kernel was idle; it must not raise."""
        began = time.time()
        return self._ended(self.front_end.execute(code), LIMIT) - began * 1e3

    def run_all(self) -> float:
        """All cells at once; milliseconds for each."""
        began = time.time()
        requests = [self.front_end.execute(cell) for cell in self.cells]
        ended = [self._ended(request, LIMIT * 2) for request in requests]
        return (ended[-1] - began * 1e3) / len(requests)

    def back_and_run(self) -> float:
        """Milliseconds from asking for the state before the last cell until the next one
        has been run.

        Raises:
            UndoneError
        """
        began = time.time()
        self.back()
        return self._ended(self.front_end.execute("None"), LIMIT) - began * 1e3

    def _ended(self, request: str, limit: float) -> float:
        """When the kernel had run a cell, as it says, in milliseconds. On the way from the
        server to us small messages may wait for 40 ms (Nagle's algorithm, tcp(7))."""
        reply = self.front_end.reply(request, limit)
        errors = [m["content"] for m in reply.messages if m["msg_type"] == "error"]
        self.said = list(dict.fromkeys(f"{e['ename']}: {e['evalue']}" for e in errors))
        if reply.status != "ok":
            raise UndoneError(f"{reply.content.get('ename', 'not run')}")
        dates = [m["header"]["date"] for m in reply.messages if m["msg_type"] == "status"]
        return parser.isoparse(dates[-1]).timestamp() * 1e3

    def settle(self) -> None:
        """Wait until the last cell can be undone, as while a person reads.

        Raises:
            UndoneError: it cannot be.
        """

    def back(self) -> None:
        """To before the last cell.

        Raises:
            UndoneError
        """
        path = f"api/kernels/{self.id}/restart"
        assert self.server.fetch("POST", path)[0] == 200
        for cell in self.cells[:-1]:
            self.run(cell)

    def revive(self) -> None:
        """The last cell has ended the kernel, and the server has begun another: wait
        until one can go back."""
        front_end = self.front_end
        wait_until(lambda: "restarting" in front_end.states(), "it is restarted")

    def ask(self, expression: str, limit: float = LIMIT, code: str = "") -> str:
        """repr() of an expression's value, after some code; not a cell.

        Raises:
            UndoneError: it raises, or does not end.
        """
        content = {
            "code": code,
            "silent": True,
            "store_history": False,
            "user_expressions": {"value": expression},
            "allow_stdin": False,
        }
        front_end = self.front_end
        request = front_end.send("execute_request", content)

        def replies(_: object) -> list[dict[str, Any]]:
            return [m for m in front_end.of(request) if m["channel"] == "shell"]

        try:
            (reply,) = front_end.wait_for(replies, "value", limit)
        except AssertionError:
            raise UndoneError("does not answer") from None
        value = reply["content"].get("user_expressions", {}).get("value", reply["content"])
        if value["status"] != "ok":
            raise UndoneError(f"{value.get('ename')}: {value.get('evalue')}")
        return str(value["data"]["text/plain"])

    def stored(self) -> int:
        """Bytes on disk."""
        return 0

    def memory(self) -> int:
        """Bytes, this kernel's."""
        return pss(self.pid)

    def close(self) -> None:
        self.front_end.close()
        self.server.fetch("DELETE", f"api/kernels/{self.id}")
        shutil.rmtree(self.directory, ignore_errors=True)


class Timeline(Plain):
    """jupyter-cr's, as by the clock in the toolbar or ``%checkpoint --auto on``."""

    name = "jupyter-cr"

    def attach(self) -> None:
        self._store = Path(self.server.user.environment["JUPYTER_CR_HOME"])
        self._before = _disk(self._store)
        self._switch(True)
        self.settle()

    def _switch(self, is_on: bool) -> None:
        path = f"jupyter-cr/kernels/{self.id}/timeline"
        assert self.server.fetch("PUT", path, {"is_on": is_on})[0] == 200

    @property
    def timeline(self) -> dict[str, Any]:
        return dict(self.server.get(f"jupyter-cr/kernels/{self.id}/timeline"))

    def settle(self) -> None:
        def at_base() -> bool:
            now = self.timeline
            if now["problem"]:
                raise UndoneError(str(now["problem"]))
            return bool(now["base"]) and not now["since"]

        wait_until(at_base, "a point")

    def back(self) -> None:
        try:
            self.server.do(f"kernels/{self.id}/timeline/travel", steps=-1)
        except AssertionError as error:
            raise UndoneError(str(error)) from None

    def revive(self) -> None:
        super().revive()

        def has_died() -> bool:
            now = self.timeline
            runs = [run for point in now["points"] for run in point["runs"]]
            return any(run["outcome"] == "died" for run in runs + now["since"])

        wait_until(has_died, "that is noticed")

    def stored(self) -> int:
        return _disk(self._store) - self._before

    def memory(self) -> int:
        """Of its points; of which the kernel's own is no part."""
        return int(self.timeline["bytes"])

    def close(self) -> None:
        with suppress(AssertionError):
            self._switch(False)
        super().close()


class Kishu(Plain):
    """One commit for each cell. It does not wait for a page that saves the notebook, as it
    does in a browser: that is left out in its favour (`test_mode`)."""

    name = "Kishu"

    def attach(self) -> None:
        self.commits: list[str | None] = []
        """For each cell; None: it failed to make one."""
        self._problem = ""
        self._init()

    def _init(self) -> None:
        """As its menu and ``kishu init`` do: not in a cell."""
        code = f"from kishu import init_kishu; init_kishu({str(self.path)!r})"
        self.ask("str(_kishu)", code=code)

    def run(self, code: str) -> float:
        took = super().run(code)
        self._note()
        return took

    def _note(self) -> None:
        head = self.ask("_kishu._kishu_branch.get_head().commit_id")
        commit = ast.literal_eval(head)
        is_new = commit and commit not in self.commits
        self.commits.append(commit if is_new else None)
        if not is_new:
            self._problem = " ".join(self.said)

    def back(self) -> None:
        # The last cell has no commit where it has ended the kernel.
        before = self.commits[len(self.cells) - 2]
        if before is None:
            raise UndoneError(f"no commit: {self._problem}")
        self.ask(f"_kishu.checkout({before!r})", LIMIT * 2)

    def revive(self) -> None:
        super().revive()
        self.front_end.close()
        self.front_end = self.server.front_end(self.id)
        self._init()

    def stored(self) -> int:
        return sum(path.stat().st_size for path in self.directory.glob("*.kishudb*"))


def settled_bytes(subject: Plain) -> int:
    """What it takes in memory, once that has been measured."""
    if isinstance(subject, Timeline):
        time.sleep(_MEASURED)
        subject.run("None")
        subject.settle()
        time.sleep(2)
    return subject.memory()


@contextmanager
def opened(subject: Plain) -> Iterator[Plain]:
    """Gone at the end, with its kernel, its files, and what was kept for it."""
    try:
        yield subject
    finally:
        subject.close()


def _disk(directory: Path) -> int:
    """Bytes that the files take."""
    found = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            found += path.lstat().st_blocks * 512
    return found


Undone = type[Plain]
