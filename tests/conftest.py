"""What all tests share: directories of their own, and both kinds of user."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.own_network import enter_own_network

ROOT = Path(__file__).resolve().parent.parent

ORDINARY_UID = 20001
"""Of nobody in particular: it needs no entry in passwd(5)."""

_BECOME_ORDINARY = (
    "setpriv",
    f"--reuid={ORDINARY_UID}",
    f"--regid={ORDINARY_UID}",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)


def pytest_configure() -> None:
    """Programs under test are interrupted. A shell without job control starts what runs in
    the background with that ignored, and ignored signals are inherited. And tests that run
    side by side do not take ports from one another."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            handler = signal.default_int_handler if is_interrupt else signal.SIG_DFL
            signal.signal(number, handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        with suppress(PermissionError):
            enter_own_network()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Called in the process that gives the workers their tests."""
    from tests.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own store, kernels or configuration is read or written; and
    programs that a test starts find this checkout, wherever they are started."""
    own = {
        "JUPYTER_CR_HOME": "store",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
    }
    for variable, name in own.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@dataclass(frozen=True)
class User:
    """Somebody to run commands as."""

    name: str
    uid: int
    prefix: tuple[str, ...]
    """Goes before a command, to run it as this user."""
    python: str
    """An interpreter that this user may execute, with our packages in `environment`."""
    home: Path
    """A directory of this user's own."""
    environment: Mapping[str, str]

    def command(self, *arguments: str | os.PathLike[str]) -> list[str]:
        """The command, as this user."""
        return [*self.prefix, *map(os.fspath, arguments)]

    def run(
        self, *arguments: str | os.PathLike[str], timeout: float = 30, text: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in its home, and give its output."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.home,
            env=dict(self.environment),
            capture_output=True,
            text=text,
            timeout=timeout,
            check=False,
        )


@functools.cache
def _python_for(prefix: tuple[str, ...]) -> str | None:
    """This interpreter, or else one of the same release that the user may execute (where
    ours is under root's home, say)."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    # The dynamic loader and subprocesses need the way to it open, too, which exec alone
    # would not show: setpriv still has root's capabilities at that moment.
    probe = "import os, sys, msgspec; sys.exit(not os.access(sys.executable, os.X_OK))"
    for candidate in (sys.executable, *_on_path(name)):
        command = [*prefix, candidate, "-c", probe]
        result = subprocess.run(command, env=_environment(Path("/")), capture_output=True)
        if result.returncode == 0:
            return candidate
    return None


def _on_path(name: str) -> Sequence[str]:
    found = (Path(directory) / name for directory in ("/usr/bin", "/usr/local/bin"))
    return [str(path) for path in found if path.exists()]


def _environment(home: Path) -> dict[str, str]:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(ROOT), *filter(None, given), *site.getsitepackages()]
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TZ")}
    return kept | {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JUPYTER_CR_HOME": str(home / "store"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "IPYTHONDIR": str(home / "ipython"),
    }


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """Each test that takes it runs twice: as root, and as an ordinary user without any
    capability. Where the tests themselves are not run by root, as that user only."""
    yield from a_user(request.param)


def a_user(name: str) -> Iterator[User]:
    """``root`` or ``ordinary``, for as long as a test runs."""
    is_root = os.geteuid() == 0
    if name == "root" and not is_root:
        pytest.skip("not run by root")
    become = is_root and name == "ordinary"
    if become and shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    prefix = _BECOME_ORDINARY if become else ()
    python = _python_for(prefix)
    if python is None:
        pytest.skip("no Python of this release that an ordinary user may execute")
    # pytest's own directories are closed to other users.
    with tempfile.TemporaryDirectory(prefix="jupyter-cr-", dir="/tmp") as directory:
        home = Path(directory)
        uid = ORDINARY_UID if become else os.geteuid()
        if become:
            os.chown(home, uid, uid)
        yield User(name, uid, prefix, python, home, _environment(home))
