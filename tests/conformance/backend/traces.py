"""What a gateway leaves on a machine: processes, descriptors, files, control groups, mounts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway.backends.bubblewrap import sweep

#: Seconds within which nothing may be left of what has ended.
SOON = 2.0


def descendants(pid: int) -> set[str]:
    """The living processes below one, as identities that no later process has."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, stack = set(), [pid]
    while stack:
        for child in children.get(stack.pop(), []):
            identity = sweep.identity(child)
            if identity is not None:
                found.add(identity)
            stack.append(child)
    return found


def alive(identities: Iterable[str]) -> set[str]:
    """Those that still live."""
    return {identity for identity in identities if sweep.identity(int(identity.split()[0])) == identity}


def command_line(identity: str) -> list[str]:
    """The argv of a living process."""
    data = Path(f"/proc/{identity.split()[0]}/cmdline").read_bytes()
    return data.decode(errors="replace").rstrip("\0").split("\0")


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def files(folder: Path) -> set[str]:
    """Everything below a folder, which may be vanishing meanwhile."""
    return {
        os.path.relpath(os.path.join(top, name), folder)
        for top, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }


def groups(name: str) -> list[str]:
    """The control groups whose name holds `name`, in every hierarchy."""
    return [
        os.path.join(top, folder)
        for top, folders, _ in os.walk("/sys/fs/cgroup")
        for folder in folders
        if name in folder
    ]


def mounts() -> set[str]:
    """The mounts that this process sees."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def soon(condition: Callable[[], object], seconds: float = SOON) -> bool:
    """Whether a condition comes to hold within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
