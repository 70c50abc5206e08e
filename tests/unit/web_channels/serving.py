"""The channels websocket on a real server, over real kernels whose relays are scripted (`RelayDouble`)."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, websocket_connect

from gateway.auth import AccessPolicy, Authenticator, HostPolicy, OriginPolicy
from gateway.backends.base import SandboxRequest
from gateway.kernels.errors import NoSuchKernelError
from gateway.kernels.kernel import Kernel
from gateway.kernels.launch import KernelSettings, Launch
from gateway.kernels.registry import Kernels
from gateway.observability import Metrics
from gateway.web.base import log_request
from gateway.web.channels import ChannelsHandler
from gateway.web.cors import CorsPolicy
from gateway.web.protocol import SUBPROTOCOL
from gateway.web.settings import WebSettings
from gateway.wire import messages
from gateway.wire.framing import SEQUENCE, Kind
from tests.support.backend_double import BackendDouble
from tests.support.patience import PATIENCE, until
from tests.support.relay_double import RelayDouble

TOKEN = "a-token-that-no-log-may-show"  # noqa: S105  # a test's
WINDOW = 1 << 20
MAX_MESSAGE = 1 << 20

SETTINGS = KernelSettings(
    window=WINDOW,
    max_message=MAX_MESSAGE,
    start_timeout=5,
    restart_limit=0,
    stable_after=10,
    shutdown_grace=0.1,
)


class KernelsDouble:
    """What the websocket asks of the registry; the kernels in it are real."""

    max_message_size = MAX_MESSAGE

    def __init__(self) -> None:
        self.kernels: dict[str, Kernel] = {}

    def get(self, kernel_id: str) -> Kernel:
        try:
            return self.kernels[kernel_id]
        except KeyError:
            raise NoSuchKernelError(kernel_id) from None


@dataclasses.dataclass
class Gateway:
    port: int
    backend: BackendDouble
    kernels: KernelsDouble
    kernel: Kernel
    metrics: Metrics
    clients: list[WebSocketClientConnection] = dataclasses.field(default_factory=list)

    def url(self, query: str = "", prefix: str = "", kernel_id: str = "") -> str:
        path = f"{prefix}/api/kernels/{kernel_id or self.kernel.id}/channels"
        return f"ws://127.0.0.1:{self.port}{path}{'?' + query if query else ''}"

    async def connect(
        self,
        query: str = "",
        *,
        v1: bool = True,
        headers: dict[str, str] | None = None,
        prefix: str = "",
        kernel_id: str = "",
        **options: Any,
    ) -> WebSocketClientConnection:
        """A Tornado websocket with the token in its header."""
        headers = {"Authorization": f"token {TOKEN}"} if headers is None else headers
        request = HTTPRequest(self.url(query, prefix, kernel_id), headers=headers)
        protocols = [SUBPROTOCOL] if v1 else None
        opening = websocket_connect(request, subprotocols=protocols, **options)
        client = await asyncio.wait_for(opening, 5)
        self.clients.append(client)
        return client

    async def relay(self) -> RelayDouble:
        """The kernel's relay, once it runs."""
        relay = await self.backend.next_relay()
        relay.answer(await relay.hear_control("start"))
        await self.kernel.wait_ready()
        return relay


@asynccontextmanager
async def gateway(
    *, owner: str = "jupyter", allow_path_token: bool = False, held: bool = False, **settings: Any
) -> AsyncIterator[Gateway]:
    """A server with one kernel that is starting. At the end nothing may be left: no client, no task.

    Where it is `held`, there is no sandbox before the test says `backend.held.set()`.
    """
    backend, kernels = BackendDouble(), KernelsDouble()
    backend.held = asyncio.Event() if held else None
    kernel = _kernel(backend, owner)
    kernels.kernels[kernel.id] = kernel
    origins = OriginPolicy()
    web = WebSettings(
        kernels=cast(Kernels, kernels),
        access=AccessPolicy(
            Authenticator(TOKEN, allow_path_token=allow_path_token), HostPolicy("127.0.0.1"), origins
        ),
        cors=CorsPolicy(origins),
        metrics=Metrics(),
    )
    path = r"/api/kernels/(?P<kernel_id>[^/]+)/channels"
    arguments = {"route": "/api/kernels/{kernel_id}/channels"}
    application = Application(
        [
            (path, ChannelsHandler, arguments),
            (r"/t/(?P<path_token>[^/]+)" + path, ChannelsHandler, arguments),
        ],
        web=web,
        log_function=log_request,
        **settings,
    )
    # Smaller than a message may be: that a websocket can be sent one is not the server's doing.
    server = HTTPServer(application, max_buffer_size=MAX_MESSAGE // 4)
    socket, port = bind_unused_port("127.0.0.1")
    server.add_sockets([socket])
    kernel.start()
    server_and_clients = Gateway(port, backend, kernels, kernel, web.metrics)
    try:
        yield server_and_clients
    finally:
        for client in server_and_clients.clients:
            client.close()
        for sandbox in backend.made:
            # A relay that is gone need not be asked to shut down, which the scripted one would not do.
            if not sandbox.ended.done():
                sandbox.die("the test is over")
        await kernel.shutdown()
        server.stop()
        await server.close_all_connections()
        await until(lambda: len(asyncio.all_tasks()) == 1)


def _kernel(backend: BackendDouble, owner: str) -> Kernel:
    launch = Launch(
        request=SandboxRequest(
            kernel_id=str(uuid.uuid4()),
            spec_name="python3",
            argv=["python3", "-f", "{connection_file}"],
            resource_dir="",
            settings={},
            owner=owner,
        ),
        interrupt_mode="signal",
        transport="ipc",
        sign=False,
        environment=dict,
    )
    return Kernel(
        launch,
        backend,
        SETTINGS,
        lambda: datetime.datetime.now(datetime.UTC),
        logging.getLogger("test"),
        on_over=lambda _: None,
    )


def parts(msg_id: str = "m-1", msg_type: str = "execute_request", **content: object) -> list[bytes]:
    header = {"msg_id": msg_id, "msg_type": msg_type, "session": "s", "username": "u", "version": "5.4"}
    return [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]


def message(channel: str = "shell", msg_id: str = "m-1", *buffers: bytes, **content: object) -> bytes:
    """A v1 message."""
    return messages.join(channel, [*parts(msg_id, **content), *buffers])


async def opened(relay: RelayDouble) -> int:
    """The route of the websocket that opens next, after the relay has opened it."""
    number = (await relay.hear(Kind.OPEN)).route
    relay.say_opened(number)
    return number


async def acknowledged(relay: RelayDouble, route: int) -> int:
    """The next sequence number that is acknowledged for `route`."""
    frame = await relay.hear(Kind.ACK)
    assert frame.route == route
    (sequence,) = SEQUENCE.unpack(frame.payload)
    return int(sequence)


async def received(client: WebSocketClientConnection, within: float = PATIENCE) -> str | bytes | None:
    return await asyncio.wait_for(client.read_message(), within)


async def closed(client: WebSocketClientConnection) -> tuple[int | None, str | None]:
    """How the gateway closes the websocket, whatever it says before."""
    while await received(client) is not None:
        pass
    return client.close_code, client.close_reason
