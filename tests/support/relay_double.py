"""A relay's end of a link, scripted by a test: it proves what the gateway does with what a relay says.

It is no sandbox and runs no kernel; tests/integration uses the real one.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.transport.base import Transport, TransportClosedError
from gateway.wire import framing
from gateway.wire.framing import Frame, FrameDecoder, Kind
from tests.support.patience import PATIENCE


class MemoryTransport(Transport):
    """The gateway's side of two queues of bytes; `RelayDouble` holds the other side."""

    def __init__(self) -> None:
        self.to_gateway: asyncio.Queue[bytes] = asyncio.Queue()
        self.to_relay: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False
        self.received = 0

    async def receive(self) -> bytes:
        if self.closed:
            raise TransportClosedError("closed")
        data = await self.to_gateway.get()
        self.received += len(data)
        return data

    async def send(self, data: bytes) -> None:
        if self.closed:
            raise TransportClosedError("closed")
        self.to_relay.put_nowait(data)

    async def send_eof(self) -> None:
        self.to_relay.put_nowait(b"")

    async def close(self) -> None:
        self.closed = True
        self.to_relay.put_nowait(b"")


class RelayDouble:
    """Says what a test tells it to, and hands over the gateway's frames one by one."""

    def __init__(self) -> None:
        self.transport = MemoryTransport()
        self.sequence = 0
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []

    def say(self, kind: Kind, route: int = 0, payload: bytes = b"", sequence: int = 0) -> None:
        self.say_bytes(framing.encode(kind, route, payload, sequence))

    def say_bytes(self, data: bytes) -> None:
        self.transport.to_gateway.put_nowait(data)

    def say_json(self, kind: Kind, value: Any, route: int = 0) -> None:
        self.say(kind, route, json.dumps(value).encode())

    def say_hello(self, **members: Any) -> None:
        hello = {
            "version": 1,
            "capabilities": [],
            "stream": "ab" * 8,
            "max_message": framing.DEFAULT_MAX_MESSAGE,
            "received": 0,
            "sent": 0,
            "command": 0,
            "state": "starting",
        }
        self.say_json(Kind.HELLO, hello | members)

    def say_message(self, payload: bytes, route: int = 0) -> int:
        self.sequence += 1
        self.say(Kind.MESSAGE, route, payload, self.sequence)
        return self.sequence

    def say_opened(self, route: int) -> None:
        self.say_json(Kind.OPENED, {"sequence": self.sequence, "lost": 0}, route)

    def end(self) -> None:
        self.transport.to_gateway.put_nowait(b"")

    async def hear(self, *kinds: Kind, within: float = PATIENCE) -> Frame:
        """The gateway's next frame of these kinds; frames before it are dropped."""
        async with asyncio.timeout(within):
            while True:
                while self._frames:
                    frame = self._frames.pop(0)
                    if frame.kind in kinds:
                        return frame
                data = await self.transport.to_relay.get()
                if not data:
                    raise EOFError("the gateway closed the link")
                self._frames += self._decoder.feed(data)

    async def hear_control(self, op: str) -> dict[str, Any]:
        """The gateway's next CONTROL, which has to be `op`."""
        control: dict[str, Any] = json.loads((await self.hear(Kind.CONTROL)).payload)
        assert control["op"] == op
        return control

    async def obey(self) -> None:
        """Answer every CONTROL from now on, until cancelled or until the gateway closes the link."""
        while True:
            self.answer(json.loads((await self.hear(Kind.CONTROL, within=60)).payload))

    def answer(self, control: dict[str, Any], error: str | None = None) -> None:
        answer = {"id": control["id"], "ok": error is None}
        self.say_json(Kind.CONTROL, answer if error is None else answer | {"error": error})
