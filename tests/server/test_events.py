from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest
from jupyter_events import EventLogger

from jupyter_cr.operations import Progress
from jupyter_cr.server.events import SCHEMA_ID, Emitter
from jupyter_cr.server.tasks import Tasks


class Heard:
    """What a handler of the server's event log gets."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.logger = EventLogger(handlers=[logging.StreamHandler(self._stream)])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [
            # The log adds an empty message to those that have none.
            {k: v for k, v in json.loads(line).items() if k[:2] != "__" and v != ""}
            for line in self._stream.getvalue().splitlines()
        ]


def test_the_schema_is_one() -> None:
    logger = EventLogger()
    Emitter(logger)
    schema = logger.schemas.get(SCHEMA_ID)
    assert schema.version == "1"
    Emitter(logger)  # A server may load us twice.


def test_an_event_is_heard() -> None:
    heard = Heard()
    emit = Emitter(heard.logger)
    running = [{"msg_id": "m", "cell_id": "c"}]
    emit("restored", snapshot="s", kernel_id="k", path="a.ipynb", running=running)
    assert heard.events == [
        {
            "action": "restored",
            "snapshot": "s",
            "kernel_id": "k",
            "path": "a.ipynb",
            "running": running,
        }
    ]


def test_what_is_empty_is_left_out_but_not_what_is_zero() -> None:
    heard = Heard()
    Emitter(heard.logger)("saving", snapshot="", kernel_id=None, fraction=0.0)
    assert heard.events == [{"action": "saving", "fraction": 0.0}]


@pytest.mark.parametrize(
    "event",
    [
        {"action": "created", "snapshot": "s", "kernel_id": "k", "path": "a.ipynb"},
        {"action": "saving", "snapshot": "s", "kernel_id": "k", "fraction": 0.5},
        {"action": "durable", "snapshot": "s", "kernel_id": "k"},
        {"action": "restored", "snapshot": "s", "kernel_id": "k", "running": []},
        {"action": "forked", "snapshot": "s", "kernel_id": "k", "new_kernel_id": "n"},
        {"action": "deleted", "snapshot": "s"},
        {"action": "updated", "snapshot": "s", "former_name": "r"},
        {"action": "failed", "operation": "fork", "message": "No.", "hint": "Yes."},
    ],
    ids=lambda event: event["action"],
)
def test_all_actions(event: dict[str, Any]) -> None:
    heard = Heard()
    Emitter(heard.logger)(**event)
    assert heard.events == [event]


@pytest.mark.parametrize(
    "event",
    [
        {"action": "exploded"},
        {"action": "saving", "fraction": 2.0},
        {"action": "created", "unheard": "of"},
        {"action": "restored", "running": [{}]},
    ],
)
def test_a_wrong_one_is_logged_and_harms_nobody(
    event: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    Emitter(heard.logger)(**event)
    assert heard.events == []
    assert "not as in its schema" in caplog.text


def test_events_of_a_task_say_so() -> None:
    heard = Heard()
    emit = Emitter(heard.logger)

    async def work(progress: Progress) -> None:
        emit("saving", snapshot="s", fraction=0.5)
        raise KeyError("a bug")

    async def test() -> str:
        tasks = Tasks(emit)
        task = tasks.start("checkpoint", work, kernel_id="k")
        await asyncio.wait_for(tasks.wait(task.id), 10)
        return task.id

    task_id = asyncio.run(test())
    saving, failed = heard.events
    assert saving == {
        "action": "saving",
        "snapshot": "s",
        "fraction": 0.5,
        "task": task_id,
    }
    assert (failed["action"], failed["task"]) == ("failed", task_id)
    assert failed["operation"] == "checkpoint"
