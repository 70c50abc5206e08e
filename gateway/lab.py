"""What JupyterLab's server needs of ours: a websocket that keeps binary buffers, and a user who may do less.

This module runs in JupyterLab's environment, which has jupyter_server; the gateway itself never
imports it. The line that starts JupyterLab names its classes in public settings::

    jupyter lab --gateway-url=... \\
        --ServerApp.kernel_websocket_connection_class=gateway.lab.GatewayConnection \\
        --ServerApp.identity_provider_class=gateway.lab.ScratchUser

jupyter_server's own connection class (2.21) asks a gateway for no subprotocol, decodes every binary frame as
UTF-8, and sends on a page's binary frames as text. So a message with buffers (a widget's image, an array) is
lost in one direction and breaks the connection in the other. The class here offers the gateway
exactly the subprotocol that the page has chosen, and hands frames on as they are:

- text stays text and binary stays binary, in order, whole and unparsed;
- each side is read only as fast as the other takes, so that nothing piles up in between towards the page;
- what the gateway asks by a ping (whether the messages before it have been read, protocol.md 2.5) is asked
  of the page, and answered when the page has answered. This server has only handed the messages on: what is
  on its way to a page whose websocket breaks is to be sent again;
- when either side ends, so does the other. There is no retry here: the page's own client reconnects
  with the same session, and the gateway sends again what that session has not had. A gateway that cannot
  be reached therefore shows in the page, and not only in a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio import Future
from collections.abc import Awaitable
from typing import cast

from jupyter_server.auth import User
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.utils import url_path_join
from tornado.escape import url_escape, url_unescape
from tornado.httpclient import HTTPClientError, HTTPRequest, _RequestProxy
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    WebSocketProtocol,
    WebSocketProtocol13,
)

#: Bytes of one message from a kernel. More than the 100 MiB that the gateway lets pass by default, so that
#: its limit is the one that counts; Tornado's 10 MiB would cut the connection at an output that the gateway
#: sends, and again after each reconnect.
MAX_MESSAGE = 256 * 1024 * 1024

#: RFC 6455, 7.4.1: the server met a condition that prevents it from going on.
INTERNAL_ERROR = 1011
#: The opcode of a ping (RFC 6455, 5.2).
_PING = 0x9

#: What stands for a close code where no close frame came, or none in it (the same section).
_NEVER_SENT = (None, 1005, 1006, 1015)

#: Where something may be changed, as paths below the base URL: notebooks and their kernels, how JupyterLab
#: looks, and whether it runs.
_MAY_CHANGE = re.compile(
    r"(api/(contents|kernels|sessions|shutdown)|lab/api/(settings|workspaces)|login)(/.*)?"
)

#: What runs programs when it is only read: export (LaTeX), and whether JupyterLab should be built (node).
_RUNS_PROGRAMS = re.compile(r"(nbconvert|api/nbconvert|lab/api/build)(/.*)?")

#: JupyterLab's settings, and what names them there: `@organisation/package:plugin`.
_SETTINGS = re.compile(r"lab/api/settings(/.*)?")
_NAME = r"(?!\.)[\w.-]+"
_SETTING = re.compile(rf"lab/api/settings(/|/(@{_NAME}/)?{_NAME}:{_NAME})?")


class ScratchUser(PasswordIdentityProvider):
    """The user of a scratch JupyterLab: works with notebooks, and has the server do nothing else.

    What a cell shows may be JavaScript, which calls the server as this user does. A good part of
    JupyterLab's REST surface asks no authorizer (jupyter_server's `@authorized` is missing there), but every
    request is first asked whose it is; so what a page is not to reach is refused here.

    - Nothing is changed but what `_MAY_CHANGE` lists: not JupyterLab itself (its build runs node and yarn
      outside any sandbox), nor its plugins, which other servers share that are started from this environment.
    - Nothing is exported: the server makes PDF by running LaTeX on what the notebook says.
    - Settings are asked for by their names. jupyterlab_server (2.28) takes what it gets for a part of a path,
      so that `/home/me/.docker:config` would be that file, and show it.
    """

    def get_user(self, handler: RequestHandler) -> User | Awaitable[User | None] | None:
        """Whose request it is; raises 403 where a page may not ask."""
        method, path = handler.request.method, handler.request.path.removeprefix(handler.settings["base_url"])
        if (
            (method not in ("GET", "HEAD", "OPTIONS") and not _MAY_CHANGE.fullmatch(path))
            or _RUNS_PROGRAMS.fullmatch(path)
            or (_SETTINGS.fullmatch(path) and not _SETTING.fullmatch(url_unescape(path, plus=False)))
        ):
            handler.current_user = None  # what shows the error asks for it
            raise HTTPError(403, "This JupyterLab shows the outputs of strangers' code, and may not do this.")
        return super().get_user(handler)


class _Ping(bytes):
    """The payload of a ping of the gateway's, in its place among the messages."""


class _AskedProtocol(WebSocketProtocol13):
    """Tornado's side of a websocket, but that it answers a ping with a payload only when it is told to."""

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        if opcode == _PING and data:
            # By the way of the messages, so that it comes after those that wait to be read.
            return cast("Future[None]", self.handler.on_message(_Ping(data)))
        return super()._handle_message(opcode, data)

    def answer(self, ping: bytes) -> None:
        """Answer a ping, as Tornado does by itself at once."""
        super()._handle_message(_PING, ping)


