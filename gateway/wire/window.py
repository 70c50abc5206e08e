"""What a window counts, and how far beyond it an honest relay may go (docs/protocol.md 1.4).

Both ends reckon with these figures: the relay keeps to them, and the gateway takes a relay that goes further
for a hostile one.
"""

from __future__ import annotations

#: Bytes that a message counts beside its own: what Python needs to keep one. A flood of the smallest
#: messages would otherwise cost several times its window.
COST = 128

#: Bytes that the relay takes from one of the kernel's sockets in one turn; the last message may go beyond.
BATCH_BYTES = 1 << 20
_SOCKETS = 4

#: Bytes for which an interrupt lets the kernel go on, beyond what waits already.
GRACE_BYTES = 16 << 20


def reach(window: int, max_message: int) -> int:
    """Bytes, with `COST`, that may wait for one client of an honest relay: the window, what one turn brings
    before the kernel is stopped, one message of the largest kind among it, and an interrupt's share."""
    return window + _SOCKETS * BATCH_BYTES + max_message + COST + GRACE_BYTES
