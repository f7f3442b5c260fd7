"""What IPython and ipykernel need before a snapshot, and after a restore or a fork."""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from typing import TYPE_CHECKING, Any

from jupyter_cr.glue import builtin, control
from jupyter_cr.glue.card import show_card, withdraw_card
from jupyter_cr.glue.hooks import (
    catch_up,
    load_entry_points,
    on_checkpoint,
    on_fork,
    on_restore,
    unregister,
)
from jupyter_cr.glue.queue import WaitingCells
from jupyter_cr.tracer import yama

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["ShellGlue"]

_PIPE_LIMIT_S = 2.0


class ShellGlue:
    """Ties one IPython shell to us, in a kernel or in a terminal."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell: Any = shell
        self._kernel: Any = getattr(shell, "kernel", None)
        self._reported: tuple[str, ...] = ()
        self._waiting: WaitingCells | None = None

    def install(self) -> tuple[str, ...]:
        """Register hooks, and show the calling card of a kernel.

        Returns:
            Sentences: libraries' hooks that cannot be had.
        """
        builtin.install()
        on_checkpoint(self._write_history)
        if yama.is_asked_for():
            self._let_trace()
        for register in (on_restore, on_fork):
            register(self._begin_history)
            register(self._begin_session)
        on_fork(self._renew_pipe)
        # Where nobody sends a message, the next cell notices.
        self._shell.events.register("pre_run_cell", self._before_cell)
        if self._kernel is not None and hasattr(self._kernel, "control_handlers"):
            self._waiting = WaitingCells(self._kernel)
            self._waiting.install()
            control.install(self._kernel, self._waiting)
            show_card()
        return load_entry_points()

    def _let_trace(self) -> None:
        """Neither children nor copies inherit it."""
        yama.let_everybody_trace()
        on_restore(yama.let_everybody_trace)
        on_fork(yama.let_everybody_trace)
        os.register_at_fork(after_in_child=yama.let_everybody_trace)

    def uninstall(self) -> None:
        """Undo it, but for what libraries have registered."""
        withdraw_card()
        if self._kernel is not None and hasattr(self._kernel, "control_handlers"):
            control.uninstall(self._kernel)
            if self._waiting is not None:
                self._waiting.uninstall()
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        for hook in (
            self._write_history,
            self._begin_history,
            self._begin_session,
            self._renew_pipe,
        ):
            unregister(hook)

    def _before_cell(self, info: object) -> None:
        problems = catch_up()
        if problems is not self._reported:
            self._reported = problems
            for problem in problems:
                warnings.warn(problem, RuntimeWarning, stacklevel=2)

    def _write_history(self) -> None:
        """Lines that wait to be written would be written by every copy."""
        self._shell.history_manager.writeout_cache()

    def _begin_history(self) -> None:
        """The history file knows lines of this session already that come after the
        snapshot, or will get them from another fork; so go on in a new session.
        Otherwise IPython does that by itself, with an error message in the output of
        some cell (HistoryManager.writeout_cache)."""
        self._shell.history_manager.new_session()

    def _begin_session(self) -> None:
        """Messages are numbered within a session, and no number may come twice (Jupyter's
        "General Message Format")."""
        if self._kernel is not None and getattr(self._kernel, "session", None) is not None:
            self._kernel.session.session = uuid.uuid4().hex

    def _renew_pipe(self) -> None:
        """Children of os.fork() send what they print to a port of ipykernel's: a fork's
        must not go to its original's (ipykernel.iostream.IOPubThread)."""
        thread = getattr(self._kernel, "iopub_thread", None)
        if thread is None or not getattr(thread, "_pipe_flag", False):
            return

        renewed = threading.Event()

        def renew() -> None:
            thread._pipe_in.close()
            thread._setup_pipe_in()
            renewed.set()

        thread.io_loop.add_callback(renew)
        # The next thing that is run may be os.fork().
        if not renewed.wait(_PIPE_LIMIT_S):
            raise TimeoutError(f"its output thread did not act for {_PIPE_LIMIT_S} s")
