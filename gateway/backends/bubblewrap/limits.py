"""How much of the machine a sandbox may use, and what keeps it to that.

Sizes are bytes, times are seconds. A limit is kept by a cgroup where one may be had; else by what every
process inherits (setrlimit(2)), which counts per process and not per sandbox, so it is reported as
best effort. Sizes of file systems, files and descriptor tables, and the life, need no cgroup.
"""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Collection

from ..base import LimitReport
from ..sizes import MIB, format_size

#: Address space beyond `memory` that a process may reserve where only rlimits bound its memory. V8 reserves
#: 10 GiB for each WebAssembly memory, of which Node has a few, and the JVM gigabytes; they stay untouched.
_RESERVED = 32 * 1024 * MIB


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one sandbox."""

    memory: int
    processes: int
    cpus: float
    file_size: int
    open_files: int
    tmp_size: int
    home_size: int
    #: None: no end.
    life: float | None

    @property
    def shm_size(self) -> int:
        """Bytes of /dev/shm: as runtimes, 64 MiB, unless /tmp is smaller."""
        return min(self.tmp_size, 64 * MIB)


def rlimits(limits: Limits, controllers: Collection[str]) -> list[str]:
    """Options of prlimit(1) for the processes of a sandbox whose cgroups have `controllers`.

    None exceeds the gateway's own hard limit, which nobody without CAP_SYS_RESOURCE may raise.
    """
    wanted = {
        # At 1 nothing is dumped, nor is a program that takes dumps from a pipe started on the host, which 0
        # does not prevent (core(5), fs/coredump.c).
        "core": (resource.RLIMIT_CORE, 1),
        "fsize": (resource.RLIMIT_FSIZE, limits.file_size),
        "memlock": (resource.RLIMIT_MEMLOCK, 0),
        "msgqueue": (resource.RLIMIT_MSGQUEUE, 0),
        "nofile": (resource.RLIMIT_NOFILE, limits.open_files),
        # Counted within the sandbox's own user namespace (Linux 5.14), so nothing outside adds to it.
        "nproc": (resource.RLIMIT_NPROC, limits.processes),
        "rtprio": (resource.RLIMIT_RTPRIO, 0),
        # POSIX timers count here. They are counted for the account, so one sandbox could use up another's.
        "sigpending": (resource.RLIMIT_SIGPENDING, 1024),
    }
    if "memory" not in controllers:
        wanted["data"] = (resource.RLIMIT_DATA, limits.memory)
        wanted["as"] = (resource.RLIMIT_AS, limits.memory + _RESERVED)
    return [f"--{name}={_within(kind, value)}" for name, (kind, value) in wanted.items()]


def _within(kind: int, value: int) -> int:
    _, hard = resource.getrlimit(kind)
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def describe(limits: Limits, controllers: dict[str, str]) -> list[LimitReport]:
    """One line per limit.

    `controllers` maps what control groups limit here to their version: controllers, and "swap" where Linux
    counts it.
    """

    def by_cgroup(controller: str, otherwise: str) -> tuple[str, bool]:
        version = controllers.get(controller)
        return (f"cgroup {version}", False) if version else (otherwise, True)

    memory = by_cgroup("memory", "rlimit of each process, seccomp")
    if "memory" in controllers and "swap" not in controllers:
        memory = (f"{memory[0]}, but swap is not counted on this machine and has no limit", True)
    open_files = "rlimit"
    if os.geteuid() != 0:
        open_files += "; descriptors in flight and epoll watches count for the whole account"
    life = "none" if limits.life is None else f"{limits.life:g} s"
    rows = [
        ("memory", format_size(limits.memory), *memory),
        ("processes", str(limits.processes), *by_cgroup("pids", "rlimit of its user namespace")),
        ("cpus", f"{limits.cpus:g}", *by_cgroup("cpu", "lower priority (nice)")),
        ("file_size", format_size(limits.file_size), "rlimit", False),
        ("open_files", f"{limits.open_files} a process", open_files, False),
        ("tmp_size", format_size(limits.tmp_size), "size of its tmpfs", False),
        ("home_size", format_size(limits.home_size), "size of its tmpfs", False),
        ("life", life, "the gateway's clock", False),
    ]
    return [LimitReport(*row) for row in rows]
