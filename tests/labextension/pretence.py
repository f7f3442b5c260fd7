"""What a server could say, where it takes too long to have it say so."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Route, expect

from tests.labextension.harness import IDLE, Lab

__all__ = ["pretend_refused", "show_many"]


_STATES = {7: "corrupt", 8: "warm", 9: "saving", 11: "locked"}


def a_snapshot(number: int, prefix: str) -> dict[str, Any]:
    minutes, seconds = divmod(number, 60)
    hours, minutes = divmod(minutes, 60)
    return {
        "name": f"{prefix}{number:04}",
        "id": f"{number:016x}",
        "state": {7: "corrupt", 8: "warm", 9: "saving", 11: "locked"}.get(
            number, "durable"
        ),
        "saved": 0.4 if number == 9 else 1.0,
        "created": f"2026-11-24T{hours:02}:{minutes:02}:{seconds:02}+00:00",
        "bytes": 40_000_000 + number,
        "logical": 90_000_000,
        "own": 1_000_000 + number,
        "shared": 39_000_000,
        "named": number % 3 > 0,
        "parent": f"{prefix}{number - 1:04}" if number % 50 else "",
        "tags": ["paper", "final"] if number % 10 == 0 else [],
        "trusted": number != 12,
        "signer": "",
        "note": "with the cleaned table" if number % 10 == 0 else "",
        "kernel_id": f"0-0-0-0-{number // 50}",
        "kernel_name": "python3",
        "path": f"analysis/model-{number // 50}.ipynb",
        "has_document": True,
        "automatic": "before restore"
        if number % 5 == 0
        else "hibernated"
        if number % 50 == 49
        else "",
        "pid": 1,
        "comm": "python3",
        "processes": 1 + number % 3,
        "downtime_ms": 12.5,
        "cell": f"[{number}] table = table.dropna()",
        "problem": "page 3 is damaged" if number == 7 else "",
    }


def show_many(window: Lab, count: int, prefix: str = "snapshot ") -> None:
    """Have the server say that there are as many, the next time that it is asked."""
    snapshots = [a_snapshot(number, prefix) for number in reversed(range(count))]
    body = json.dumps({"snapshots": snapshots, "total": count, "positions": {}})

    def answer(route: Route) -> None:
        route.fulfill(content_type="application/json", body=body)

    window.page.route(re.compile(r"jupyter-cr/snapshots\?"), answer)
    window.page.reload()
    expect(window.page.locator("#jp-main-statusbar")).to_contain_text(IDLE)
    window.open_panel()


_REFUSED = {
    "can_checkpoint": False,
    "can_restore": False,
    "missing": ["ptrace"],
    "items": [
        {
            "name": "ptrace",
            "ok": False,
            "required_for": "checkpoints",
            "detail": "PTRACE_SEIZE: Operation not permitted",
            "advice": "Set kernel.yama.ptrace_scope to 0: `sudo sysctl "
            "kernel.yama.ptrace_scope=0`",
        }
    ],
}


def pretend_refused(window: Lab) -> None:
    """Have the server say that Linux does not permit it."""
    window.page.route(
        re.compile(r"jupyter-cr/capabilities"),
        lambda route: route.fulfill(json=_REFUSED),
    )
    window.page.reload()
