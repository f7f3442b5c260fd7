"""What all commands have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

__all__ = ["debug_option", "json_option", "print_json"]

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def debug_option(function: F) -> F:
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(function)


def print_json(value: object) -> None:
    sys.stdout.write(
        msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
    )
