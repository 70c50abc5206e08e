"""Limits by control groups, of version 1 or 2 (cgroups(7)), where this gateway may make groups.

Each gateway makes one group per hierarchy, and in it one per sandbox. Where:

- version 1: below the gateway's own group;
- version 2: below one group for all controllers, because a process is in one group of version 2 only. That
  is the gateway's own if it may have children with controllers. A group with processes may not ("no
  internal processes"), so where only the gateway and what started it are in a group that is delegated to
  it (`systemd-run --user --scope -p Delegate=yes`) they move into a child of it first. As root it may also
  be an ancestor that hands controllers down; of all these, the nearest that has the most of them.

Nothing is assumed: a controller counts once its group was made, and a sandbox starts once its first process
was seen in its groups.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base import Check
from . import hierarchies
from .hierarchies import Mount
from .limits import Limits
from .settings import Bind
from .sweep import processes_of, remove_group

CONTROLLERS = ("memory", "pids", "cpu")

#: Comes with the memory controller where Linux counts swap; else a sandbox may fill it beyond its memory.
SWAP = "swap"
_ALL = ("memory", SWAP, "pids", "cpu")

#: Microseconds over which the CPU share is measured out; the kernel's default.
_PERIOD = 100_000

#: Child of a delegated group into which the gateway moves; it goes with the unit of systemd.
_LEAF = "gateway"

_SWAP_V1, _SWAP_V2 = "memory.memsw.limit_in_bytes", "memory.swap.max"
_TOLD_V1 = ("memory.oom_control", "memory.limit_in_bytes")
_TOLD_V2 = ("memory.events", "memory.max")


class Place(NamedTuple):
    """Where groups of a controller may be made. All of version 2 have the same folder."""

    version: str  # "v1" or "v2"
    folder: Path


def detect(proc: Path = Path("/proc/self")) -> dict[str, Place]:
    """Where groups could be made, by controller and for swap; nothing is changed."""
    mounts = hierarchies.mounts((proc / "mountinfo").read_text())
    own = hierarchies.own_groups((proc / "cgroup").read_text())
    places: dict[str, Place] = {}
    for mount in mounts:
        for controller in mount.controllers.intersection(CONTROLLERS, own):
            folder = hierarchies.folder_of(mount, own[controller])
            if os.access(folder, os.W_OK):
                places[controller] = Place("v1", folder)
    unified = [mount for mount in mounts if not mount.controllers]
    if unified and "" in own:
        places |= _unified(unified[0], hierarchies.folder_of(unified[0], own[""]), {*CONTROLLERS} - {*places})
    if "memory" in places and _may_count_swap(places["memory"]):
        places[SWAP] = places["memory"]
    return {name: places[name] for name in _ALL if name in places}


def _unified(mount: Mount, own: Path, wanted: set[str]) -> dict[str, Place]:
    """The wanted controllers that one group of version 2 has for its children."""
    offers: list[tuple[Path, Sequence[str]]] = []
    handed_down = _words(own.parent / "cgroup.subtree_control")
    if own.name == _LEAF and own != mount.point and handed_down:
        # An earlier gateway has moved what started both of them here.
        offers.append((own.parent, handed_down))
    elif _may_delegate(own):
        offers.append((own, _words(own / "cgroup.controllers")))
    if os.geteuid() == 0:
        for group in (own, *own.parents):
            offers.append((group, _words(group / "cgroup.subtree_control")))
            if group == mount.point:
                break
    usable = [(folder, wanted.intersection(names)) for folder, names in offers if os.access(folder, os.W_OK)]
    folder, names = max(usable, key=lambda offer: len(offer[1]), default=(own, set[str]()))
    return dict.fromkeys(names, Place("v2", folder))


def _may_count_swap(memory: Place) -> bool:
    """Whether Linux may be counting swap; of version 2 only a group that is limited itself can tell."""
    if memory.version == "v1":
        return (memory.folder / _SWAP_V1).exists()
    return (memory.folder / _SWAP_V2).exists() or not (memory.folder / "memory.max").exists()


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
        #: What is limited -> the version of its groups; besides controllers, `SWAP`.
        self.controllers: dict[str, str] = {}
        self.problems: list[str] = []
        self._groups: dict[str, Path] = {}
        unified = [what for what, place in places.items() if place.version == "v2"]
        folders = {places[what].folder for what in unified}
        if len(folders) > 1:
            raise ValueError("a process is in one group of version 2, so they cannot be made in two places")
        for what, place in places.items():
            if place.version == "v1":
                with self._noting(what, place.folder):
                    (place.folder / name).mkdir(exist_ok=True)
                    self._take(what, place.version, place.folder / name)
        for folder in folders:
            self._make_unified(folder, folder / name, unified)

    def _make_unified(self, folder: Path, group: Path, wanted: Sequence[str]) -> None:
        """Make the one group of version 2, with as many of these controllers as can be had."""
        with self._noting(", ".join(wanted), folder):
            group.mkdir()
            for what in wanted:
                if what != SWAP:
                    with self._noting(what, folder):
                        _hand_down(folder, what)
                        (group / "cgroup.subtree_control").write_text(f"+{what}")
                        self._take(what, "v2", group)
                elif (group / _SWAP_V2).exists():
                    self._take(what, "v2", group)
            if group not in self.folders:
                group.rmdir()

    def _take(self, what: str, version: str, group: Path) -> None:
        self.controllers[what] = version
        self._groups[what] = group

    @contextlib.contextmanager
    def _noting(self, what: str, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problems.append(f"no {what} group can be made in {folder}: {error.strerror}")

    def check(self) -> Check:
        """What is kept by groups, for the doctor; it is well either way, but not the same."""
        missing = [controller for controller in CONTROLLERS if controller not in self.controllers]
        told = "Control groups keep memory, processes and processors."
        if missing:
            reasons = "".join(f" ({problem})" for problem in self.problems)
            told = (
                f"No control groups for {', '.join(missing)}{reasons}: that is best effort here. Under "
                "systemd, `systemd-run --user --scope -p Delegate=yes jupyter gateway` gives them."
            )
        if "memory" in self.controllers and SWAP not in self.controllers:
            told += (
                " This Linux does not count swap, so a sandbox may fill it beyond its memory: start Linux "
                "with swapaccount=1, or use no swap."
            )
        return Check("limits", True, told)

    @property
    def folders(self) -> list[Path]:
        """Every group of this gateway, for the sweep."""
        return sorted(set(self._groups.values()))

    def create(self, name: str, limits: Limits) -> Cgroup:
        """The groups of one sandbox, with its limits set. Raises `OSError`, and then leaves nothing."""
        cgroup = Cgroup({what: group / name for what, group in self._groups.items()})
        try:
            for what, group in cgroup.groups.items():
                group.mkdir(exist_ok=True)
                for file, value in _values(what, self.controllers[what], limits):
                    (group / file).write_text(value)
        except OSError:
            cgroup.try_remove()
            raise
        return cgroup

    def close(self) -> None:
        """Remove the gateway's groups; those of sandboxes are gone."""
        for group in self.folders:
            remove_group(group)


