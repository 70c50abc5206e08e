"""When the kernel has to stop and wait for its clients (docs/protocol.md 1.4).

It stops above a bound and goes on below half of it. An interrupt or a shutdown lets it go for some bytes
more, whatever waits: a stopped process cannot follow a signal or a request, and an endless flood is what gets
interrupted most. Bytes and not seconds, because nobody knows when a busy machine lets the kernel see what it
was asked.
"""

from __future__ import annotations

from ..wire.window import GRACE_BYTES

#: Bytes that may wait for the transport.
MAX_UNSENT = 4 << 20


class Brake:
    """`on` tells whether the kernel has to wait."""

    def __init__(self) -> None:
        self.on = False
        #: Bytes that may wait whatever the bounds say, from `release` to the next stop.
        self._grace = 0

    def update(self, backlog: int, window: int, unsent: int) -> bool:
        """Follow the bytes that clients have not acknowledged and that wait unsent; True on a change."""
        was_on = self.on
        if self.on:
            self.on = backlog > window // 2 or unsent > MAX_UNSENT // 2
        elif backlog + unsent > self._grace and (backlog > window or unsent > MAX_UNSENT):
            self.on = True
            self._grace = 0
        return self.on is not was_on

    def release(self, backlog: int, unsent: int) -> None:
        """Let go for what an interrupt or a shutdown needs."""
        self.on = False
        self._grace = backlog + unsent + GRACE_BYTES
