"""Whether the kernel of this sandbox was ended for want of memory, as its cgroup tells.

The counter is read where a container sees its own group: `memory.events` on cgroup v2, and
`memory/memory.oom_control` on v1 (Linux, Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst). A backend without a container runtime shows the same files at the same places.
Where there are none, nothing is claimed.
"""

from __future__ import annotations

_EVENTS = ("memory.events", "memory/memory.oom_control")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
#: Above this, v1 means "no limit" (it has no word for it).
_NO_LIMIT = 1 << 60


class MemoryWatch:
    """Remembers the count of kills for want of memory, to see later whether there were more."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self._root = root
        self._before = self._kills()

    def was_exceeded(self) -> bool:
        """Whether a process has been killed for want of memory since this was made."""
        return self._kills() > self._before

    def limit(self) -> str:
        """The limit for a sentence, such as "512 MiB"; "" where it cannot be seen."""
        for name in _LIMITS:
            try:
                limit = int(self._read(name))
            except (OSError, ValueError):
                continue
            if limit < _NO_LIMIT:
                return f"{limit / 2**20:g} MiB"
        return ""

    def _kills(self) -> int:
        for name in _EVENTS:
            try:
                lines = self._read(name).splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    return int(value)
        return 0

    def _read(self, name: str) -> str:
        with open(f"{self._root}/{name}") as file:
            return file.read()
