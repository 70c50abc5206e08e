"""The gateway's end of a sandbox, cut down: starts a program in it as its kernel, and hears what that says.

The program need not be a kernel. What it prints comes as LOG, and its end as DIED (docs/protocol.md, 1.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from gateway.backends.base import Backend, Sandbox, SandboxRequest
from gateway.transport.base import Transport
from gateway.wire.framing import FrameDecoder, Kind, encode

#: Seconds that a test waits for what must come.
PATIENCE = 30.0

#: Starts the lines in which a script tells what it found, in pieces as long as a line of the log may be.
_PIECE = "found: "
_END = "that is all"
_TELL = f"""
import json, os, sys
def tell(found):
    text = json.dumps(found)
    for start in range(0, len(text), 2000):
        print({_PIECE!r} + text[start : start + 2000])
    print({_END!r}, flush=True)
"""

#: Stands in an argv for the backend's own interpreter, as `python` does in a kernelspec's.
PYTHON = "python"

#: A kernel that only is there.
STAY = [PYTHON, "-I", "-S", "-c", "import time\nprint('here', flush=True)\ntime.sleep(1000)"]
#: One that ends its relay, as it can, being of the same user.
CRASH = [PYTHON, "-I", "-S", "-c", "import os, time\nos.kill(os.getppid(), 15)\ntime.sleep(1000)"]


def script(body: str) -> list[str]:
    """The argv of a program that runs `body`, in which `tell(anything)` reports to the test."""
    return [PYTHON, "-I", "-c", _TELL + body, "{connection_file}"]


def request(backend: Backend, argv: Sequence[str] = STAY, **members: Any) -> SandboxRequest:
    """A request for a sandbox of a new kernel."""
    argv = [backend.python if part is PYTHON else part for part in argv]
    given: dict[str, Any] = {"resource_dir": "", "settings": {}, "owner": "somebody"}
    return SandboxRequest(kernel_id=str(uuid.uuid4()), spec_name="test", argv=argv, **{**given, **members})


class Visit:
    """A stream to a sandbox whose kernel is `argv`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.lines: list[str] = []
        self.died: dict[str, Any] | None = None
        #: Answers to CONTROL by number.
        self.answers: dict[int, dict[str, Any]] = {}
        self.ended = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, sandbox: Sandbox, argv: Sequence[str]) -> Visit:
        """Connect, and have the relay start `argv`, which is a request's."""
        visit = cls(await sandbox.connect())
        hello = {
            "version": 1,
            "capabilities": [],
            "window": 1 << 26,
            "max_message": 1 << 26,
            "received": None,
        }
        start = {
            "id": 1,
            "op": "start",
            "argv": list(argv),
            "env": dict(sandbox.base_env),
            "cwd": sandbox.home,
            "interrupt_mode": "signal",
            "transport": "ipc",
            "sign": False,
            **sandbox.proof,
        }
        for kind, members in ((Kind.HELLO, hello), (Kind.CONTROL, start)):
            await visit._transport.send(encode(kind, payload=json.dumps(members).encode()))
        return visit

    async def found(self) -> Any:
        """What the script told."""
        await self.until(lambda: _END in self.lines or self.died is not None or self._failed)
        assert _END in self.lines, f"the script told nothing: {self.lines} {self.died}"
        pieces = [line.removeprefix(_PIECE) for line in self.lines if line.startswith(_PIECE)]
        return json.loads("".join(pieces))

    @property
    def _failed(self) -> bool:
        return self.answers.get(1, {}).get("ok") is False

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; fails with what was heard."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    assert not self.ended, f"the stream ended: {self.lines} {self.died}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come within {PATIENCE} s: {self.lines} {self.died}") from None

    async def close(self) -> None:
        """End the stream."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._transport.close()

    async def _read(self) -> None:
        decoder = FrameDecoder()
        while data := await self._transport.receive():
            for frame in decoder.feed(data):
                if frame.kind is Kind.LOG:
                    self.lines += frame.payload.decode().splitlines()
                elif frame.kind is Kind.CONTROL:
                    answer = json.loads(frame.payload)
                    self.answers[answer["id"]] = answer
                elif frame.kind is Kind.DIED:
                    self.died = json.loads(frame.payload)
            self._news.set()
        self.ended = True
        self._news.set()


@contextlib.asynccontextmanager
async def visiting(
    backend: Backend, argv: Sequence[str] = STAY, **members: Any
) -> AsyncIterator[tuple[Sandbox, Visit]]:
    """A new sandbox that runs `argv`, destroyed in the end."""
    wanted = request(backend, argv, **members)
    sandbox = await backend.create(wanted)
    try:
        visit = await Visit.start(sandbox, wanted.argv)
        try:
            yield sandbox, visit
        finally:
            await visit.close()
    finally:
        await sandbox.destroy()


async def found_inside(backend: Backend, body: str, **members: Any) -> Any:
    """What a script tells from a sandbox of its own."""
    async with visiting(backend, script(body), **members) as (_, visit):
        return await visit.found()
