"""A client of a kernel in this process, and what tests wait for."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from typing import Any

from gateway.kernels.attachment import Attachment
from gateway.kernels.kernel import Kernel
from gateway.kernels.registry import Kernels
from gateway.wire import messages

PATIENCE = 60


class Told:
    """What a client was told about one request."""

    def __init__(self) -> None:
        self.text = ""
        self.error = ""
        self.reply: dict[str, Any] = {}
        self.idle = False


class Client:
    """Runs cells over an attachment and gathers what comes back for each, within `patience` seconds."""

    def __init__(self, kernel: Kernel, patience: float = PATIENCE) -> None:
        self._patience = patience
        self.attachment: Attachment = kernel.attach(uuid.uuid4().hex)
        self.told: dict[str, Told] = {}
        self._input = asyncio.Event()

    async def begin(self, code: str) -> str:
        msg_id = uuid.uuid4().hex
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
        await self._send("shell", "execute_request", msg_id, content)
        self.told[msg_id] = Told()
        return msg_id

    async def begin_busy(self, then: str = "time.sleep(600)") -> str:
        """Begin a cell, and return when it runs: it has printed a line, and then does `then`."""
        msg_id = await self.begin(f"print('here', flush=True)\nimport os, time\n{then}")
        await self.until(lambda: self.told[msg_id].text)
        return msg_id

    async def _send(self, channel: str, kind: str, msg_id: str, content: dict[str, Any]) -> None:
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": "s",
            "username": "u",
            "version": "5.4",
            "date": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        await self.attachment.send(messages.join(channel, parts))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(self._patience):
            while not condition():
                for number, message in await self.attachment.receive():
                    self._take(message)
                    self.attachment.acknowledge(number)

    def _take(self, message: bytes) -> None:
        header, parent, _, content = map(json.loads, messages.unpack(message).parts[:4])
        if header["msg_type"] == "input_request":
            self._input.set()
        told = self.told.get(parent.get("msg_id", ""))
        if told is None:
            return
        match header["msg_type"]:
            case "stream":
                told.text += content["text"]
            case "execute_reply":
                told.reply = content
                told.error = content.get("ename", "")
            case "status" if content["execution_state"] == "idle":
                told.idle = True

    async def end(self, msg_id: str) -> Told:
        told = self.told[msg_id]
        await self.until(lambda: told.idle and told.reply)
        return told

    async def run(self, code: str) -> Told:
        return await self.end(await self.begin(code))

    async def asked(self) -> None:
        await self.until(self._input.is_set)


async def started(kernels: Kernels, name: str = "python", env: dict[str, str] | None = None) -> Kernel:
    kernel = kernels.create(name, env or {}, "someone")
    async with asyncio.timeout(PATIENCE):
        await kernel.wait_ready()
    assert kernel.execution_state == "idle", kernel.reason
    return kernel


async def becomes(kernel: Kernel, *states: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while kernel.execution_state not in states:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.02)
