"""What has come by an exec stream and was not received yet, and when the server is read on.

Each binary message of the websocket is one channel's (k8s.io/streaming, pkg/httpstream/wsstream): its first
byte says which, the rest is the channel's bytes. stdout is the stream. Of stderr the end is kept. A Status
on the error channel is the end of the stream: the server writes it after all of the command's output.

The server is not read on while `BUFFER` bytes wait. Every message counts, and each for more than its bytes:
what nobody will receive, such as a flood on stderr, or millions of empty messages, costs memory and turns
of the loop as well.
"""

from __future__ import annotations

import asyncio
from collections import deque

from . import exec_status
from .base import TransportBrokenError
from .exec_status import ExecEnd

STDIN, STDOUT, STDERR, STATUS, CLOSE = 0, 1, 2, 3, 255

#: Bytes that one `receive` returns at most. A message of that size is the largest that may come.
MOST = 1024 * 1024
#: Bytes that may wait to be received; a message of `MOST` may come on top.
BUFFER = 256 * 1024
#: Bytes that a message counts for beside its own: about what its objects take.
_OVERHEAD = 256


class Arrivals:
    """Filled by the connection (`take`, `lost`), emptied by its receiver (`wait`, `next`). To be used
    within one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[memoryview] = deque()
        self._held = 0
        self._last_words = b""
        #: What the server said of the command's end.
        self.end: ExecEnd | None = None
        #: Why nothing more can come; set once.
        self.over: str | None = None
        # Futures only wake a task, which then finds out why.
        self._room: asyncio.Future[None] | None = None
        self._receiver: asyncio.Future[None] | None = None

    # -- the connection's side ----------------------------------------------------------------------

    def take(self, message: str | bytes) -> asyncio.Future[None] | None:
        """One message. The next one may come when the future is done, where there is one.

        What comes behind the end is dropped.
        """
        if self.over is not None:
            return None
        if isinstance(message, str):
            self.lost("the API server sent text, which the exec protocol does not have")
            return None
        # The server opens with an empty message.
        if len(message) > 1:
            self._sort(message[0], memoryview(message)[1:])
        self._held += _OVERHEAD + len(message)
        if self._held <= BUFFER or self.over is not None:
            return None
        self._room = self._loop.create_future()
        if self._receiver is not None and not self._chunks:
            # None of it was for who waits, so only the other tasks get their turn.
            self._loop.call_soon(self._go_on)
        return self._room

    def lost(self, why: str) -> None:
        """Nothing more will come, for this reason, which counts only where none was given before."""
        if self.over is None:
            self.over = why
            _wake(self._receiver)

    def close(self) -> None:
        """Drop what waits, and let nobody wait."""
        self.lost("this side has closed the stream")
        self._chunks.clear()
        self._go_on()

    def _sort(self, channel: int, data: memoryview) -> None:
        if channel == STDOUT:
            self._chunks.append(data)
            _wake(self._receiver)
        elif channel == STDERR:
            tail = data[-exec_status.LAST_WORDS :]
            self._last_words = (self._last_words + tail)[-exec_status.LAST_WORDS :]
        elif channel == STATUS:
            self.end = exec_status.read(data, self._last_words)
            self.lost(str(self.end))

    # -- the receiver's side ------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until `next` has something to say, and at least for one turn of the loop. One task at a time."""
        if self._chunks or self.over is not None:
            await asyncio.sleep(0)
            return
        self._go_on()
        self._receiver = self._loop.create_future()
        try:
            await self._receiver
        finally:
            self._receiver = None

    def next(self) -> bytes:
        """The next bytes of stdout, joined; `b""` where the command has ended with 0. Only after `wait`.

        Raises `TransportBrokenError` at any other end.
        """
        if self._chunks:
            return self._join()
        if self.end is not None and self.end.is_orderly:
            return b""
        raise TransportBrokenError(self.over)

    def _join(self) -> bytes:
        parts = []
        size = 0
        while self._chunks and size + len(self._chunks[0]) <= MOST:
            part = self._chunks.popleft()
            parts.append(part)
            size += len(part)
        self._held -= size + _OVERHEAD * len(parts)
        self._go_on()
        return b"".join(parts)

    def _go_on(self) -> None:
        if not self._chunks:
            self._held = 0
        if self._held <= BUFFER:
            _wake(self._room)
            self._room = None


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
