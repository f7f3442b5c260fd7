"""Which tests have to be run by one worker, where several run at once (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

__all__ = ["Scheduling"]

_BROWSER = "tests/labextension/"
_FIRST = ("test_collaboration.py", "test_hibernation.py", "test_new_server.py")
"""Files there for the first of two browsers, which take most of a processor each."""

_SHARING = ("tests/image/test_fuzz.py", "tests/server/test_handlers.py")
"""Files whose tests share what takes long to make."""


class Scheduling(LoadScopeScheduling):
    """One by one, but for those of a file whose tests share something; these first, since
    they take longest. (``--dist loadgroup`` would do it, but for pytest 9.2, which does not
    let xdist 3.8 change how tests are called.)"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.startswith(_BROWSER):
            return f"browser {path.endswith(_FIRST)}"
        return path if path in _SHARING else nodeid
