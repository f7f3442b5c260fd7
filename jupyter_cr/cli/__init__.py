"""The command line: ``jupyter-cr``, or ``jupyter cr``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jupyter_cr.errors import CheckpointRestoreError, EngineError, UsageError

if TYPE_CHECKING:
    import click

__all__ = ["main"]

_INTERRUPTED = 130
_CUT_OFF = 141
"""As shells have it: 128 + SIGINT, 128 + SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; default: this process's.

    Returns:
        The exit code: 0, or that of the error (`jupyter_cr.errors`).
    """
    import click

    if arguments is None:
        # The process ends with the command; among 100,000 records, looking for cycles
        # takes as long as all else.
        gc.disable()

    from jupyter_cr.cli.commands import cr

    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = cr.main(words, prog_name="jupyter-cr", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        failure: CheckpointRestoreError = _usage_error(error)
    except CheckpointRestoreError as error:
        if "--debug" in words:
            raise
        failure = error
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has gone (`| head`); what is left to flush at exit has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CUT_OFF
    except Exception as error:
        if "--debug" in words:
            raise
        failure = EngineError(
            f"{type(error).__name__}: {error}",
            "This is a bug. Please report it with what `jupyter-cr --debug ...` prints.",
        )
    _report(failure, as_json="--json" in words)
    return failure.exit_code


def _usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "jupyter-cr"
    return UsageError(error.format_message(), f"{path} --help tells more.")


def _report(error: CheckpointRestoreError, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        facts = {
            "error": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        sys.stderr.write(msgspec.json.encode(facts).decode() + "\n")
    else:
        sys.stderr.write(f"{error}\n")
