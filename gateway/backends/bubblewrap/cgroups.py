"""Limits by control groups, of version 1 or 2 (cgroups(7)), where this gateway may make groups.

Each gateway makes one group per hierarchy, and in it one per sandbox. Where:

- version 1: below the gateway's own group;
- version 2: below the gateway's own group if that may have children with controllers. A group with
  processes may not ("no internal processes"), so where only the gateway and what started it are in a group
  that is delegated to it (`systemd-run --user --scope -p Delegate=yes`) they move into a child of it first.
  Otherwise, as root, below the nearest ancestor that hands controllers down.

Nothing is assumed: a controller counts once its group was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..base import Check
from .limits import Limits
from .settings import Bind
from .sweep import processes_of, remove_group

CONTROLLERS = ("memory", "pids", "cpu")

#: Microseconds over which the CPU share is measured out; the kernel's default.
_PERIOD = 100_000

#: Child of a delegated group into which the gateway moves; it goes with the unit of systemd.
_LEAF = "gateway"

#: Without swap accounting in the Linux kernel they do not exist, and there is nothing to limit.
_OPTIONAL = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max"})


_TOLD_V1 = ("memory.oom_control", "memory.limit_in_bytes")
_TOLD_V2 = ("memory.events", "memory.max")


class Place(NamedTuple):
    """Where groups of a controller may be made."""

    version: str  # "v1" or "v2"
    folder: Path


class Mount(NamedTuple):
    """A cgroup hierarchy: its controllers (none for version 2), mount point, and the group mounted there."""

    controllers: frozenset[str]
    point: Path
    root: str


def detect(proc: Path = Path("/proc/self")) -> dict[str, Place]:
    """Where groups could be made, by controller; nothing is changed."""
    mounts = _mounts((proc / "mountinfo").read_text())
    own = _own_groups((proc / "cgroup").read_text())
    places: dict[str, Place] = {}
    for mount in mounts:
        if mount.controllers:
            for controller in mount.controllers.intersection(CONTROLLERS, own):
                folder = _folder(mount, own[controller])
                if os.access(folder, os.W_OK):
                    places[controller] = Place("v1", folder)
        elif "" in own:
            for controller, folder in _unified(mount, _folder(mount, own[""])).items():
                places.setdefault(controller, Place("v2", folder))
    return places


def _mounts(mountinfo: str) -> list[Mount]:
    mounts = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        _, _, _, root, point, *_ = head.split()
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup":
            mounts.append(Mount(frozenset(options.split(",")), Path(_unescaped(point)), _unescaped(root)))
        elif kind == "cgroup2":
            mounts.append(Mount(frozenset(), Path(_unescaped(point)), _unescaped(root)))
    return mounts


def _unescaped(text: str) -> str:
    # proc(5): space, tab, newline and backslash are octal there.
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text


def _own_groups(cgroup: str) -> dict[str, str]:
    """Controller -> path of this process's group; the key of version 2 is ""."""
    groups = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _folder(mount: Mount, group: str) -> Path:
    """A group within a mount. In a container the mount shows the container's group as its top."""
    if group == mount.root or group.startswith(mount.root.rstrip("/") + "/"):
        return mount.point / group[len(mount.root.rstrip("/")) :].lstrip("/")
    return mount.point


def _unified(mount: Mount, own: Path) -> dict[str, Path]:
    """Where the controllers of version 2 can be had."""
    found: dict[str, Path] = {}
    if _may_delegate(own):
        found.update(dict.fromkeys(_words(own / "cgroup.controllers"), own))
    if os.geteuid() == 0:
        for group in (own, *own.parents):
            for controller in _words(group / "cgroup.subtree_control"):
                if os.access(group, os.W_OK):
                    found.setdefault(controller, group)
            if group == mount.point:
                break
    return {name: folder for name, folder in found.items() if name in CONTROLLERS}


def _may_delegate(group: Path) -> bool:
    """Whether controllers can be enabled for children of a group that this process is in."""
    try:
        alone = set(processes_of(group)) <= set(_lineage())
    except OSError:
        return False
    return alone and os.access(group, os.W_OK) and os.access(group / "cgroup.subtree_control", os.W_OK)


