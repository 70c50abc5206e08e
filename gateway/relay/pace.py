"""When to let the kernel's output gather, before it is taken and before it is written.

In a stream each wake-up of relay and gateway costs more than the message
it brings, so where more than `HOT` messages have come within `WINDOW` in small batches, the next are left
where they are for `GATHER` seconds and come as one. A batch that is large already needs no gathering.

A stream is told by its rate alone: short cells, one after the other, are no stream, and their user waits
for each. They make some 3 messages a cell, so they stay below 3,000 messages/s down to 1 ms a cell.

What is taken may wait as long, and for the same reason: a short cell's `busy`, its echo, its reply and its
`idle` come one by one, a wake-up each for everything between here and the client, which on a cluster is
five processes. Its user waits for the last of them. So while a kernel is busy little is written until a
request has ended, or something has waited for `GATHER`.
"""

from __future__ import annotations

#: Seconds that output may gather.
GATHER = 0.005
#: Seconds over which the rate is taken, and messages in them that are a stream.
WINDOW = 0.012
HOT = 40
#: Messages that are a batch worth its wake-up.
LARGE = 64
#: Bytes that are worth a wake-up however soon more may come.
MUCH = 4096


class Pace:
    """Follows one source of messages."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def taken(self, count: int, now: float) -> float | None:
        """`count` messages were taken: None, or until when the next are to gather."""
        if now - self._since > WINDOW:
            self._since = now
            self._count = 0
        self._count += count
        if self._count < HOT or count >= LARGE:
            return None
        # It goes on as a stream if what gathers is half as many.
        self._since = now + GATHER
        self._count = HOT // 2
        return self._since
