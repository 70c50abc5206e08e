"""Reads where control group hierarchies are mounted, and where in them a process is (cgroups(7), proc(5))."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A cgroup hierarchy: its controllers (none for version 2), mount point, and the group mounted there."""

    controllers: frozenset[str]
    point: Path
    root: str


def mounts(mountinfo: str) -> list[Mount]:
    """The hierarchies that a /proc/PID/mountinfo names (proc(5))."""
    found = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        _, _, _, root, point, *_ = head.split()
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup":
            found.append(Mount(frozenset(options.split(",")), Path(_unescaped(point)), _unescaped(root)))
        elif kind == "cgroup2":
            found.append(Mount(frozenset(), Path(_unescaped(point)), _unescaped(root)))
    return found


def _unescaped(text: str) -> str:
    # proc(5): space, tab, newline and backslash are octal there.
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text


def own_groups(cgroup: str) -> dict[str, str]:
    """Controller -> path of this process's group; the key of version 2 is ""."""
    groups = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def folder_of(mount: Mount, group: str) -> Path:
    """A group within a mount. In a container the mount shows the container's group as its top."""
    if group == mount.root or group.startswith(mount.root.rstrip("/") + "/"):
        return mount.point / group[len(mount.root.rstrip("/")) :].lstrip("/")
    return mount.point
