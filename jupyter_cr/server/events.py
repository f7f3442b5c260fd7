"""Events: every open page is told what happens to snapshots (jupyter_events)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

from jsonschema import ValidationError
from jupyter_events import EventLogger

from jupyter_cr.server.tasks import current_task

__all__ = ["SCHEMA_ID", "Emit", "Emitter"]

SCHEMA_ID = "https://schema.jupyter.org/jupyter_cr/snapshot/v1"

_SCHEMA = Path(__file__).parent / "event_schemas" / "snapshot" / "v1.yaml"


class Emit(Protocol):
    """Tells every open page what has happened."""

    def __call__(self, action: str, **data: Any) -> None:
        """`data` as in the event's schema."""


class Emitter:
    """Emits events of a server.

    Args:
        events: the server's event logger; gets to know our schema.
    """

    def __init__(self, events: EventLogger, log: logging.Logger | None = None) -> None:
        self._events = events
        self._log = log or logging.getLogger(__name__)
        if SCHEMA_ID not in events.schemas:
            events.register_event_schema(_SCHEMA)

    def __call__(self, action: str, **data: Any) -> None:
        """Tell all who listen. An event never makes the operation fail that it tells of.

        Args:
            action: what has happened.
            data: as in the schema; what is empty is left out, and the task that the
                caller runs in is added.
        """
        fields = {"task": current_task(), **data}
        told = {name: value for name, value in fields.items() if value not in ("", None)}
        try:
            self._events.emit(schema_id=SCHEMA_ID, data={"action": action, **told})
        except ValidationError:
            self._log.exception("An event is not as in its schema")
