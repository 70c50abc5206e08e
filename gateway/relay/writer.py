"""What waits for the transport, and its nonblocking writing.

A relay that outlives its gateway has no transport at times. What is written then is dropped: the outbox
keeps the messages, and the next gateway is told everything else afresh.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice

#: Buffers for one writev; the system's limit is 1024 (IOV_MAX).
_BATCH = 512


class Writer:
    """A queue of bytes in front of a nonblocking descriptor, which belongs to whoever attaches it."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        #: Bytes that wait.
        self.unsent = 0
        self._queue: deque[bytes | memoryview] = deque()

    def attach(self, descriptor: int) -> None:
        """Write to `descriptor` from now on."""
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor

    def detach(self) -> None:
        """Write nowhere, and forget what waits."""
        self.descriptor = None
        self.unsent = 0
        self._queue.clear()

    def write(self, data: bytes) -> None:
        """Queue `data` behind what waits; `flush` sends."""
        if data and self.descriptor is not None:
            self._queue.append(data)
            self.unsent += len(data)

    def flush(self) -> bool:
        """Send what the transport takes now; True if something still waits.

        Raises `OSError` when the other end is gone.
        """
        queue, descriptor = self._queue, self.descriptor
        while queue and descriptor is not None:
            try:
                written = os.writev(descriptor, list(islice(queue, _BATCH)))
            except BlockingIOError:
                return True
            self.unsent -= written
            while written:
                first = queue[0]
                if written < len(first):
                    # A view, so that a large message is not copied for each piece that goes.
                    queue[0] = memoryview(first)[written:]
                    break
                written -= len(first)
                queue.popleft()
        return False
