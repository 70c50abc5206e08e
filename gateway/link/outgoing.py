"""What goes to one relay: collected while the transport is busy, and written in one piece."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from ..transport.base import Transport
from ..wire import framing
from ..wire.framing import Kind


class Outgoing:
    """Queues without waiting; `write` is a task's work. Who posts bounds what waits.

    Acknowledgements and the answer to a PING are kept apart, the newest of each, so that they cost no memory
    however slow the transport is.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []
        self._acks: dict[int, int] = {}
        self._pong: bytes | None = None
        self._wake = asyncio.Event()
        self._sending = False
        self._gone = asyncio.Event()

    def post(self, *pieces: bytes) -> None:
        """Send the bytes of a frame behind what waits."""
        self._waiting += pieces
        self._wake.set()

    def acknowledge(self, route: int, sequence: int) -> None:
        """Send an ACK for a route, in place of an earlier one that still waits."""
        self._acks[route] = sequence
        self._wake.set()

    def flush_acks(self) -> None:
        """Put the ACKs that wait before what is posted next."""
        for route, sequence in self._acks.items():
            self._waiting.append(framing.encode(Kind.ACK, route, framing.SEQUENCE.pack(sequence)))
        self._acks.clear()

    def answer(self, ping: int) -> None:
        """Send the PONG to a PING, in place of one that still waits."""
        self._pong = framing.encode(Kind.PONG, payload=framing.SEQUENCE.pack(ping))
        self._wake.set()

    async def drained(self) -> None:
        """Wait until everything has gone to the transport, as long as `write` runs."""
        while self._wake.is_set() or self._sending:
            self._gone.clear()
            await self._gone.wait()

    async def write(self) -> NoReturn:
        """Write for ever. Raises `TransportError`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.flush_acks()
            if self._pong is not None:
                self._waiting.append(self._pong)
                self._pong = None
            waiting, self._waiting = self._waiting, []
            self._sending = True
            await self._transport.send(b"".join(waiting))
            self._sending = False
            self._gone.set()
