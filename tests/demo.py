"""A real kernel: checkpointed, spoiled, killed, restored, forked. ``make demo``.

Every step is told in plain words, with the command that a person would type and what it
says. Everything claimed is checked; the exit status is 0 only if all of it was so.
Nothing is left behind: no process, no file.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

LIMIT = 20.0
"""Seconds that any step may take."""

KERNEL = "from jupyter_client.kernelapp import main; main()"
COMMAND = "import sys; from jupyter_cr.cli import main; sys.exit(main())"

PREPARE = """
import os, subprocess
model = list(range(1_000_000))
epoch = (f"epoch {n}" for n in range(100))
next(epoch)
log = open("training.log", "w+")
log.write("before the checkpoint\\n")
child = subprocess.Popen(
    ["bash", "-c", "n=0; while read line; do n=$((n + 1)); echo $line $n; done"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
def ask_child():
    child.stdin.write("line\\n")
    return child.stdout.readline().strip()
ask_child()
"""
LOOK = "print(len(model), sum(model), log.tell(), child.pid, os.getpid())"
SPOIL = """
model.clear()
list(epoch)
child.kill(); child.wait()
print(len(model), next(epoch, "no epoch left"), child.poll())
"""
GO_ON = "print(next(epoch), '|', ask_child())"


class DemoError(Exception):
    """Something was not as claimed."""


def say(text: str = "") -> None:
    print(text, flush=True)


def step(number: int, text: str) -> None:
    say(f"\n{number}. {text}")


def require(is_so: bool, what: str) -> None:
    if not is_so:
        raise DemoError(what)


def show(output: str) -> None:
    for line in output.rstrip().splitlines():
        say(f"     {line.rstrip()}")


def cr(*words: str) -> str:
    """Run ``jupyter cr``, show it, and give what it prints."""
    say(f"   $ jupyter cr {shlex.join(words)}")
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=60
    )
    show(result.stdout + result.stderr)
    require(result.returncode == 0, f"`jupyter cr {words[0]}` ended with an error")
    return result.stdout


def pid_in(output: str) -> int:
    found = re.search(r"as process (\d+)", output)
    if found is None:
        raise DemoError("the command does not tell the process")
    return int(found[1])


class Notebook:
    """Stands for an open notebook: one client, connected once."""

    def __init__(self, connection_file: Path) -> None:
        self._client = BlockingKernelClient(connection_file=str(connection_file))
        self._client.load_connection_file()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=LIMIT)

    def run(self, code: str, *, quiet: bool = False) -> str:
        """Execute a cell, show it, and give what it prints."""
        printed: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
            elif message["msg_type"] == "error":
                printed.append("\n".join(message["content"]["traceback"]))

        try:
            reply = self._client.execute_interactive(code, output_hook=hook, timeout=LIMIT)
        except TimeoutError as error:
            raise DemoError(f"the kernel does not answer: {error}") from error
        output = "".join(printed).strip()
        if not quiet:
            for line in code.strip().splitlines():
                say(f"   > {line}")
            show(output)
        require(reply["content"]["status"] == "ok", "the cell failed")
        return output

    def close(self) -> None:
        self._client.stop_channels()


@contextmanager
def own_directories() -> Iterator[Path]:
    """Nothing of the user's own kernels, history or snapshots is read or written."""
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-demo-") as name:
        home = Path(name)
        profile = home / "ipython" / "profile_default"
        profile.mkdir(parents=True)
        # A fork goes on with its original's number in the history file, and IPython says
        # so in the output of the next cell.
        (profile / "ipython_kernel_config.py").write_text(
            "c = get_config()\nc.HistoryManager.enabled = False\n"
        )
        (home / "work").mkdir()
        os.environ.update(
            JUPYTER_CR_HOME=str(home / "snapshots"),
            JUPYTER_RUNTIME_DIR=str(home / "runtime"),
            JUPYTER_CONFIG_DIR=str(home / "config"),
            JUPYTER_DATA_DIR=str(home / "data"),
            IPYTHONDIR=str(home / "ipython"),
        )
        root = str(Path(__file__).resolve().parent.parent)
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, path]))
        yield home


