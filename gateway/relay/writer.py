"""What waits for the transport, and its nonblocking writing."""

from __future__ import annotations

import os
from collections import deque
from itertools import islice

#: Buffers for one writev; the system's limit is 1024 (IOV_MAX).
_BATCH = 512


class Writer:
    """A queue of bytes in front of a nonblocking descriptor."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        #: Bytes that wait.
        self.unsent = 0
        self._queue: deque[bytes | memoryview] = deque()

    def write(self, data: bytes) -> None:
        """Queue `data` behind what waits; `flush` sends."""
        if data:
            self._queue.append(data)
            self.unsent += len(data)

    def flush(self) -> bool:
        """Send what the transport takes now; True if something still waits.

        Raises `OSError` when the other end is gone.
        """
        queue = self._queue
        while queue:
            try:
                written = os.writev(self.descriptor, list(islice(queue, _BATCH)))
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
