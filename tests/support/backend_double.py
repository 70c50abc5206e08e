"""A backend whose relays are scripted by a test: it proves what the kernel layer does, not isolation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gateway.backends.base import Backend, BackendError, Ending, Sandbox, SandboxRequest
from gateway.transport.base import Transport

from .relay_double import RelayDouble


class SandboxDouble(Sandbox):
    home = "/home/double"
    base_env = {"HOME": "/home/double", "PATH": "/usr/bin"}  # noqa: RUF012  # a constant of the double

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self.relay = RelayDouble()
        self.relay.say_hello()
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.destroyed = False
        #: Set while nothing keeps `destroy` from its work.
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def connect(self) -> Transport:
        return self.relay.transport

    async def wait(self) -> Ending:
        return await asyncio.shield(self.ended)

    async def destroy(self) -> None:
        await self.may_go.wait()
        self.destroyed = True

    def die(self, reason: str, *, expired: bool = False) -> None:
        self.ended.set_result(Ending(reason, expired))
        self.relay.end()


class BackendDouble(Backend):
    name = "double"
    survives_gateway = False
    python = sys.executable

    def __init__(self) -> None:
        self.sandboxes: asyncio.Queue[SandboxDouble] = asyncio.Queue()
        self.made: list[SandboxDouble] = []
        self.error: BackendError | None = None
        self.held: asyncio.Event | None = None

    async def start(self) -> None:
        pass

    async def create(self, request: SandboxRequest) -> Sandbox:
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        sandbox = SandboxDouble(request.kernel_id)
        self.made.append(sandbox)
        self.sandboxes.put_nowait(sandbox)
        return sandbox

    async def list(self) -> Sequence[Sandbox]:
        return [sandbox for sandbox in self.made if not sandbox.destroyed]

    async def close(self) -> None:
        pass

    @asynccontextmanager
    async def obeying(self) -> AsyncIterator[None]:
        """Meanwhile every relay does what it is told, so that kernels end without waiting for an answer."""
        tasks = [asyncio.create_task(sandbox.relay.obey()) for sandbox in self.made if not sandbox.destroyed]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def next_relay(self) -> RelayDouble:
        """The relay of the next sandbox that is made."""
        return (await self.next_sandbox()).relay

    async def next_sandbox(self) -> SandboxDouble:
        return await asyncio.wait_for(self.sandboxes.get(), 2)
