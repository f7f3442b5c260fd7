"""Magics for IPython, in kernels and in terminals: ``%load_ext jupyter_cr``.

``%checkpoint``, ``%%checkpoint``, ``%snapshots``, ``%restore``, ``%reset_to``, ``%fork``,
``%%fork``, ``%undo``, ``%diff``.
"""

# IPython's decorators have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from traitlets import Enum, observe

from jupyter_cr import api
from jupyter_cr.errors import CheckpointRestoreError, UsageError
from jupyter_cr.glue.ipython import ShellGlue

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

    from jupyter_cr.glue.comparison import Differences
    from jupyter_cr.glue.rollback import Rollback

__all__ = ["CheckpointMagics", "load_ipython_extension", "unload_ipython_extension"]

_NAMED = ("restore", "fork", "diff")
"""Magics whose argument is a snapshot's name."""


@contextmanager
def _shown_plainly() -> Iterator[None]:
    """Our errors as a person wants them: what happened and the next step, without the
    way through our code (IPython's InteractiveShell.showtraceback)."""
    try:
        yield
    except CheckpointRestoreError as error:
        if "_render_traceback_" in vars(error):
            # It is a cell's own, from a fork.
            raise
        _show_as(error, f"{type(error).__name__}: {error}")
        raise


def _show_as(error: BaseException, text: str) -> None:
    vars(error)["_render_traceback_"] = lambda: [text]


