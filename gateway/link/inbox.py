"""What waits for one client between the link that brings it and the websocket that takes it."""

from __future__ import annotations

import asyncio

from ..wire.window import COST


class InboxFullError(Exception):
    """More waited for a client than an honest relay lets wait; what came after that went past it."""


class Inbox:
    """The messages that wait for one client: `(number, v1 message)` in order.

    One task takes. `size` is what they count: their bytes, and `COST` for each. The link puts without
    waiting, and closes an inbox that has become too large.

    `offset` is added to each sequence number. A client may outlive a relay, whose successor counts from 1
    again; with the offset at what the last one reached, the client's numbers go on rising.
    """

    def __init__(self) -> None:
        self.size = 0
        self.offset = 0
        self.last = 0
        self._messages: list[tuple[int, bytes]] = []
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._closed: Exception | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._closed is not None

    def put(self, sequence: int, message: bytes) -> None:
        """Add without waking the taker; `wake` follows after a batch. Nothing is added once it is closed."""
        if self._closed is not None:
            return
        self.last = sequence + self.offset
        self._messages.append((self.last, message))
        self.size += len(message) + COST
        self._emptied.clear()

    def put_local(self, message: bytes) -> None:
        """Add a message of the gateway's own, which has no number of its own, and wake the taker.

        Nothing is added once it is closed.
        """
        if self._closed is not None:
            return
        self._messages.append((self.last, message))
        self.size += len(message) + COST
        self._emptied.clear()
        self._filled.set()

    def wake(self) -> None:
        """Let the taker see what was put."""
        self._filled.set()

    async def has_room(self, bound: int) -> bool:
        """Whether what waits counts less than `bound`. Where it does not, waits first until something was
        taken or the inbox is closed: ask again."""
        if self.size < bound or self._closed is not None:
            return True
        await self._emptied.wait()
        return False

    def drop(self) -> None:
        """Forget what waits: whoever goes on with this client is sent it again."""
        self._messages.clear()
        self.size = 0

    def close(self, error: Exception) -> None:
        """Nothing more will come: once empty, `take` raises `error`. The first close decides."""
        self._closed = self._closed or error
        self._filled.set()
        self._emptied.set()

    async def take(self) -> list[tuple[int, bytes]]:
        """All that waits, at least one message; cancelling loses none."""
        while not self._messages:
            if self._closed is not None:
                raise self._closed
            self._filled.clear()
            await self._filled.wait()
        messages, self._messages = self._messages, []
        self.size = 0
        self._emptied.set()
        return messages
