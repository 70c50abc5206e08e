"""JupyterLab's server between a page and the gateway: what the page has not read stays unacknowledged.

The connection and the parts of jupyter_server that meet it are real; its users, cookies and files are left
out. tests/e2e/test_lab_websocket.py has the whole server.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler
from traitlets.config import LoggingConfigurable

from gateway.lab import GatewayConnection
from gateway.web.protocol import SUBPROTOCOL
from gateway.wire.framing import Kind
from tests.support.patience import until
from tests.unit.web_channels.raw_client import BINARY, PING, PONG, TEXT, RawClient
from tests.unit.web_channels.serving import (
    TOKEN,
    Gateway,
    acknowledged,
    gateway,
    message,
    opened,
)


class KernelManager(LoggingConfigurable):
    """What a connection asks of its kernel's."""

    kernel_id = ""


class PageHandler(WebSocketMixin, WebSocketHandler):
    """As jupyter_server's `KernelWebsocketHandler`, with its keepalive and without its users."""

    log = logging.getLogger("test")

    async def open(self, kernel_id: str) -> None:
        super().open()
        manager = KernelManager()
        manager.kernel_id = kernel_id
        self.connection = GatewayConnection(parent=manager, websocket_handler=self)
        self.connection.session.session = self.get_argument("session_id")
        await self.connection.connect()

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def on_message(self, ws_message: str | bytes) -> None:
        self.connection.handle_incoming_message(ws_message)

    def on_close(self) -> None:
        self.connection.disconnect()


@asynccontextmanager
async def lab(server: Gateway) -> AsyncIterator[Gateway]:
    """JupyterLab's server in front of the gateway, at the place of the gateway."""
    GatewayClient.clear_instance()
    client = GatewayClient.instance(url=f"http://127.0.0.1:{server.port}", auth_token=TOKEN)
    client.init_connection_args()
    # Milliseconds between two pings of its own to the page.
    settings = {"allow_unauthenticated_access": True, "ws_ping_interval": 50}
    application = Application([(r"/api/kernels/([^/]+)/channels", PageHandler)], **settings)
    own = HTTPServer(application)
    socket, port = bind_unused_port("127.0.0.1")
    own.add_sockets([socket])
    try:
        yield dataclasses.replace(server, port=port)
    finally:
        own.stop()
        await own.close_all_connections()
        GatewayClient.clear_instance()


async def receipt(page: RawClient) -> bytes:
    """The payload of the next ping that asks for one; the server's own are answered."""
    while not (payload := await page.frame_of(PING)):
        await page.send(PONG, b"")
    return payload


@pytest.mark.gen_test
@pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])
async def test_messages_are_acknowledged_when_the_page_has_answered(v1: bool):
    async with gateway() as server, lab(server) as front:
        relay = await server.relay()
        async with await RawClient.open(front, "session_id=one", v1=v1) as page:
            route = await opened(relay)
            last = relay.say_message(message("iopub"))
            opcode = PING
            while opcode == PING:
                opcode, payload = await page.frame()
                assert payload == b"" or opcode != PING
            assert opcode == (BINARY if v1 else TEXT)
            asked = await receipt(page)
            for forged in (b"", b"x", b"x" * 125):
                await page.send(PONG, forged)
            with pytest.raises(TimeoutError):
                await relay.hear(Kind.ACK, within=0.3)
            await page.send(PONG, asked)
            assert await acknowledged(relay, route) == last
        await until(lambda: server.kernel.connections == 0)


@pytest.mark.gen_test
async def test_what_a_page_has_not_read_is_not_acknowledged_however_much_its_server_has_taken():
    async with gateway() as server, lab(server) as front:
        relay = await server.relay()
        async with await RawClient.open(front, "session_id=one", receive_buffer=1 << 16) as page:
            await opened(relay)
            for number in range(30):
                relay.say_message(message("iopub", f"m-{number}", b"x" * 60_000))
            # It breaks while it has read a part of the first message.
            await page.read_until(b"xxx")
            with pytest.raises(TimeoutError):
                await relay.hear(Kind.ACK, within=1)
            page.abort()
        await relay.hear(Kind.CLOSE)
        async with await RawClient.open(front, "session_id=one") as again:
            route = await opened(relay)
            # The relay sends again what came after the last acknowledgement, with its old numbers.
            relay.say(Kind.MESSAGE, route, message("iopub", "m-0"), 1)
            assert await again.frame_of(BINARY) == message("iopub", "m-0")
            await again.send(PONG, await receipt(again))
            assert await acknowledged(relay, route) == 1


@pytest.mark.gen_test
async def test_a_receipt_is_asked_for_after_the_messages_that_it_is_about():
    async with gateway() as server, lab(server) as front:
        relay = await server.relay()
        async with await RawClient.open(front, "session_id=one") as page:
            await opened(relay)
            for number in range(300):
                last = relay.say_message(message("iopub", f"m-{number}", b"x" * 3000))
            seen = asked = 0
            while asked < last:
                opcode, payload = await page.frame()
                if opcode == BINARY:
                    assert payload == message("iopub", f"m-{seen}", b"x" * 3000)
                    seen += 1
                elif payload:
                    asked = int.from_bytes(payload, "little")
                    assert asked <= seen
                    await page.send(PONG, payload)
            assert seen == 300