def _lineage() -> Iterable[int]:
    """This process and those that led to it."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        # proc(5): the parent is the second field after the name, which may hold anything.
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


class Cgroups:
    """The groups of one gateway. `problems` says why a controller that seemed to be there is not."""

    def __init__(self, name: str, places: Mapping[str, Place]) -> None:
        """Make the gateway's groups, named `name`, wherever that can be done."""
        self.controllers: dict[str, str] = {}
        self.problems: list[str] = []
        self._groups: dict[str, Path] = {}
        for controller, place in places.items():
            try:
                self._groups[controller] = self._make(name, controller, place)
                self.controllers[controller] = place.version
            except OSError as error:
                self.problems.append(f"no {controller} group can be made in {place.folder}: {error.strerror}")

    def check(self) -> Check:
        """What is kept by groups, for the doctor; it is well either way, but not the same."""
        missing = [controller for controller in CONTROLLERS if controller not in self.controllers]
        if not missing:
            return Check("limits", True, "Control groups keep memory, processes and processors.")
        reasons = "".join(f" ({problem})" for problem in self.problems)
        return Check(
            "limits",
            True,
            f"No control groups for {', '.join(missing)}{reasons}: that is best effort here. Under systemd, "
            "`systemd-run --user --scope -p Delegate=yes jupyter gateway` gives them.",
        )

    @property
    def folders(self) -> list[Path]:
        """Every group of this gateway, for the sweep."""
        return sorted(set(self._groups.values()))

    def create(self, name: str, limits: Limits) -> Cgroup:
        """The groups of one sandbox, with its limits set. Raises `OSError`, and then leaves nothing."""
        cgroup = Cgroup({controller: group / name for controller, group in self._groups.items()})
        try:
            for controller, group in cgroup.groups.items():
                group.mkdir(exist_ok=True)
                for file, value in _values(controller, self.controllers[controller], limits):
                    if file not in _OPTIONAL or (group / file).exists():
                        (group / file).write_text(value)
        except OSError:
            cgroup.try_remove()
            raise
        return cgroup

    def close(self) -> None:
        """Remove the gateway's groups; those of sandboxes are gone."""
        for group in self.folders:
            remove_group(group)

    @staticmethod
    def _make(name: str, controller: str, place: Place) -> Path:
        group = place.folder / name
        if place.version == "v2":
            if controller not in _words(place.folder / "cgroup.subtree_control"):
                leaf = place.folder / _LEAF
                leaf.mkdir(exist_ok=True)
                for pid in processes_of(place.folder):
                    (leaf / "cgroup.procs").write_text(str(pid))
                (place.folder / "cgroup.subtree_control").write_text(f"+{controller}")
            group.mkdir(exist_ok=True)
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        else:
            group.mkdir(exist_ok=True)
        return group


def _values(controller: str, version: str, limits: Limits) -> Iterable[tuple[str, str]]:
    """The files of a group to write, in order."""
    memory, quota = str(limits.memory), str(max(1000, int(limits.cpus * _PERIOD)))
    # bubblewrap's monitor, outside the sandbox, is in the group too.
    processes = str(limits.processes + 1)
    return {
        ("memory", "v1"): [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        ("memory", "v2"): [("memory.max", memory), ("memory.swap.max", "0")],
        ("pids", "v1"): [("pids.max", processes)],
        ("pids", "v2"): [("pids.max", processes)],
        ("cpu", "v1"): [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", quota)],
        ("cpu", "v2"): [("cpu.max", f"{quota} {_PERIOD}")],
    }[controller, version]


class Cgroup:
    """The groups of one sandbox: controller -> folder (one folder for all of version 2)."""

    def __init__(self, groups: Mapping[str, Path]) -> None:
        self.groups = groups

    def join(self, pid: int) -> None:
        """Move a process in. Takes a grace period of Linux's RCU, some 10 ms. Raises `OSError`."""
        for group in sorted(set(self.groups.values())):
            (group / "cgroup.procs").write_text(str(pid))

    @property
    def shown(self) -> list[Bind]:
        """The files that tell the memory limit and the deaths by it, where a container sees them."""
        group = self.groups.get("memory")
        if group is None:
            return []
        if (group / "memory.events").exists():
            return [Bind(f"{group}/{name}", f"/sys/fs/cgroup/{name}") for name in _TOLD_V2]
        return [Bind(f"{group}/{name}", f"/sys/fs/cgroup/memory/{name}") for name in _TOLD_V1]

    def deaths_by_memory(self) -> int:
        """How many processes of the sandbox were killed because its memory was full."""
        for bind in self.shown:
            for line in Path(bind.source).read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill":
                    return int(count)
        return 0

    def kill(self) -> int:
        """Send SIGKILL to every process in the groups; how many there were."""
        pids: set[int] = set()
        for group in self.groups.values():
            with contextlib.suppress(FileNotFoundError):
                pids.update(processes_of(group))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def try_remove(self) -> bool:
        """Remove the groups; whether they are gone. A group is busy until its last process is reaped."""
        for group in set(self.groups.values()):
            try:
                group.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True
