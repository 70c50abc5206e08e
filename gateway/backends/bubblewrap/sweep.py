"""Ends what a gateway that is gone has left: processes, control groups, files.

An instance of a gateway has a folder::

    <runtime_dir>/instance-<random>/
        groups          one control group of this instance a line; some may not exist
        sandboxes/<id>  "<pid> <start time> <boot>" of the first process inside

The folder itself is locked (flock(2)) by the gateway and its watcher for as long as either lives. A file in
it may be taken away by what cleans up /tmp, and then nobody would have it locked; a locked folder is left
alone, with all that is in it (https://systemd.io/TEMPORARY_DIRECTORIES).

bubblewrap's own children die with the gateway (PR_SET_PDEATHSIG), but a process inside may have given that
signal up, and nothing else removes groups and files. So each gateway has a watcher: this file run
as a program, which waits for the end of its standard input, whose other end only the gateway has, and then
sweeps the instance. Where both were killed, the next start sweeps every instance that nobody has locked. A
start may come while a watcher sweeps; so a folder gets the name `.dead-<random>` first, and
whoever finds one like that removes it too.

Standard library only, and no import from this project: the watcher runs `python -I -S sweep.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

INSTANCE_PREFIX = "instance-"
_DEAD_PREFIX = ".dead-"
GROUPS = "groups"
SANDBOXES = "sandboxes"

#: How a folder is opened to be locked.
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: Seconds until a process that was sent SIGKILL must be gone; it takes milliseconds.
_PATIENCE = 5
_PAUSE = 0.005


def main(folder: str) -> int:
    """Wait for the end of the gateway, then sweep its instance."""
    # The terminal's signals and a service manager's are for the gateway; this must outlive it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    sweep_instance(Path(folder))
    return 0


def sweep_others(runtime_dir: Path) -> list[str]:
    """Sweep every instance that nobody holds; the names of those that were swept."""
    swept = []
    for folder in sorted(runtime_dir.glob(INSTANCE_PREFIX + "*")):
        with _free(folder) as free:
            if free and sweep_instance(folder):
                swept.append(folder.name)
    for folder in runtime_dir.glob(_DEAD_PREFIX + "*"):
        _remove(folder)
    return swept


def sweep_instance(folder: Path) -> bool:
    """End every process of an instance, then remove its groups and files; whether they were there."""
    for kernel_id in _names(folder / SANDBOXES):
        _kill(_read(folder / SANDBOXES / kernel_id))
    name = folder.name.removeprefix(INSTANCE_PREFIX)
    for line in _read(folder / GROUPS).splitlines():
        # What was half written is not the name of a group of this instance.
        if line.startswith("/") and line.endswith(name):
            remove_group(Path(line))
    dead = folder.with_name(_DEAD_PREFIX + name)
    try:
        folder.rename(dead)
    except FileNotFoundError:
        return False
    _remove(dead)
    return True


def _names(folder: Path) -> list[str]:
    """What is in a folder of an instance; nothing where another sweep has removed it."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _read(path: Path) -> str:
    """What is in a file of an instance; nothing where another sweep has removed it."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _remove(folder: Path) -> None:
    """Remove a folder that another sweep may be removing too."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


@contextlib.contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Whether an instance is there and nobody holds it; if so, it is held meanwhile."""
    try:
        descriptor = os.open(folder, FOLDER)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def identity(pid: int) -> str | None:
    """What tells a process from a later one of the same number, as a record; None if it is gone."""
    start = _start_time(pid)
    return None if start is None else f"{pid} {start} {_boot()}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): field 22; the name, field 2, may hold anything, so count from its end. A zombie is gone.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _kill(record: str) -> None:
    """End the process of a record, and with it, as the first of its namespace, every other one there.

    What is no record, which a machine that lost its power may leave, is nobody's.
    """
    pid = _pid_of(record)
    if pid is None:
        return
    deadline = time.monotonic() + _PATIENCE
    while identity(pid) == record.strip() and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def _pid_of(record: str) -> int | None:
    pid, _, rest = record.partition(" ")
    return int(pid) if pid.isascii() and pid.isdigit() and rest else None


def processes_of(group: Path) -> list[int]:
    """The processes directly in a control group; raises `OSError`."""
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def remove_group(group: Path) -> None:
    """Kill what is in a control group and below it, and remove them. Raises `OSError` if that fails."""
    deadline = time.monotonic() + _PATIENCE
    while group.exists():
        try:
            for child in [path for path in group.iterdir() if path.is_dir()]:
                remove_group(child)
            for pid in processes_of(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            # Busy until its last process is reaped.
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