@magics_class
class CheckpointMagics(Magics):
    """Snapshots of the process that IPython runs in."""

    reseed = Enum(
        ("never", "fork", "restore"),
        default_value="never",
        help="""After which event `random` and NumPy's global generator get new seeds:
        `never`, so that a restore and a fork repeat the same numbers; `fork`, so that
        forks differ; `restore`, so that each restore differs, too.""",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell, **traits: Any) -> None:
        super().__init__(shell=shell, **traits)
        self._take_policy()

    @observe("reseed")
    def _take_policy(self, change: object = None) -> None:
        api.reseed_after(cast(api.Reseed, self.reseed))

    @magic_arguments()
    @argument("name", nargs="?", help="of the snapshot; one is made up if there is none")
    @argument("-m", "--note", nargs="+", default=[], help="any words")
    @argument(
        "-w", "--warm", action="store_true", help="keep a copy in memory, for quick forks"
    )
    @argument(
        "-r",
        "--rollback",
        action="store_true",
        help="%%%%checkpoint only: restore the snapshot if the cell raises",
    )
    @argument(
        "--auto",
        choices=("on", "off"),
        help="a snapshot in memory before each cell from now on, to undo it; or no more",
    )
    @line_cell_magic
    def checkpoint(self, line: str, cell: str | None = None) -> api.Checkpoint | None:
        """Take a snapshot of this kernel, and with %%checkpoint then run the cell.

        The result says whether this is the original, or a copy that was restored or
        forked: the cell is run in the original only.
        """
        arguments = parse_argstring(self.checkpoint, line)
        if arguments.auto is not None:
            with _shown_plainly():
                if cell is not None:
                    raise UsageError(
                        "--auto is for all cells from now on, and not for one.",
                        f"In a line of its own: %checkpoint --auto {arguments.auto}",
                    )
                api.timeline(arguments.auto == "on")
            return None
        if arguments.rollback and cell is None:
            with _shown_plainly():
                raise UsageError(
                    "--rollback is for a cell that may fail.",
                    "Begin the cell with %%checkpoint --rollback.",
                )
        rollback = self._rollback() if arguments.rollback else None
        with _shown_plainly():
            taken = api.checkpoint(
                arguments.name, _unquoted(arguments.note), warm=arguments.warm
            )
        if cell is None or not taken.is_original:
            if rollback is not None and (error := rollback.find()) is not None:
                print(  # noqa: T201 - that is how a magic speaks
                    f"The cell failed. This is snapshot {taken.name!r}, from before it.",
                    file=sys.stderr,
                )
                raise error
            return taken
        for warning in taken.warnings:
            print(warning, file=sys.stderr)  # noqa: T201 - that is how a magic speaks
        if rollback is None:
            self._run(cell, taken.name)
        else:
            self._run_or_go_back(cell, taken.name, rollback)
        return None

    def _rollback(self) -> Rollback:
        # Imported where needed: by few.
        from jupyter_cr.glue.rollback import Rollback

        return Rollback()

    def _run_or_go_back(self, cell: str, snapshot: str, rollback: Rollback) -> None:
        from jupyter_cr.glue.forking.running import telling

        assert self.shell is not None
        told: list[str] = []
        with telling(self.shell, told):
            result: ExecutionResult = self.shell.run_cell(cell, store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is None:
            return
        if not isinstance(error, KeyboardInterrupt):
            try:
                rollback.leave(error, tuple(told))
                # What had raised may have changed anything: not worth keeping.
                api.restore(snapshot, keep=False)
            except CheckpointRestoreError as failure:
                rollback.forget()
                print(  # noqa: T201 - that is how a magic speaks
                    f"The cell failed, and what it has changed is still so: {failure}",
                    file=sys.stderr,
                )
        _show_as(error, "\n".join(told))
        raise error

    def _run(self, cell: str, snapshot: str) -> None:
        assert self.shell is not None
        result: ExecutionResult = self.shell.run_cell(cell, store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is None:
            return
        # The traceback has been shown. Raised again so that what comes after this cell,
        # as in "Run All", does not run.
        _show_as(error, f"%restore {snapshot} brings back what was before this cell.")
        raise error

    @line_magic
    def snapshots(self, line: str) -> api.Snapshots:
        """List all snapshots, newest first."""
        with _shown_plainly():
            _expect_nothing("snapshots", line)
            return api.snapshots()

    @magic_arguments()
    @argument("before", help="a snapshot's name")
    @argument("after", nargs="?", help="another one's; what runs now, if there is none")
    @line_magic
    def diff(self, line: str) -> Differences:
        """How one snapshot differs from another, or what runs now from a snapshot."""
        arguments = parse_argstring(self.diff, line)
        with _shown_plainly():
            return api.diff(arguments.before, arguments.after)

    @magic_arguments()
    @argument("name", help="of the snapshot")
    @argument("--discard", action="store_true", help="do not keep what runs now")
    @line_magic
    def restore(self, line: str) -> api.Checkpoint:
        """Put a snapshot in place of what runs now, which is kept as another snapshot."""
        arguments = parse_argstring(self.restore, line)
        with _shown_plainly():
            return api.restore(arguments.name, keep=not arguments.discard)

    @magic_arguments()
    @argument("name", nargs="?", help="%%fork only: of the snapshot")
    @argument("--keep", metavar="NAME", help="%%%%fork only: keep the fork as a snapshot")
    @argument(
        "--adopt",
        action="store_true",
        help="%%%%fork only: if the cell succeeds, the fork takes this kernel's place",
    )
    @argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="%%%%fork only: end it if it takes longer",
    )
    @line_cell_magic
    def fork(self, line: str, cell: str | None = None) -> api.Fork | None:
        """Bring a snapshot back beside this kernel, as a kernel of its own; with %%fork
        run the cell in a fork of this kernel, as it is now, which then ends.

        What the cell prints, shows and raises is shown here; what it changes is not
        changed here.
        """
        arguments = parse_argstring(self.fork, line)
        with _shown_plainly():
            if cell is not None:
                _require(not arguments.name, "A cell runs in a fork of this very kernel.")
                self._run_in_fork(cell, arguments)
                return None
            is_for_cell = arguments.keep or arguments.adopt or arguments.timeout
            _require(not is_for_cell, "--keep, --adopt and --timeout are for a cell.")
            _require(bool(arguments.name), "A fork of which snapshot?")
            if self._is_terminal:
                raise UsageError(
                    "A fork of IPython in a terminal would read from this terminal, too.",
                    "%restore puts the snapshot in its place. Kernels can be forked.",
                )
            return api.fork(str(arguments.name))

    @property
    def _is_terminal(self) -> bool:
        return getattr(self.shell, "kernel", None) is None

    def _run_in_fork(self, cell: str, arguments: Namespace) -> None:
        from jupyter_cr.glue.forking.cells import run_in_fork

        if self._is_terminal and (arguments.keep or arguments.adopt):
            raise UsageError(
                "A fork of IPython in a terminal has no terminal of its own.",
                "%%fork runs the cell and ends it. Forks of kernels can be kept.",
            )
        outcome = run_in_fork(
            cell,
            keep=arguments.keep or "",
            adopt=arguments.adopt,
            timeout=arguments.timeout,
        )
        if outcome is not None and outcome.error is not None:
            # The traceback is that of the fork.
            raise outcome.error

    @magic_arguments()
    @argument("name", nargs="*", help="of another snapshot")
    @argument("--discard", action="store_true", help="do not keep what there is now")
    @line_magic
    def reset_to(self, line: str) -> api.Checkpoint:
        """Bring this kernel and its notebook back to the beginning of the lesson that they
        were started from. What there is now is kept as a snapshot."""
        arguments = parse_argstring(self.reset_to, line)
        with _shown_plainly():
            return api.reset_to(_unquoted(arguments.name), keep=not arguments.discard)

    @magic_arguments()
    @argument("steps", nargs="?", type=int, default=1, help="1 for the latest snapshot")
    @line_magic
    def undo(self, line: str) -> api.Checkpoint:
        """Restore the latest snapshot of this kernel, or one before it."""
        arguments = parse_argstring(self.undo, line)
        with _shown_plainly():
            return api.undo(arguments.steps)


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise UsageError(otherwise, "%fork NAME, or a cell that begins with %%fork.")


def _expect_nothing(magic: str, line: str) -> None:
    if line.strip():
        raise UsageError(f"%{magic} takes no arguments, not {line.strip()!r}.")


def _unquoted(words: list[str]) -> str:
    """`magic_arguments` leaves quotation marks where they are."""
    text = " ".join(words)
    for mark in "\"'":
        if len(text) > 1 and text[0] == text[-1] == mark:
            return text[1:-1]
    return text


@context_matcher(identifier="jupyter_cr.snapshot_names")
def _match_names(context: CompletionContext) -> SimpleMatcherResult:
    """Names of snapshots behind %restore, %fork and %diff."""
    words = context.text_until_cursor.lstrip().split(" ")
    names: list[str] = []
    if words[0].lstrip("%") in _NAMED and len(words) > 1:
        # Completion is no place to complain.
        with suppress(CheckpointRestoreError):
            names = [s.name for s in api.snapshots() if s.name.startswith(context.token)]
    completions = [SimpleCompletion(text=name, type="snapshot") for name in names]
    return cast(
        SimpleMatcherResult, {"completions": completions, "suppress": bool(completions)}
    )


_loaded: dict[int, ShellGlue] = {}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by IPython for ``%load_ext jupyter_cr`` and ``--ext=jupyter_cr``."""
    glue = ShellGlue(shell)
    shell.register_magics(CheckpointMagics(shell))
    shell.Completer.custom_matchers.append(_match_names)
    _loaded[id(shell)] = glue
    for problem in glue.install():
        shell.log.warning(problem)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by IPython for ``%unload_ext jupyter_cr``."""
    if (glue := _loaded.pop(id(shell), None)) is not None:
        glue.uninstall()
        shell.Completer.custom_matchers.remove(_match_names)
