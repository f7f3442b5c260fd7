"""What the measured kernels hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WORKLOADS", "Workload"]

_TREE = """
import multiprocessing, subprocess
pool = multiprocessing.get_context("fork").Pool(2)
pool.map(abs, range(-8, 0))
child = subprocess.Popen(["sleep", "100000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
files = [open(f"file-{n}", "w+") for n in range(10)]
for file in files:
    file.write("content")
"""


@dataclass(frozen=True)
class Workload:
    """`size`: bytes of one numpy array, `array`; 0 for none."""

    name: str
    size: int = 0
    code: str = ""
    downtime_target: float | None = None
    """Milliseconds."""
    restore_target: float | None = None
    """Milliseconds; None: from the plain pread."""

    @property
    def preparation(self) -> str:
        """To be run in the kernel."""
        if not self.size:
            return self.code
        # Not zeros, and not all the same.
        return f"import numpy as np; array = np.arange({self.size // 8}, dtype=np.int64)"


WORKLOADS = (
    Workload("idle", downtime_target=15, restore_target=70),
    Workload("256 MiB", size=256 << 20),
    Workload("1 GiB", size=1 << 30, downtime_target=30),
    Workload("4 GiB", size=4 << 30),
    Workload("pool, child, files", code=_TREE),
)