class _GatewayWebsocket(WebSocketClientConnection):
    """A websocket to the gateway, whose `read_message` gives `_Ping`s as well, which are to be answered."""

    @classmethod
    async def connect(cls, request: HTTPRequest, protocol: str | None) -> _GatewayWebsocket:
        """As `tornado.websocket.websocket_connect`, which makes its own class only."""
        request.headers = HTTPHeaders(request.headers)
        defaults = _RequestProxy(request, HTTPRequest._DEFAULTS)
        websocket = cls(
            cast(HTTPRequest, defaults),
            subprotocols=[protocol] if protocol else None,
            max_message_size=MAX_MESSAGE,
        )
        return cast(_GatewayWebsocket, await websocket.connect_future)

    def get_websocket_protocol(self) -> WebSocketProtocol:
        return _AskedProtocol(self, mask_outgoing=True, params=self.params)

    def answer(self, ping: bytes) -> None:
        """Tell the gateway that all before this ping has been read."""
        if isinstance(self.protocol, _AskedProtocol):  # it is None once the websocket is closed
            self.protocol.answer(ping)


class GatewayConnection(BaseKernelWebsocketConnection):
    """One page's websocket to one kernel, joined to a websocket of the same protocol at the gateway."""

    _gateway: _GatewayWebsocket | None = None
    _tasks: tuple[asyncio.Task[None], ...] = ()
    _ended = False

    async def connect(self) -> None:
        """Join the page to the gateway. The page is not read before this returns."""
        self.websocket_handler.set_nodelay(True)
        protocol = self.websocket_handler.selected_subprotocol
        try:
            gateway = await _GatewayWebsocket.connect(self._request(), protocol)
        except (OSError, HTTPClientError, StreamClosedError, WebSocketError) as error:
            self._end(f"The kernel's gateway cannot be reached: {error}")
            return
        self._gateway = gateway
        if self._ended:
            gateway.close()
        elif gateway.selected_subprotocol != protocol:
            self._end("The kernel's gateway does not speak the page's websocket protocol")
        else:
            self._from_page: asyncio.Queue[str | bytes] = asyncio.Queue()
            self._hear_pongs(gateway)
            self._tasks = (
                asyncio.create_task(self._to_gateway(gateway)),
                asyncio.create_task(self._to_page(gateway)),
            )

    # jupyter_server declares this one as a coroutine, and calls it as a function.
    def disconnect(self) -> None:  # type: ignore[override]
        """Take the page's end to the gateway; called when the page's websocket has closed."""
        self._ended = True
        for task in self._tasks:
            task.cancel()
        if self._gateway is not None:
            self._gateway.close()

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        """Take one frame from the page; one that comes after the end is dropped with its websocket."""
        if not self._ended:
            self._from_page.put_nowait(incoming_msg)

    def _request(self) -> HTTPRequest:
        client = GatewayClient.instance()
        kernel = url_escape(self.kernel_id)
        url = url_path_join(client.ws_url or "", client.kernels_endpoint, kernel, "channels")
        if self.session_id:
            url += f"?session_id={url_escape(self.session_id)}"
        return HTTPRequest(url, **client.load_connection_args())  # type: ignore[no-untyped-call]

    def _hear_pongs(self, gateway: _GatewayWebsocket) -> None:
        """Take the page's pongs to the gateway. Those to the server's own pings have no payload."""
        heard = self.websocket_handler.on_pong

        def on_pong(payload: bytes) -> None:
            heard(payload)
            if payload:
                gateway.answer(payload)

        self.websocket_handler.on_pong = on_pong  # type: ignore[assignment]

    async def _to_gateway(self, gateway: _GatewayWebsocket) -> None:
        with contextlib.suppress(WebSocketClosedError):  # _to_page sees the end, and tells it
            while True:
                message = await self._from_page.get()
                await gateway.write_message(message, binary=isinstance(message, bytes))

    async def _to_page(self, gateway: _GatewayWebsocket) -> None:
        try:
            while (message := await gateway.read_message()) is not None:
                if isinstance(message, _Ping):
                    self.websocket_handler.ping(bytes(message))
                else:
                    await self.websocket_handler.write_message(message, binary=isinstance(message, bytes))
        except WebSocketClosedError:
            return  # the page has gone; disconnect() follows
        self._end(
            gateway.close_reason or "The kernel's gateway has closed the connection",
            INTERNAL_ERROR if gateway.close_code in _NEVER_SENT else gateway.close_code,
        )

    def _end(self, reason: str, code: int | None = INTERNAL_ERROR) -> None:
        """Close the page's websocket and say why, in the log and in the close frame.

        The gateway's own code is handed on: a page does not come back after 1000 and 1001.
        """
        if self._ended:
            return
        self._ended = True
        self.log.warning("Kernel %s: %s", self.kernel_id, reason)
        # A close frame carries at most 123 bytes of reason (RFC 6455, 5.5).
        short = reason.encode()[:123].decode(errors="ignore")
        self.websocket_handler.close(code, short)
