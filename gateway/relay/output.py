"""What the kernel's process prints outside of Jupyter: a few lines a second become LOG, the last are kept.

A kernel that floods its stdout must neither fill the link nor stop, so everything is read, and what goes
beyond the allowance is counted and dropped.
"""

from __future__ import annotations

import os
from collections import deque

from ..wire.allowance import Allowance

MAX_LINE = 4096
_READ = 64 * 1024
_TAIL_LINES = 20
_TAIL_CHARACTERS = 2000


class Output:
    """Reads the pipe `descriptor` (nonblocking) of one kernel process, which it owns."""

    def __init__(self, descriptor: int, now: float) -> None:
        self.descriptor = descriptor
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._allowance = Allowance(now)

    def read(self, now: float) -> tuple[str, bool]:
        """What is to be told now (whole lines or ""), and whether more may come."""
        try:
            data = os.read(self.descriptor, _READ)
        except BlockingIOError:
            return "", True
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE or (not data and self._partial):
            lines.append(self._partial)
            self._partial = b""
        return self._told([line[:MAX_LINE].decode(errors="replace") for line in lines], now), bool(data)

    def read_rest(self, now: float) -> str:
        """Everything that is left in the pipe of a process that has ended.

        Bounded by the pipe's size (64 KiB) and not by its end, which a child that lives on may hold open.
        """
        text, _ = self.read(now)
        if self._partial:
            text += self._told([self._partial[:MAX_LINE].decode(errors="replace")], now)
            self._partial = b""
        return text

    def tail(self) -> str:
        """The last lines, shortened to what fits into a reason."""
        return "\n".join(self._tail).strip()[-_TAIL_CHARACTERS:]

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self.descriptor)

    def _told(self, lines: list[str], now: float) -> str:
        self._tail.extend(lines)
        return self._allowance.limit(lines, now)
