"""What the suite needs of an implementation: a transport, and the relay's end of its stream to play with.

Another implementation of `gateway.transport.base.Transport` joins by one subclass of `Ends` in
`IMPLEMENTATIONS`.
"""

from __future__ import annotations

import abc
import asyncio
import socket

from gateway.transport.base import Transport
from gateway.transport.kube_exec import ExecAddress, KubeExecTransport
from gateway.transport.pipe import PipeTransport
from tests.support import exec_server
from tests.support.certificates import loopback_tls
from tests.support.exec_server import Command, ExecServer


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
        """Say that nothing more will come, and go on reading where the protocol lets it."""

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
    #: Whether the peer has one. Where not, its end is the end of the stream: nothing can be sent any more.
    peer_half_close: bool

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
    peer_half_close = True

    def __init__(self, name: str, *, refuse: bool) -> None:
        self.name = name
        self._refuse = refuse

    async def open(self) -> tuple[Transport, Peer]:
        transport, child = PipeTransport.pair(refuse=self._refuse)
        return transport, SocketPeer(child)


class ExecPeer(Peer):
    """The command that the stand-in for an API server pretends to run; its end is an exit with 0."""

    def __init__(self, server: ExecServer, command: Command) -> None:
        self._server = server
        self._command = command

    async def write(self, data: bytes) -> None:
        await self._command.write(data)

    async def read(self, size: int) -> bytes:
        return await self._command.read(size)

    async def end(self) -> None:
        await self._command.exit(0)

    async def vanish(self) -> None:
        self._command.cut()

    async def close(self) -> None:
        await self._command.exit(0)
        self._server.close()


class ExecEnds(Ends):
    peer_half_close = False

    def __init__(self, name: str, subprotocol: str, *, half_close: bool, tls: bool) -> None:
        self.name = name
        self.half_close = half_close
        self._subprotocol = subprotocol
        self._tls = tls

    async def open(self) -> tuple[Transport, Peer]:
        servers, clients = loopback_tls() if self._tls else (None, None)
        server = ExecServer(self._subprotocol, tls=servers)
        address = ExecAddress(server.url, "c", ["cat"], ssl_context=clients)
        transport = await KubeExecTransport.open(address, within=5)
        return transport, ExecPeer(server, await server.command())


IMPLEMENTATIONS: list[Ends] = [
    PipeEnds("pipe", refuse=True),
    PipeEnds("pipe where Linux is older than 6.16", refuse=False),
    ExecEnds("exec v5 (stand-in server)", exec_server.V5, half_close=True, tls=False),
    ExecEnds("exec v5 over TLS (stand-in server)", exec_server.V5, half_close=True, tls=True),
    ExecEnds("exec v4 (stand-in server)", exec_server.V4, half_close=False, tls=False),
]