@contextmanager
def running_kernel(home: Path) -> Iterator[Path]:
    """What ``jupyter kernel`` starts; gives the connection file."""
    say("   $ jupyter kernel")
    launcher = subprocess.Popen(
        [sys.executable, "-c", KERNEL],
        cwd=home / "work",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield wait_for(lambda: next((home / "runtime").glob("kernel-*.json"), None))
    finally:
        launcher.terminate()
        try:
            launcher.wait(LIMIT)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()


def wait_for(look: Any) -> Any:
    deadline = time.monotonic() + LIMIT
    while not (found := look()):
        require(time.monotonic() < deadline, f"nothing came within {LIMIT:.0f} s")
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def kill(pid: int) -> None:
    """End a process that this demo has started, and see it go."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))


def main() -> int:
    began = time.monotonic()
    # So that everything is cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with ExitStack() as stack:
            play(stack)
    except DemoError as error:
        say(f"\nNOT as claimed: {error}")
        return 1
    say(f"\nAll of it was so, in {time.monotonic() - began:.0f} s. Nothing is left behind.")
    return 0


def play(stack: ExitStack) -> None:
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    say(f"jupyter-cr, with a real kernel, as {who} (in a temporary directory)")
    home = stack.enter_context(own_directories())

    step(1, "An ordinary kernel starts; nothing in it knows of jupyter-cr.")
    connection_file = stack.enter_context(running_kernel(home))
    notebook = Notebook(connection_file)
    stack.callback(notebook.close)

    step(2, "It gets state: data, a generator half-way, an open file, a child process.")
    notebook.run(PREPARE)
    before = notebook.run(LOOK)
    child, pid = map(int, before.split()[-2:])
    first = stack.enter_context(ExitStack())
    first.callback(kill, child)
    first.callback(kill, pid)

    kernel_id = connection_file.stem.removeprefix("kernel-")[:8]
    step(3, "A checkpoint. The kernel goes on.")
    cr("checkpoint", kernel_id, "--name", "before", "--note", "all is well")

    step(4, "Then somebody runs the wrong cell: data, generator and child are gone.")
    require(notebook.run(SPOIL) == "0 no epoch left -9", "the state was not spoiled")

    step(5, "And as if that were not enough, the kernel is killed.")
    say(f"   $ kill -9 {pid}")
    kill(pid)
    require(not is_alive(pid) and not is_alive(child), "it lives on")
    # Whoever has these pids from now on is somebody else.
    first.pop_all()

    step(6, "Restore. The notebook that was open stays open, and nobody tells it.")
    stack.callback(kill, pid_in(cr("restore", "before")))
    # As a person would: the kernel had been dead, so who would come back was not known,
    # and a front end hears only what is said after it has connected again.
    time.sleep(1)
    require(notebook.run(LOOK) == before, "the state is not what it was")
    require(notebook.run(GO_ON) == "epoch 1 | line 2", "generator or child do not go on")
    say(
        "   The same data, the same pids, the file where it was; generator and child go on."
    )

    step(7, "Two forks, beside it: the same kernel, three times.")
    notebooks = {"the original": notebook}
    for name in ("fork-1", "fork-2"):
        path = home / "runtime" / f"{name}.json"
        stack.callback(kill, pid_in(cr("fork", "before", "--connection-file", str(path))))
        notebooks[name] = Notebook(path)
        stack.callback(notebooks[name].close)

    step(8, "They go their own ways.")
    for number, (name, opened) in enumerate(notebooks.items()):
        say(f"   In {name}:")
        opened.run(f"model = model[:{number + 1}]; print(len(model))")
    for number, (name, opened) in enumerate(notebooks.items()):
        found = opened.run("print(len(model))", quiet=True)
        require(found == str(number + 1), f"{name} sees another's variable")
    for name in ("fork-1", "fork-2"):
        say(f"   In {name}, generator and child are where they were at the checkpoint:")
        require(notebooks[name].run(GO_ON) == "epoch 1 | line 2", f"{name} is no copy")

    step(9, "The snapshot is a thing of its own: to be looked at, checked, and removed.")
    cr("list")
    cr("verify", "before")
    cr("rm", "before")


if __name__ == "__main__":
    sys.exit(main())
