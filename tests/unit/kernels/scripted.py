"""A kernel over scripted relays, for the tests of this folder."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.backends.base import SandboxRequest
from gateway.kernels.attachment import Attachment
from gateway.kernels.kernel import Kernel
from gateway.kernels.launch import KernelSettings, Launch
from gateway.wire import messages
from gateway.wire.framing import Kind
from tests.support.backend_double import BackendDouble
from tests.support.patience import until
from tests.support.relay_double import RelayDouble

SETTINGS = KernelSettings(
    window=1 << 20, max_message=1 << 20, start_timeout=2, restart_limit=1, stable_after=10, shutdown_grace=0.1
)
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)


def launch() -> Launch:
    return Launch(
        request=SandboxRequest(
            kernel_id="0f0e0d0c-0b0a-4908-8706-050403020100",
            spec_name="python3",
            argv=["python3", "-f", "{connection_file}"],
            resource_dir="",
            settings={},
            owner="someone",
        ),
        interrupt_mode="signal",
        transport="ipc",
        sign=False,
        environment=lambda base: {**base, "GREETING": "hello"},
    )


@asynccontextmanager
async def kernel_over(
    backend: BackendDouble,
    settings: KernelSettings = SETTINGS,
    on_over: Callable[[Kernel], object] = pytest.fail,
) -> AsyncIterator[Kernel]:
    kernel = Kernel(launch(), backend, settings, lambda: NOW, logging.getLogger("test"), on_over)
    kernel.start()
    try:
        yield kernel
    finally:
        async with backend.obeying():
            await kernel.shutdown()
        assert all(sandbox.destroyed for sandbox in backend.made)
        assert len(asyncio.all_tasks()) == 1


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Kernel, BackendDouble, RelayDouble]]:
    backend = BackendDouble()
    async with kernel_over(backend) as kernel:
        relay = await bring_up(backend)
        await kernel.wait_ready()
        assert kernel.execution_state == "idle"
        yield kernel, backend, relay


async def bring_up(backend: BackendDouble) -> RelayDouble:
    relay = await backend.next_relay()
    relay.answer(await relay.hear_control("start"))
    return relay


async def open_route(relay: RelayDouble) -> int:
    number = (await relay.hear(Kind.OPEN)).route
    relay.say_opened(number)
    return number


async def asked(kernel: Kernel, relay: RelayDouble) -> Attachment:
    """A client whose request the relay has, and has not answered."""
    attachment = kernel.attach("s")
    await open_route(relay)
    await attachment.send(request())
    await relay.hear(Kind.MESSAGE)
    return attachment


def request(code: str = "1", channel: str = "shell", msg_type: str = "execute_request") -> bytes:
    header = {"msg_id": "m-1", "msg_type": msg_type, "session": "s", "username": "u", "version": "5.4"}
    parts = [json.dumps(header).encode(), b"{}", b"{}", json.dumps({"code": code}).encode()]
    return b"".join(messages.pack(channel, parts))


async def seen(attachment: Attachment, count: int) -> list[tuple[str, str, dict]]:
    """The next messages of a client: channel, type, content; each is a child of request m-1 or of none."""
    told = []
    while len(told) < count:
        for _, message in await asyncio.wait_for(attachment.receive(), 2):
            channel, parts = messages.unpack(message)
            header, parent, _, content = map(json.loads, parts[:4])
            assert parent.get("msg_id") in (None, "m-1")
            told.append((channel, header["msg_type"], content))
    return told


async def became(kernel: Kernel, state: str) -> None:
    await until(lambda: kernel.execution_state == state)


def assert_ended(told: list[tuple[str, str, dict]], reason: str) -> None:
    assert [(channel, kind) for channel, kind, _ in told] == [
        ("iopub", "stream"),
        ("shell", "execute_reply"),
        ("iopub", "status"),
    ]
    assert told[0][2]["name"] == "stderr"
    assert reason in told[0][2]["text"]
    assert told[1][2]["status"] == "error"
    assert told[2][2] == {"execution_state": "idle"}
