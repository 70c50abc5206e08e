"""What the system says of a process: its time, its memory, its descriptors, and what it started (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.relay import command

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RELAY = f"{command.FOLDER}/gateway/relay/__main__.py".encode()


def cpu(pid: int) -> float:
    """Seconds of processor time so far, of all threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


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
    return [each for each in descendants(pid) if _RELAY in _arguments(each)]


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


def _stat(pid: int) -> list[str]:
    """The fields of stat from the third, the state, on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _arguments(pid: int) -> list[bytes]:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    # bwrap's own command line ends with the relay's.
    return arguments if not arguments[0].endswith(b"bwrap") else []
