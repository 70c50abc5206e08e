"""What the suite needs of an implementation: a transport, and the relay's end of its stream to play with.

Another implementation of `gateway.transport.base.Transport` joins by one subclass of `Ends` in
`IMPLEMENTATIONS`.
"""

from __future__ import annotations

import abc
import asyncio
import socket

from gateway.transport.base import Transport
from gateway.transport.pipe import PipeTransport


class Peer(abc.ABC):
    """The relay's end of the stream, played by a test: honest, or not."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Hand over all of `data`, waiting as long as the other side does not take it.

        Raises `OSError` once the other side is gone.
        """

    @abc.abstractmethod
    async def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only where the stream ends."""

    @abc.abstractmethod
    async def end(self) -> None:
        """Say that nothing more will come, and go on reading."""

    @abc.abstractmethod
    async def vanish(self) -> None:
        """Be gone at once, as when the process is killed, leaving unread what came."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Give back what this end holds; never fails."""


class Ends(abc.ABC):
    """One implementation."""

    name: str
    #: Whether the protocol has a half-close.
    half_close: bool

    @abc.abstractmethod
    async def open(self) -> tuple[Transport, Peer]:
        """Both ends of a new stream."""


class SocketPeer(Peer):
    """The other end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = await self._loop.sock_recv(self._socket, min(size, 1 << 20))
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    async def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def vanish(self) -> None:
        self._socket.close()

    async def close(self) -> None:
        self._socket.close()


class PipeEnds(Ends):
    half_close = True

    def __init__(self, name: str, *, refuse: bool) -> None:
        self.name = name
        self._refuse = refuse

    async def open(self) -> tuple[Transport, Peer]:
        transport, child = PipeTransport.pair(refuse=self._refuse)
        return transport, SocketPeer(child)


IMPLEMENTATIONS: list[Ends] = [
    PipeEnds("pipe", refuse=True),
    PipeEnds("pipe where Linux is older than 6.16", refuse=False),
]
