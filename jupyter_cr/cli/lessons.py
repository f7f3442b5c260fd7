"""The commands for lessons: publish, list, start, withdraw."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from jupyter_cr.cli.options import debug_option, json_option, print_json

__all__ = ["COMMANDS"]

F = TypeVar("F", bound=Callable[..., Any])


def _place_option(word: str) -> Callable[[F], F]:
    # As `jupyter_cr.lessons.LESSONS_VARIABLE`, which takes long to import.
    return click.option(
        word,
        "where",
        metavar="URL_OR_DIR",
        default="",
        help="Where lessons are. Default: $JUPYTER_CR_LESSONS.",
    )


@click.command()
@click.argument("name")
@click.option("--as", "title", metavar="TITLE", default="", help="As in: Lesson 3.")
@click.option("--note", help="Any text; the snapshot's by default.")
@click.option("--by", "publisher", default="", help="What you want to be called.")
@_place_option("--to")
@json_option
@debug_option
def publish(
    name: str, title: str, note: str | None, publisher: str, where: str, as_json: bool
) -> None:
    """Have others start from snapshot NAME, with its notebook, as a lesson.

    It is signed with your key. Whoever may read the place can read all that the kernel had
    in memory: publish what was made for it, in an account without secrets.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.lessons import Place, publish_lesson

    with progress_bar() as progress:
        result = publish_lesson(
            name,
            Place.of_environment(where),
            title=title,
            note=note,
            publisher=publisher,
            progress=progress,
        )
    if as_json:
        print_json(result)
        return
    from jupyter_cr.cli.display import size

    sys.stdout.write(
        f"Lesson {result.title} is at {result.url}: {size(result.logical)}, "
        f"{size(result.bytes)} sent\n"
    )
    for warning in result.warnings:
        sys.stderr.write(f"{warning}\n")


@click.command()
@_place_option("--at")
@json_option
@debug_option
def lessons(where: str, as_json: bool) -> None:
    """The lessons that can be started, and how often they were."""
    from jupyter_cr.lessons import Place, list_lessons

    found = list_lessons(Place.of_environment(where))
    if as_json:
        print_json(found)
        return
    from jupyter_cr.cli.display import show_lessons

    show_lessons(found)


@click.command()
@click.argument("title")
@click.option(
    "--trust",
    metavar="KEY",
    default="",
    help="Trust its publisher, whose public key that is, from now on.",
)
@_place_option("--at")
@json_option
@debug_option
def start(title: str, trust: str, where: str, as_json: bool) -> None:
    """Start lesson TITLE: a kernel of your own, in the state that was published.

    It is copied into your own store, once. In JupyterLab, the launcher does it, and opens
    the lesson's notebook, too.
    """
    from jupyter_cr.cli.progress import progress_bar
    from jupyter_cr.lessons import Place, start_lesson

    with progress_bar() as progress:
        result = start_lesson(
            title, Place.of_environment(where), trust=trust, progress=progress
        )
    if as_json:
        print_json(result)
    else:
        from jupyter_cr.cli.display import show_forked

        show_forked(result.fork)


@click.command()
@click.argument("title")
@_place_option("--from")
@json_option
@debug_option
def withdraw(title: str, where: str, as_json: bool) -> None:
    """Take lesson TITLE away. Who has started it goes on, and can still go back to its
    beginning.
    """
    from jupyter_cr.lessons import Place, withdraw_lesson

    freed = withdraw_lesson(title, Place.of_environment(where))
    if as_json:
        print_json({"title": title, "bytes": freed})
        return
    sys.stdout.write(f"Lesson {shlex.quote(title)} is withdrawn\n")


COMMANDS = (publish, lessons, start, withdraw)
