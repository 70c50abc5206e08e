"""What became of this thread's time, as Linux counts it (Documentation/scheduler/sched-stats.rst)."""

from __future__ import annotations

from pathlib import Path


def seconds() -> tuple[float, float]:
    """For how long it has run so far, and waited for a processor."""
    ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9
