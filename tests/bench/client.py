"""The clients that measure: as thin as can be, so that they outrun what they measure.

`WebSocketClient` speaks just enough of RFC 6455 over a blocking socket, and answers pings as the RFC asks
(5.5.2). `BareClient` is the same over a kernel's own ZMQ sockets.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from gateway.wire import messages

V1 = "v1.kernel.websocket.jupyter.org"
IDLE = b'"execution_state": "idle"'


def header(msg_type: str) -> dict[str, str]:
    return {
        "msg_id": uuid.uuid4().hex,
        "session": "bench",
        "username": "bench",
        "date": "2026-01-01T00:00:00.000000Z",
        "msg_type": msg_type,
        "version": "5.4",
    }


def execute_request(code: str) -> tuple[bytes, list[bytes]]:
    """The message id as bytes, and header, parent, metadata and content."""
    head = header("execute_request")
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    return head["msg_id"].encode(), [json.dumps(head).encode(), b"{}", b"{}", json.dumps(content).encode()]


class Client:
    """One connection to one kernel.

    `first` and `last` are the times of the first and the last stream message of the last `execute`.
    """

    first = last = 0.0

    def send(self, channel: str, parts: list[bytes]) -> None:
        raise NotImplementedError

    def receive(self) -> bytes:
        """The next message, whole, in whatever layout the connection has."""
        raise NotImplementedError

    def execute(self, code: str, pause: Any = None) -> tuple[int, int]:
        """Run `code` until its reply and its idle are here; `pause()` is called once it is sent.

        Returns the number of its stream messages and their bytes.
        """
        msg_id, parts = execute_request(code)
        self.send("shell", parts)
        if pause is not None:
            pause()
        count = size = 0
        self.first = 0.0
        replied = idle = False
        while not (replied and idle):
            message = self.receive()
            head = message[:900]
            if b'"stream"' in head:
                self.last = time.perf_counter()
                self.first = self.first or self.last
                count += 1
                size += len(message)
            elif msg_id in message[:2000]:
                if b'"execute_reply"' in head or b'"execute_reply"' in message[:2000]:
                    replied = True
                elif IDLE in message:
                    idle = True
        return count, size

    def close(self) -> None:
        raise NotImplementedError


class WebSocketClient(Client):
    """A websocket to `/api/kernels/{id}/channels`, in the v1 protocol or the legacy one."""

    def __init__(self, port: int, path: str, token: str, v1: bool) -> None:
        self.v1 = v1
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: token {token}",
        ]
        if v1:
            lines.append(f"Sec-WebSocket-Protocol: {V1}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.buffer = bytearray()
        self.position = 0
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        answer, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if b" 101 " not in answer:
            raise RuntimeError(f"no websocket: {answer!r}")
        self.buffer = bytearray(rest)

    def send(self, channel: str, parts: list[bytes]) -> None:
        if self.v1:
            self._send_frame(2, b"".join(messages.pack(channel, parts)))
            return
        names = ("header", "parent_header", "metadata", "content")
        message = dict(zip(names, map(json.loads, parts), strict=True)) | {"channel": channel, "buffers": []}
        self._send_frame(1, json.dumps(message).encode())

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

    def receive(self) -> bytes:
        while True:
            opcode, payload = self._frame()
            if opcode in (1, 2):
                return payload
            if opcode == 9:
                self._send_frame(10, payload)
            elif opcode == 8:
                raise RuntimeError(f"the gateway closed the websocket: {payload!r}")

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

    def close(self) -> None:
        self.socket.close()


class BareClient(Client):
    """The kernel's own sockets over ipc, as `jupyter_client` would use them, without its Python."""

    def __init__(self, folder: Path) -> None:
        self.context = zmq.Context()
        self.shell = self._socket(zmq.DEALER, f"ipc://{folder}/k-1")
        self.iopub = self._socket(zmq.SUB, f"ipc://{folder}/k-2")
        self.iopub.subscribe(b"")
        self.poller = zmq.Poller()
        for each in (self.shell, self.iopub):
            self.poller.register(each, zmq.POLLIN)
        self.waiting: Iterator[bytes] = iter(())

    def _socket(self, kind: int, url: str) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        made.linger = 0
        made.rcvhwm = 0
        made.reconnect_ivl = 1
        made.connect(url)
        return made

    def wait_until_heard(self) -> None:
        """Return once the kernel answers and its iopub reaches this client."""
        while True:
            self.send("shell", [json.dumps(header("kernel_info_request")).encode(), b"{}", b"{}", b"{}"])
            self.poller.poll(1000)
            if self.iopub.poll(50):
                break
        while self.shell.poll(0):
            self.shell.recv_multipart()

    def send(self, channel: str, parts: list[bytes]) -> None:
        self.shell.send_multipart([b"<IDS|MSG>", b"", *parts])

    def receive(self) -> bytes:
        while True:
            for message in self.waiting:
                return message
            self.waiting = self._batch()

    def _batch(self) -> Iterator[bytes]:
        for ready, _ in self.poller.poll():
            for _ in range(1000):
                try:
                    yield b"".join(ready.recv_multipart(zmq.NOBLOCK))
                except zmq.Again:
                    break

    def close(self) -> None:
        self.context.destroy(linger=0)


def rest(port: int, token: str, method: str, path: str, body: Any = None) -> Any:
    """One REST call; the JSON of its answer, or None."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # loopback
        data = answer.read()
    return json.loads(data) if data else None


def ceiling(count: int = 100_000) -> float:
    """Messages per second that `WebSocketClient` itself takes when the sender costs nothing."""
    payload = b"".join(messages.pack("iopub", [b'{"msg_type": "stream"}' + b" " * 250, b"{}", b"{}", b"{}"]))
    frame = struct.pack(">BBH", 0x82, 126, len(payload)) + payload
    ours, theirs = socket.socketpair()
    client = WebSocketClient.__new__(WebSocketClient)
    client.socket, client.buffer, client.position, client.v1 = ours, bytearray(), 0, True
    sender = threading.Thread(target=lambda: [theirs.sendall(frame * 100) for _ in range(count // 100)])
    start = time.perf_counter()
    sender.start()
    for _ in range(count):
        client.receive()
    elapsed = time.perf_counter() - start
    sender.join()
    ours.close()
    theirs.close()
    return count / elapsed
