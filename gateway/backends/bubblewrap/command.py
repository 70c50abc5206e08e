"""The command line of one sandbox, as data in and argv out: a reader checks the contract on this page.

The chain is: `choom` puts the sandbox first in the line of what Linux ends where the machine's memory is used
up; where the gateway is root, `nsenter` goes where the staged folders are and `setpriv` gives up root for
good; `bwrap` builds the sandbox; inside it `prlimit` sets what every process inherits and becomes the relay,
which so is PID 1. Each is exec'd by the one before, so the first process is bubblewrap's monitor
in the end, and PID 1 of the sandbox its only child.

What is to be mounted bwrap reads from a pipe. Before it has read all of that it makes no process, so the
gateway can move it into control groups meanwhile. What is to be isolated is on the command line, so a
gateway that is killed in the middle of writing leaves a sandbox that sees less, never one that may more.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .hidden import Cover
from .limits import Limits
from .settings import Bind
from .visible import SYSTEM_PATH

UID = GID = 1000
USER = "jovyan"
HOME = f"/home/{USER}"
HOSTNAME = "kernel"

#: The relay's own folder for sockets; nothing else may grow there.
RUN = "/run/relay"
_RUN_SIZE = 1024 * 1024

#: What container runtimes hide of /proc (the OCI runtime's default `maskedPaths`), and what else tells about
#: the host there. A file is covered where others than its owner, the host's root, may read it.
_MASKED_FILES = (
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
)
_MASKED_FOLDERS = ("/proc/acpi", "/proc/asound", "/proc/driver", "/proc/fs", "/proc/scsi")

#: Of -1000 to 1000 (oom_score_adj, proc(5)); the gateway's own is 0, unless somebody has set it. Nobody can
#: lower it inside where the gateway is root and so has set it with a capability; else it is best effort.
_OOM_SCORE = 800

#: What a program outside needs to be found, and messages in the language that `diagnosis` reads.
OUTER_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Contents(NamedTuple):
    """What is in a sandbox."""

    #: Mounted read-only in this order.
    binds: Sequence[Bind]
    #: Symbolic links: (target of the link, its path).
    links: Sequence[tuple[str, str]]
    covered: Sequence[Cover]
    limits: Limits
    #: Options of prlimit(1).
    rlimits: Sequence[str]
    #: What runs as PID 1, and its whole environment.
    argv: Sequence[str]
    environment: Mapping[str, str]


class Outside(NamedTuple):
    """How the first process gets from the gateway to bubblewrap."""

    bwrap: str
    #: A gateway that is root: the host UID and GID of the sandbox, and the mount namespace where it can reach
    #: what is shown; a path, because a descriptor would be inherited by the sandbox. Else None.
    host_uid: int | None
    namespace: str | None


class Descriptors(NamedTuple):
    """What bwrap inherits: the filter, the pipe for its report, and the pipe that `file_system` comes by."""

    seccomp: int
    info: int
    args: int


def build(contents: Contents, outside: Outside, descriptors: Descriptors) -> list[str]:
    """The argv of a sandbox."""
    return [
        *_chain(outside),
        outside.bwrap,
        *_namespaces(),
        *["--clearenv"],
        *[part for name, value in contents.environment.items() for part in ("--setenv", name, value)],
        *["--seccomp", str(descriptors.seccomp), "--info-fd", str(descriptors.info)],
        *["--args", str(descriptors.args)],
        *["--as-pid-1", "--", "/usr/bin/prlimit", *contents.rlimits, "--", *contents.argv],
    ]


def file_system(contents: Contents) -> bytes:
    """What is mounted, in the form of bwrap's `--args`: options that each end with a zero byte."""
    options = [
        *_file_systems(contents.limits),
        *_shown(contents),
        *_masks(),
        *["--remount-ro", "/dev", "--remount-ro", "/"],
        *["--chdir", HOME],
    ]
    return b"".join(os.fsencode(option) + b"\0" for option in options)


def _chain(outside: Outside) -> list[str]:
    score = ["choom", "--adjust", str(_oom_score()), "--"]
    if outside.host_uid is None:
        return score
    return [
        *score,
        *["nsenter", f"--mount={outside.namespace}", "--"],
        *["setpriv", f"--reuid={outside.host_uid}", f"--regid={outside.host_uid}", "--clear-groups"],
        *["--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"],
    ]


@functools.cache
def _oom_score() -> int:
    # What it is already may not be lowered by everyone.
    return max(_OOM_SCORE, int(Path("/proc/self/oom_score_adj").read_text()))


def _namespaces() -> list[str]:
    return [
        *["--unshare-user", "--uid", str(UID), "--gid", str(GID), "--disable-userns"],
        *["--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup"],
        *["--hostname", HOSTNAME],
        *["--die-with-parent", "--new-session", "--cap-drop", "ALL"],
    ]


def _file_systems(limits: Limits) -> list[str]:
    return [
        # bwrap makes the sandbox's user the owner of its IPC namespace, whose settings are below /proc/sys.
        *["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"],
        # It reads the same, but cannot be mapped: that would be memory which no rlimit counts (`seccomp`).
        *["--dev-bind", "/dev/full", "/dev/zero"],
        *_tmpfs("/dev/shm", "1777", limits.shm_size),  # noqa: S108  # a path of the sandbox's own
        *_tmpfs("/tmp", "1777", limits.tmp_size),  # noqa: S108
        *_tmpfs(HOME, "0700", limits.home_size),
        *_tmpfs(RUN, "0700", _RUN_SIZE),
    ]


def _tmpfs(path: str, mode: str, size: int) -> list[str]:
    return ["--perms", mode, "--size", str(size), "--tmpfs", path]


def _shown(contents: Contents) -> list[str]:
    arguments: list[str] = []
    for target, path in contents.links:
        arguments += ["--symlink", target, path]
    for source, target in contents.binds:
        arguments += ["--ro-bind", source, target]
    for target, is_folder in contents.covered:
        arguments += _cover(target, is_folder)
    return arguments


@functools.cache
def _masks() -> Sequence[str]:
    arguments: list[str] = []
    for path in _MASKED_FILES:
        if os.path.exists(path) and os.stat(path).st_mode & stat.S_IROTH:
            arguments += _cover(path, is_folder=False)
    for path in _MASKED_FOLDERS:
        if os.path.isdir(path):
            arguments += _cover(path, is_folder=True)
    return arguments


def _cover(path: str, is_folder: bool) -> list[str]:
    if is_folder:
        return [*_tmpfs(path, "0555", 4096), "--remount-ro", path]
    return ["--ro-bind", "/dev/null", path]


def base_environment(limits: Limits, search_path: Sequence[str]) -> dict[str, str]:
    """What a kernel finds in its environment: nothing of it is the gateway's."""
    threads = str(max(1, int(limits.cpus)))
    return {
        "PATH": ":".join(search_path),
        "HOME": HOME,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        # Numerical libraries start a thread per processor of the machine unless told otherwise.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def relay_environment() -> dict[str, str]:
    """What the relay itself needs."""
    return {"PATH": ":".join(SYSTEM_PATH), "HOME": HOME, "LANG": "C.UTF-8"}
