"""Ends what a gateway that is gone has left: processes, control groups, files.

An instance of a gateway has a folder::

    <runtime_dir>/instance-<random>/
        lock            locked (flock(2)) by the gateway and its watcher for as long as either lives
        groups          one control group of this instance a line
        sandboxes/<id>  "<pid> <start time> <boot>" of the first process inside

bubblewrap's own children die with the gateway (PR_SET_PDEATHSIG), but a process inside may have given that
signal up, and nothing else removes groups and files. So each gateway has a watcher: this file run
as a program, which waits for the end of its standard input, whose other end only the gateway has, and then
sweeps the instance. Where both were killed, the next start sweeps every instance whose lock is free.

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
LOCK = "lock"
GROUPS = "groups"
SANDBOXES = "sandboxes"

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
            if free:
                sweep_instance(folder)
                swept.append(folder.name)
    return swept


def sweep_instance(folder: Path) -> None:
    """End every process of an instance, then remove its groups and files."""
    for record in sorted((folder / SANDBOXES).glob("*")):
        _kill(record.read_text())
    if (folder / GROUPS).exists():
        for line in (folder / GROUPS).read_text().splitlines():
            remove_group(Path(line))
    shutil.rmtree(folder)


@contextlib.contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the instance's lock; if so, it is held meanwhile."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # The gateway was killed before it had made the file: there is nothing else either.
        yield True
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
    """End the process of a record, and with it, as the first of its namespace, every other one there."""
    pid = int(record.split()[0])
    deadline = time.monotonic() + _PATIENCE
    while identity(pid) == record.strip() and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


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
