"""Running code in a fork: as a cell where there is IPython, else as Python does it. What
it prints and shows is sent on as it comes."""

from __future__ import annotations

import ast
import builtins
import io
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from jupyter_cr.glue.forking.messages import Finished, Message, Printed, Shown
from jupyter_cr.glue.forking.packing import pack, pack_error

__all__ = ["current_shell", "run_call", "run_source", "telling"]

Send = Callable[[Message], None]

_HELD_LIMIT = 4096


def current_shell() -> Any:
    """IPython's shell, if this process has one."""
    if (module := sys.modules.get("IPython")) is None:
        return None
    return module.get_ipython()


def run_call(function: Callable[..., object], arguments: Any, send: Send) -> Finished:
    """Call a function.

    Args:
        arguments: (positional, by name).
    """
    positional, named = arguments
    began = time.perf_counter()
    with _sent(send):
        try:
            value = function(*positional, **named)
        except BaseException as error:  # noqa: BLE001 - is what is wanted
            return _failed(error, _told(error), began)
        return Finished(pack(value), None, time.perf_counter() - began)


def run_source(code: str, variables: Mapping[str, object], send: Send) -> Finished:
    """Run a cell; its value is that of the last line, if that is an expression."""
    shell = current_shell()
    if shell is None:
        namespace = vars(sys.modules["__main__"])
        namespace.update(variables)
        return run_call(_execute, ((code, namespace), {}), send)
    shell.push(dict(variables))
    began = time.perf_counter()
    values: list[object] = []
    told: list[str] = []
    with _sent(send, values), telling(shell, told):
        result = shell.run_cell(code, store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            return _failed(error, tuple(told), began)
        value = pack(values[-1] if values else None)
    return Finished(value, None, time.perf_counter() - began)


def _failed(error: BaseException, told: tuple[str, ...], began: float) -> Finished:
    return Finished(None, pack_error(error, told), time.perf_counter() - began)


def _execute(code: str, namespace: dict[str, Any]) -> object:
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<fork>", "exec"), namespace)
        return None
    tree.body.pop()
    exec(compile(tree, "<fork>", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "<fork>", "eval"), namespace)


def _told(error: BaseException) -> tuple[str, ...]:
    """The traceback of what a function of the user's has raised."""
    # Not our own frame.
    trace = error.__traceback__ and error.__traceback__.tb_next
    shell = current_shell()
    if shell is not None:
        kind = type(error)
        return tuple(shell.InteractiveTB.structured_traceback(kind, error, trace))
    lines = traceback.format_exception(type(error), error, trace)
    return tuple("".join(lines).rstrip("\n").split("\n"))


@contextmanager
def telling(shell: Any, told: list[str]) -> Iterator[None]:
    """Tracebacks are kept, not shown (InteractiveShell._showtraceback).

    Args:
        told: gets the lines of the last one.
    """

    def keep(kind: object, value: object, lines: list[str]) -> None:
        told[:] = lines

    shell._showtraceback = keep
    try:
        yield
    finally:
        del shell._showtraceback


class _Stream(io.TextIOBase):
    """In place of ``sys.stdout`` or ``sys.stderr``."""

    def __init__(self, name: str, send: Send) -> None:
        self.name = name
        self._send = send
        self._held = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        # Not a message for each word.
        self._held += text
        if "\n" in text or "\r" in text or len(self._held) > _HELD_LIMIT:
            self.flush()
        return len(text)

    def flush(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._send(Printed(self.name, held))


@contextmanager
def _sent(send: Send, values: list[object] | None = None) -> Iterator[None]:
    """What is printed and shown meanwhile is sent.

    Args:
        values: gets what is shown as the value of an expression.
    """
    streams = [_Stream(name, send) for name in ("stdout", "stderr")]

    def send_shown(message: Message) -> None:
        for stream in streams:
            stream.flush()
        send(message)

    with ExitStack() as undo:
        for stream in streams:
            undo.callback(setattr, sys, stream.name, getattr(sys, stream.name))
            setattr(sys, stream.name, stream)
            undo.callback(stream.flush)
        if (shell := current_shell()) is not None:
            _send_shown(shell, send_shown, values, undo)
        yield


def _publisher(shell: Any, send: Send) -> Any:
    from IPython.core import displaypub

    # It has no types.
    base: Any = displaypub.DisplayPublisher

    class Publisher(base):  # type: ignore[misc]
        def publish(
            self,
            data: Mapping[str, Any],
            metadata: Mapping[str, Any] | None = None,
            *arguments: object,
            transient: Mapping[str, Any] | None = None,
            update: bool = False,
            **more: object,
        ) -> None:
            send(Shown(data, metadata or {}, transient or {}, update, is_result=False))

        def clear_output(self, wait: bool = False) -> None:
            """What has been sent cannot be called back."""

    return Publisher(shell=shell)


def _send_shown(
    shell: Any, send: Send, values: list[object] | None, undo: ExitStack
) -> None:
    undo.callback(setattr, shell, "display_pub", shell.display_pub)
    shell.display_pub = _publisher(shell, send)
    quiet = shell.displayhook.quiet

    def show(value: object) -> None:
        if value is None:
            return
        if values is not None:
            values.append(value)
        vars(builtins)["_"] = value
        if not quiet():
            data, metadata = shell.display_formatter.format(value)
            send(Shown(data, metadata, {}, update=False, is_result=True))

    # Within a cell, and where there is none.
    for holder, name in ((sys, "displayhook"), (shell.display_trap, "hook")):
        undo.callback(setattr, holder, name, getattr(holder, name))
        setattr(holder, name, show)
    # Nobody could answer a question.
    if (kernel := getattr(shell, "kernel", None)) is not None:
        undo.callback(setattr, kernel, "_allow_stdin", kernel._allow_stdin)
        kernel._allow_stdin = False
