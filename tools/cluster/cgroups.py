"""The control group below which the kubelet puts every pod, in each hierarchy that this machine has."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..machine import SetupError

#: What the kubelet asks for.
_NEEDED = {"cpu", "cpuset", "memory", "pids"}

_CLEARING_S = 10.0


def _mounts(kind: str) -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if found == kind:
            yield Path(place)


def make(name: str) -> None:
    """Make the group. Raises `SetupError` where the machine does not let it be used."""
    try:
        hierarchies = list(_mounts("cgroup"))
        for hierarchy in hierarchies:
            group = hierarchy / name
            group.mkdir(exist_ok=True)
            # A new cpuset has no processor and no memory, and no process may enter it.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists():
                    (group / setting).write_text((hierarchy / setting).read_text())
        if not hierarchies:
            _make_unified(Path("/sys/fs/cgroup"), name)
    except OSError as error:
        raise SetupError(
            f"The cluster needs control groups of its own, and cannot make them: {error}"
        ) from error


def _make_unified(top: Path, name: str) -> None:
    missing = _NEEDED - set((top / "cgroup.controllers").read_text().split())
    if missing:
        raise SetupError(
            f"The cluster needs these cgroup controllers, which {top} lacks: {' '.join(missing)}"
        )
    (top / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in sorted(_NEEDED)))
    (top / name).mkdir(exist_ok=True)


def remove(name: str) -> None:
    """Remove the group and all below it, once the processes in it have ended. Raises `SetupError`."""
    deadline = time.monotonic() + _CLEARING_S
    tops = [place / name for kind in ("cgroup", "cgroup2") for place in _mounts(kind)]
    while left := [top for top in tops if top.exists()]:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            raise SetupError(f"A control group still has processes in it: {left[0]}")
        time.sleep(0.02)
