"""A process that somebody else had started, with the methods that jupyter_client's
LocalProvisioner uses of `subprocess.Popen`."""

from __future__ import annotations

import os
import select
import signal
from subprocess import TimeoutExpired

__all__ = ["AdoptedProcess"]


class AdoptedProcess:
    """A living process that is not our child. How it ends cannot be known, only that it
    has (pidfd_open(2)).

    Args:
        pid: of the process.

    Raises:
        ProcessLookupError: there is none.
    """

    stdin = stdout = stderr = None
    ENDED = 0
    """What stands for the exit status that nobody tells us."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it lives."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: not within `timeout` seconds.
        """
        ended = self._wait(timeout)
        if ended is None:
            raise TimeoutExpired(str(self.pid), timeout or 0.0)
        return ended

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._pidfd], [], [], timeout)[0]:
            os.close(self._pidfd)
            self._pidfd = -1
            self.returncode = self.ENDED
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
