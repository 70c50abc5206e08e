"""What the system says of a process: its time, its memory, its descriptors, and what it started (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from gateway.relay import command

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RELAY = f"{command.FOLDER}/gateway/relay/__main__.py".encode()


def cpu(pid: int) -> float:
    """Seconds of processor time so far, of all threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def times(pids: Iterable[int]) -> dict[int, float]:
    """Process -> `cpu`, of those that there still are."""
    found = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = cpu(pid)
    return found


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def peak(pid: int) -> int:
    """The most that `memory` has been, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def forget_peak(pid: int) -> None:
    """Have `peak` count from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def relays(pid: int) -> list[int]:
    """The processes below a gateway that are relays of sandboxes; a gateway without sandboxes has none."""
    return [each for each in descendants(pid) if _RELAY in arguments(each)]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def arguments(pid: int) -> list[bytes]:
    """What it was started with; nothing of one that has ended, nor of bwrap, whose end are its child's."""
    try:
        found = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found if not found[0].endswith(b"bwrap") else []


def _stat(pid: int) -> list[str]:
    """The fields of stat from the third, the state, on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
