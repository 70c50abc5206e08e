"""A client of the channels websocket, in both protocols, on a gateway that is a program of its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

from gateway.web.protocol import SUBPROTOCOL
from gateway.wire import messages

#: Seconds that a kernel gets to start or to answer, on a machine that does other things as well.
PATIENCE = 60

Message = dict[str, Any]


class Kernels:
    """The gateway's REST surface, as far as these tests need it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        """A kernel of its own for a test; shut down at the end."""
        answer = await self.call("POST", "api/kernels", {"name": "python3"})
        async with self._until_end(json.loads(answer.body)["id"]) as kernel:
            yield kernel

    @asynccontextmanager
    async def starting_kernel(self, name: str) -> AsyncIterator[Kernel]:
        """As `kernel`, as soon as the gateway knows of it."""
        known = await self._ids()
        starting = asyncio.create_task(self.call("POST", "api/kernels", {"name": name}))
        async with asyncio.timeout(PATIENCE):
            while not (new := await self._ids() - known):  # noqa: ASYNC110  # REST has no event
                await asyncio.sleep(0)
        async with self._until_end(new.pop()) as kernel:
            yield kernel
            await starting

    @asynccontextmanager
    async def _until_end(self, kernel_id: str) -> AsyncIterator[Kernel]:
        kernel = Kernel(self, kernel_id)
        try:
            yield kernel
        finally:
            for client in kernel.clients:
                await client.close()
            await self.call("DELETE", f"api/kernels/{kernel.id}", check=False)

    async def _ids(self) -> set[str]:
        return {model["id"] for model in json.loads((await self.call("GET", "api/kernels")).body)}

    async def call(self, method: str, path: str, body: object = None, *, check: bool = True) -> HTTPResponse:
        return await AsyncHTTPClient().fetch(
            self._url + path,
            method=method,
            headers={"Authorization": f"token {self._token}"},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=PATIENCE,
            raise_error=check,
        )

    async def websocket(self, kernel_id: str, session_id: str, v1: bool) -> WebSocketClientConnection:
        url = f"{self._url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels?session_id={session_id}"
        request = HTTPRequest(url, headers={"Authorization": f"token {self._token}"})
        return await websocket_connect(
            request, subprotocols=[SUBPROTOCOL] if v1 else None, max_message_size=1 << 28
        )


class Kernel:
    def __init__(self, kernels: Kernels, kernel_id: str) -> None:
        self._kernels = kernels
        self.id = kernel_id
        self.clients: list[Client] = []

    async def connect(self, *, v1: bool, session_id: str = "") -> Client:
        session_id = session_id or uuid.uuid4().hex
        client = Client(await self._kernels.websocket(self.id, session_id, v1), v1)
        self.clients.append(client)
        return client

    async def act(self, action: str) -> HTTPResponse:
        """`interrupt` or `restart`."""
        return await self._kernels.call("POST", f"api/kernels/{self.id}/{action}", {})

    async def model(self) -> Message:
        model: Message = json.loads((await self._kernels.call("GET", f"api/kernels/{self.id}")).body)
        return model

    async def shut_down(self) -> None:
        await self._kernels.call("DELETE", f"api/kernels/{self.id}")


class Client:
    """Sends requests and reads messages as dicts with `channel` and `buffers`, whatever the protocol."""

    def __init__(self, websocket: WebSocketClientConnection, v1: bool) -> None:
        self.websocket = websocket
        self._v1 = v1
        self._ended = False
        self._delivered = 0
        self._before_ping = 0
        #: How many of the first messages the gateway knows to be read, whatever happens from now on.
        self.proved = 0
        # Tornado calls what it finds under these names, in the order of the frames.
        self._deliver, websocket.on_message = websocket.on_message, self._on_message  # type: ignore[method-assign]
        websocket.on_ping = self._on_ping  # type: ignore[method-assign]

    def _on_message(self, told: str | bytes) -> Awaitable[None] | None:
        self._delivered += 1
        return self._deliver(told)

    def _on_ping(self, asked: bytes) -> None:
        # The library has answered. The gateway asks again only when it has that answer (protocol.md 2.5).
        if asked:
            self.proved, self._before_ping = self._before_ping, self._delivered

    async def send(
        self, msg_type: str, content: Message, *, channel: str = "shell", buffers: tuple = ()
    ) -> str:
        """Send a request; its msg_id."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": "a-client",
            "username": "",
            "date": "2026-01-01T00:00:00Z",
            "version": "5.3",
        }
        if self._v1:
            parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
            await self.websocket.write_message(messages.join(channel, [*parts, *buffers]), binary=True)
        else:
            message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
            await self.websocket.write_message(json.dumps(message | {"channel": channel}))
        return msg_id

    async def execute(self, code: str) -> str:
        return await self.send("execute_request", {"code": code, "silent": False, "allow_stdin": False})

    async def receive(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            told = await self._next()
        assert told is not None, (self.websocket.close_code, self.websocket.close_reason)
        return self._read(told)

    async def _next(self) -> str | bytes | None:
        """The next frame, None at the end and from then on."""
        told = None if self._ended else await self.websocket.read_message()
        self._ended = told is None
        return told

    def _read(self, told: str | bytes) -> Message:
        assert isinstance(told, bytes) is self._v1
        if isinstance(told, str):
            message: Message = json.loads(told)
            return message
        channel, parts = messages.unpack(told)
        header, parent, metadata, content = (json.loads(part) for part in parts[:4])
        return {
            "header": header,
            "parent_header": parent,
            "metadata": metadata,
            "content": content,
            "channel": channel,
            "buffers": parts[4:],
        }

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """Everything up to the first message for which the condition holds, that included."""
        seen = [await self.receive()]
        while not condition(seen[-1]):
            seen.append(await self.receive())
        return seen

    async def until_printed(self, wanted: str) -> list[Message]:
        """Everything up to where this has been printed, be it by one message or by several."""
        seen: list[Message] = []
        while wanted not in text(seen):
            seen.append(await self.receive())
        return seen

    async def answer(self, msg_id: str) -> list[Message]:
        """Everything that belongs to a request, up to its reply and its idle."""
        wanted = {"reply", "idle"}
        seen = []
        while wanted:
            message = await self.receive()
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            seen.append(message)
            kind = message["header"]["msg_type"]
            if kind.endswith("_reply"):
                wanted.discard("reply")
            elif kind == "status" and message["content"]["execution_state"] == "idle":
                wanted.discard("idle")
        return seen

    async def run(self, code: str) -> list[Message]:
        return await self.answer(await self.execute(code))

    async def closed(self) -> tuple[int | None, str | None]:
        async with asyncio.timeout(PATIENCE):
            while await self._next() is not None:
                pass
        return self.websocket.close_code, self.websocket.close_reason

    async def vanish(self) -> list[Message]:
        """End as a machine does that loses its network, without a close frame.

        Returns what the library had taken, and thereby acknowledged, without having been asked for it.
        """
        self.websocket.stream.close()
        taken = []
        async with asyncio.timeout(PATIENCE):
            while (told := await self._next()) is not None:
                taken.append(self._read(told))
        return taken

    async def close(self) -> None:
        """Close, and read what is still there, without which the library's own task would wait for ever."""
        self.websocket.close()
        await self.closed()


def text(told: list[Message], name: str = "stdout") -> str:
    """What a cell printed."""
    return "".join(
        message["content"]["text"]
        for message in told
        if message["header"]["msg_type"] == "stream" and message["content"]["name"] == name
    )


def kinds(told: list[Message]) -> list[str]:
    return [message["header"]["msg_type"] for message in told]
