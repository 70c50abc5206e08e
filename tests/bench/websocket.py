"""A client of `/api/kernels/{id}/channels`: just enough of RFC 6455 over a blocking socket.

It answers pings as the RFC asks (5.5.2): what a gateway learns from pongs, it learns here too.
"""

from __future__ import annotations

import array
import base64
import fcntl
import json
import os
import socket
import termios
from collections.abc import Sequence
from typing import NamedTuple

from gateway.wire import messages

from .client import PATIENCE, Client

V1_SUBPROTOCOL = "v1.kernel.websocket.jupyter.org"


class Tape(NamedTuple):
    """All bytes that a gateway sent for some cells, to be played again."""

    protocol: str
    data: bytes
    #: The id of the last request among them.
    msg_id: bytes


class WebSocketClient(Client):
    """Speaks `protocol`, "v1" or "legacy", on a socket where the websocket's handshake is done.

    `buffer` is what came behind the handshake.
    """

    def __init__(self, connected: socket.socket, protocol: str, buffer: bytes = b"") -> None:
        self.socket = connected
        self.socket.settimeout(PATIENCE)
        self.protocol = protocol
        self.buffer = bytearray(buffer)
        self.position = 0
        self.tape: list[bytes] | None = None

    @classmethod
    def connect(cls, port: int, path: str, token: str, protocol: str) -> WebSocketClient:
        """A client of the server on `port`. Raises `RuntimeError` if it will not speak `protocol`."""
        connected = socket.create_connection(("127.0.0.1", port), PATIENCE)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: token {token}",
        ]
        if protocol == "v1":
            lines.append(f"Sec-WebSocket-Protocol: {V1_SUBPROTOCOL}")
        connected.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            data = connected.recv(1 << 16)
            if not data:
                break
            received += data
        answer, _, rest = received.partition(b"\r\n\r\n")
        # A server that does not know the subprotocol accepts the websocket all the same, and speaks legacy.
        spoken = "v1" if V1_SUBPROTOCOL.encode() in answer else "legacy"
        if b" 101 " not in answer or spoken != protocol:
            connected.close()
            raise RuntimeError(f"no websocket in the {protocol} protocol: {answer!r}")
        return cls(connected, protocol, rest)

    def send(self, channel: str, parts: Sequence[bytes]) -> None:
        if self.protocol == "v1":
            self._send_frame(2, messages.join(channel, parts))
            return
        names = ("header", "parent_header", "metadata", "content")
        message = dict(zip(names, map(json.loads, parts), strict=True)) | {"channel": channel, "buffers": []}
        self._send_frame(1, json.dumps(message).encode())

    def receive(self) -> bytes:
        while True:
            opcode, payload = self._frame()
            if opcode in (1, 2):
                return payload
            if opcode == 9:
                self._send_frame(10, payload)
            elif opcode == 8:
                raise EOFError(f"the gateway closed the websocket: {payload!r}")

    def unread(self) -> int:
        """Bytes that are in the socket and were not read."""
        answer = array.array("i", [0])
        fcntl.ioctl(self.socket, termios.FIONREAD, answer)
        return answer[0]

    def start_tape(self) -> None:
        """Keep all that comes from here on."""
        self.tape = [bytes(self.buffer[self.position :])]

    def take_tape(self) -> Tape:
        """What came since `start_tape`, which has to have been called."""
        if self.tape is None:
            raise RuntimeError("no tape was started")
        tape, self.tape = Tape(self.protocol, b"".join(self.tape), self.msg_id), None
        return tape

    def close(self) -> None:
        self.socket.close()

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            start = bytes((0x80 | opcode, 0x80 | size))
        elif size < 65536:
            start = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
        else:
            start = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
        # A mask of zeros is a mask (RFC 6455, 5.3) and costs the client nothing.
        self.socket.sendall(start + bytes(4) + payload)

    def _frame(self) -> tuple[int, bytes]:
        while True:
            buffer, at = self.buffer, self.position
            there = len(buffer) - at
            if there >= 2:
                size, start = buffer[at + 1], 2
                if size == 126:
                    start = 4
                    size = int.from_bytes(buffer[at + 2 : at + 4], "big") if there >= 4 else there
                elif size == 127:
                    start = 10
                    size = int.from_bytes(buffer[at + 2 : at + 10], "big") if there >= 10 else there
                if there >= start + size:
                    self.position = at + start + size
                    return buffer[at] & 15, bytes(memoryview(buffer)[at + start : at + start + size])
            if self.position:
                del buffer[: self.position]
                self.position = 0
            self._more()

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the gateway ended the connection")
        self.buffer += data
        if self.tape is not None:
            self.tape.append(data)
