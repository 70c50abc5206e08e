"""Finds a relay's next stream when the last one has ended: how long it is tried, and how often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ..transport.base import Transport, TransportError

#: Seconds between two looks, at first and at most.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
#: Seconds after which a stream was a good one, so that the next one need not wait.
STABLE = 5.0

#: Gives another stream to the same relay. Raises `TransportError` where there is none now.
Reconnect = Callable[[], Awaitable[Transport]]


class Seeker:
    """`reconnect` is None where a relay has one stream.

    It gives up `patience` seconds after the end of the last stream in which the relay was heard. A stream
    that ends as soon as it has begun is no success: the next one has to wait longer.
    """

    def __init__(self, reconnect: Reconnect | None, patience: float) -> None:
        self.reconnect = reconnect
        self._patience = patience
        self._abandoned: str | None = None
        self._abandon = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + patience
        self._pause = 0.0
        self._trouble = ""

    def abandon(self, reason: str) -> None:
        """There is no other stream to be had, for this reason."""
        self._abandoned = reason
        self._abandon.set()

    def ended(self, lasted: float, *, greeted: bool) -> None:
        """A stream has ended after so many seconds, in which the relay was heard or not."""
        if greeted:
            self._deadline = self._clock() + self._patience
        if lasted > STABLE:
            self._pause = 0.0

    def why(self, reason: str) -> str:
        """Why there is no other stream; `reason` is why the last one has ended."""
        if self._abandoned is not None:
            return self._abandoned
        return f"{reason}, and then: {self._trouble}" if self._trouble else reason

    async def next(self) -> Transport | None:
        """Another stream to the same relay; None where there is none to be had (`why`)."""
        self._trouble = ""
        while self.reconnect is not None and self._abandoned is None and self._clock() < self._deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._abandon.wait(), self._pause)
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            try:
                transport = await self._connect(self.reconnect)
            except TransportError as error:
                self._trouble = str(error)
            else:
                if transport is not None:
                    return transport
        return None

    async def _connect(self, reconnect: Reconnect) -> Transport | None:
        """One attempt, which ends with None when there is none to be had. Raises `TransportError`."""
        working = asyncio.ensure_future(reconnect())
        waiting = asyncio.create_task(self._abandon.wait())
        taken = False
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            taken = working.done()
            return working.result() if taken else None
        finally:
            for task in (working, waiting):
                task.cancel()
            transport, _ = await asyncio.gather(working, waiting, return_exceptions=True)
            if not taken and isinstance(transport, Transport):
                await transport.close()
