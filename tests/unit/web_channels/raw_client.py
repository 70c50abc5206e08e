"""A websocket client byte by byte: it reads only when it is told to, and sends what no library would."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from types import TracebackType
from typing import Self

from gateway.web.protocol import SUBPROTOCOL
from tests.support.patience import PATIENCE
from tests.unit.web_channels.serving import TOKEN, Gateway

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

#: Masked, as a client's frames must be, with a mask that changes nothing (RFC 6455, 5.3).
_MASK = b"\0\0\0\0"


class RawClient:
    """Open with `async with await RawClient.open(...)`; left, the socket is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = bytearray()

    @classmethod
    async def open(
        cls, server: Gateway, query: str = "", *, v1: bool = True, headers: str = "", receive_buffer: int = 0
    ) -> RawClient:
        """Connect and shake hands. `receive_buffer` bounds in bytes what TCP takes for it unread."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        client = cls(sock)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        protocol = f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n" if v1 else ""
        path = f"/api/kernels/{server.kernel.id}/channels" + (f"?{query}" if query else "")
        await client.send_bytes(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Sec-WebSocket-Version: 13\r\nAuthorization: token {TOKEN}\r\n{protocol}{headers}\r\n".encode()
        )
        client.head = await client.read_until(b"\r\n\r\n")
        assert client.head.startswith(b"HTTP/1.1 101 "), client.head
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection, as a machine that loses power seems to."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # -- sending ------------------------------------------------------------------------------------

    async def send(self, opcode: int, payload: bytes, *, final: bool = True) -> None:
        await self.send_bytes(frame(opcode, payload, final=final))

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    # -- receiving ----------------------------------------------------------------------------------

    async def frame(self, within: float = PATIENCE) -> tuple[int, bytes]:
        """The gateway's next frame: opcode and payload."""
        async with asyncio.timeout(within):
            first, length = await self._read(2)
            assert first & 0xF0 == 0x80, "the gateway neither fragments nor extends"
            assert length < 128, "a server's frames are not masked"
            if length == 126:
                (length,) = struct.unpack("!H", await self._read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self._read(8))
            return first & 0x0F, await self._read(length)

    async def frame_of(self, *opcodes: int) -> bytes:
        """The payload of the next frame of these kinds; others before it are dropped."""
        while True:
            opcode, payload = await self.frame()
            if opcode in opcodes:
                return payload

    async def closed(self) -> tuple[int, str]:
        """The code and the reason with which the gateway closes."""
        payload = await self.frame_of(CLOSE)
        (code,) = struct.unpack("!H", payload[:2])
        return code, payload[2:].decode()

    async def ended(self) -> None:
        """Wait for the end of the connection; what still comes is dropped."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16):
                    pass
            except ConnectionResetError:
                pass

    async def read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._fill()
        return await self._read(self._buffer.index(end) + len(end))

    async def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
        if not data:
            raise EOFError("the gateway closed the connection")
        self._buffer += data


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """One frame as a client sends it."""
    return header(opcode, len(payload), final=final) + payload


def header(opcode: int, length: int, *, final: bool = True) -> bytes:
    """What precedes `length` bytes of payload, its mask included."""
    first = bytes([(0x80 if final else 0) | opcode])
    if length < 126:
        return first + bytes([0x80 | length]) + _MASK
    if length < 1 << 16:
        return first + struct.pack("!BH", 0x80 | 126, length) + _MASK
    return first + struct.pack("!BQ", 0x80 | 127, length) + _MASK
