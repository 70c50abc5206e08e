"""When the kernel has to stop and wait for its clients (docs/protocol.md 1.4).

It stops above a bound and goes on below half of it. An interrupt lets it go for a moment whatever
waits: a stopped process cannot follow a signal, and an endless flood is what gets interrupted most.
"""

from __future__ import annotations

from ..wire.window import GRACE_BYTES

#: Bytes that may wait for the transport.
MAX_UNSENT = 4 << 20
#: Seconds after an interrupt until the bounds count again; they do earlier where much comes.
GRACE = 0.5


class Brake:
    """`on` tells whether the kernel has to wait."""

    def __init__(self) -> None:
        self.on = False
        self._grace_until = 0.0
        self._grace_bytes = 0

    def update(self, backlog: int, window: int, unsent: int, now: float) -> bool:
        """Follow the bytes that clients have not acknowledged and that wait unsent; True on a change."""
        was_on = self.on
        if self.on:
            self.on = backlog > window // 2 or unsent > MAX_UNSENT // 2
        elif now >= self._grace_until or backlog + unsent > self._grace_bytes:
            self.on = backlog > window or unsent > MAX_UNSENT
        return self.on is not was_on

    def release(self, backlog: int, unsent: int, now: float) -> None:
        """Let go for the moment that an interrupt needs."""
        self.on = False
        self._grace_until = now + GRACE
        self._grace_bytes = backlog + unsent + GRACE_BYTES
