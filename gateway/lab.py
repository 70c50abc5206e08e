"""What JupyterLab's server needs of ours: a websocket that keeps binary buffers, and no export.

This module runs in JupyterLab's environment, which has jupyter_server; the gateway itself never
imports it. The line that starts JupyterLab names its classes in public settings::

    jupyter lab --gateway-url=... \\
        --ServerApp.kernel_websocket_connection_class=gateway.lab.GatewayConnection \\
        --ServerApp.authorizer_class=gateway.lab.NoExport

jupyter_server's own connection class (2.21) asks a gateway for no subprotocol, decodes every binary frame as
UTF-8, and sends on a page's binary frames as text. So a message with buffers (a widget's image, an array) is
lost in one direction and breaks the connection in the other. The class here offers the gateway
exactly the subprotocol that the page has chosen, and hands frames on as they are:

- text stays text and binary stays binary, in order, whole and unparsed;
- each side is read only as fast as the other takes, so that nothing piles up in between towards the page;
- when either side ends, so does the other. There is no retry here: the page's own client reconnects
  with the same session, and the gateway sends again what that session has not had. A gateway that cannot
  be reached therefore shows in the page, and not only in a log.
"""

from __future__ import annotations

import asyncio
import contextlib

from jupyter_server.auth import Authorizer, User
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.utils import url_path_join
from tornado.escape import url_escape
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

#: Bytes of one message from a kernel. More than the 100 MiB that the gateway lets pass by default, so that
#: its limit is the one that counts; Tornado's 10 MiB would cut the connection at an output that the gateway
#: sends, and again after each reconnect.
MAX_MESSAGE = 256 * 1024 * 1024

#: RFC 6455, 7.4.1: the server met a condition that prevents it from going on.
INTERNAL_ERROR = 1011
#: What stands for a close code where no close frame came, or none in it (the same section).
_NEVER_SENT = (None, 1005, 1006, 1015)


class NoExport(Authorizer):
    """Lets the one user of a scratch JupyterLab do everything but export notebooks (nbconvert).

    The server exports to PDF by running LaTeX on what a notebook holds, outside any sandbox. What a cell
    shows may be JavaScript and may write a notebook; LaTeX then reads this machine's files for it.
    """

    def is_authorized(self, handler: JupyterHandler, user: User, action: str, resource: str) -> bool:
        """Whether the request may go on."""
        return resource != "nbconvert"


class GatewayConnection(BaseKernelWebsocketConnection):
    """One page's websocket to one kernel, joined to a websocket of the same protocol at the gateway."""

    _gateway: WebSocketClientConnection | None = None
    _tasks: tuple[asyncio.Task[None], ...] = ()
    _ended = False

    async def connect(self) -> None:
        """Join the page to the gateway. The page is not read before this returns."""
        self.websocket_handler.set_nodelay(True)
        protocol = self.websocket_handler.selected_subprotocol
        try:
            gateway = await websocket_connect(
                self._request(),
                subprotocols=[protocol] if protocol else None,
                max_message_size=MAX_MESSAGE,
            )
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

    async def _to_gateway(self, gateway: WebSocketClientConnection) -> None:
        with contextlib.suppress(WebSocketClosedError):  # _to_page sees the end, and tells it
            while True:
                message = await self._from_page.get()
                await gateway.write_message(message, binary=isinstance(message, bytes))

    async def _to_page(self, gateway: WebSocketClientConnection) -> None:
        try:
            while (message := await gateway.read_message()) is not None:
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