def _hand_down(folder: Path, controller: str) -> None:
    """See to it that the children of a group of version 2 have a controller. Raises `OSError`."""
    if controller not in _words(folder / "cgroup.subtree_control"):
        leaf = folder / _LEAF
        leaf.mkdir(exist_ok=True)
        for pid in processes_of(folder):
            (leaf / "cgroup.procs").write_text(str(pid))
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _values(what: str, version: str, limits: Limits) -> Iterable[tuple[str, str]]:
    """The files of a group to write, in order."""
    memory, quota = str(limits.memory), str(max(1000, int(limits.cpus * _PERIOD)))
    # bubblewrap's monitor, outside the sandbox, is in the group too.
    processes = str(limits.processes + 1)
    return {
        ("memory", "v1"): [("memory.limit_in_bytes", memory)],
        ("memory", "v2"): [("memory.max", memory)],
        (SWAP, "v1"): [(_SWAP_V1, memory)],
        (SWAP, "v2"): [(_SWAP_V2, "0")],
        ("pids", "v1"): [("pids.max", processes)],
        ("pids", "v2"): [("pids.max", processes)],
        ("cpu", "v1"): [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", quota)],
        ("cpu", "v2"): [("cpu.max", f"{quota} {_PERIOD}")],
    }[what, version]


class Cgroup:
    """The groups of one sandbox: what is limited -> folder (one folder for all of version 2)."""

    def __init__(self, groups: Mapping[str, Path]) -> None:
        self.groups = groups

    def join(self, pid: int) -> None:
        """Move a process in, and see that it is there. Raises `OSError`.

        Takes a grace period of Linux's RCU, some 10 ms.
        """
        groups = sorted(set(self.groups.values()))
        for group in groups:
            (group / "cgroup.procs").write_text(str(pid))
        for group in groups:
            if pid not in processes_of(group):
                raise OSError(f"its first process did not get into the control group {group}")

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
