"""The channels websocket, `/api/kernels/{id}/channels`: the handshake, and Tornado's side of a connection.

A websocket is accepted at once in any state of its kernel, starting and dead included: clients give up
after 40 s, and what they send meanwhile waits. It is refused, with JSON as everywhere, only before the
handshake is answered: Host, Origin and token as `gateway.auth` has it, 404 where there is no such kernel or
it is another user's, 400 where it is no websocket's request.

Compression is not negotiated: it costs more time per message than everything else together, and a link where
it would pay has a proxy that does it. The seconds between two pings are Tornado's setting
`websocket_ping_interval`; `_Protocol.periodic_ping` says what becomes of a client that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from asyncio import Future
from collections.abc import Awaitable
from typing import Any

from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from ..auth import Identity
from ..errors import HttpError
from ..kernels.errors import KernelGoneError
from ..kernels.kernel import Kernel
from .base import BaseHandler
from .connection import GONE, Connection
from .progress import progress
from .protocol import BINARY, SUBPROTOCOL, TEXT, Dialect

LOG = logging.getLogger("gateway.channels")

#: Characters of a session_id. Clients send a UUID.
MAX_SESSION_ID = 255

#: Closes a websocket whose client shows no life. Tornado says 1000, by which JupyterLab understands that it
#: was meant, and does not come back. From the range for private use, RFC 6455 section 7.4.2.
UNRESPONSIVE = 4408


class _Protocol(WebSocketProtocol13):
    """Tornado's websocket with three corrections; a test of each would notice Tornado changing under it."""

    def __init__(self, handler: ChannelsHandler, params: Any) -> None:
        super().__init__(handler, False, params)
        self._channels = handler

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        # jupyter_server's gateway client sends its browser's binary frames on under the opcode for text
        # (GatewayWebSocketConnection._write_message). Tornado would drop the connection for it.
        if opcode == TEXT and not _is_utf8(data):
            opcode = BINARY
        return super()._handle_message(opcode, data)

    async def periodic_ping(self) -> None:
        """Ping once an interval, and close where one without a sign of life follows a ping.

        Tornado takes only a pong for such a sign. But a pong comes when the client has read all that was sent
        before the ping, and is read here when the kernel has taken all that the client sent before it.
        """
        await asyncio.sleep(self.ping_interval)
        alive = True
        while not self.stream.closed():
            before = progress(self.stream.socket)
            if alive:
                self.write_ping(b"")
            await asyncio.sleep(self.ping_interval)
            if self.stream.closed():
                return
            now = progress(self.stream.socket)
            # What its system takes is no proof that the client lives: the ping itself may be all of it. So no
            # other ping follows, and the next interval tells.
            alive = now.received > before.received or self._channels.waits_for_kernel
            if not alive and now.taken == before.taken:
                self.close(UNRESPONSIVE, "ping timed out")
                return

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        super().close(code, reason)
        # Whoever closes: nothing may follow a close frame, and Tornado waits 5 s for the client's answer.
        self._channels.on_close()


class ChannelsHandler(BaseHandler, WebSocketHandler):
    """One websocket of one client. What happens on it once it is open is `Connection`'s.

    The route's parameters are `kernel_id` and, where the token is part of the path, `path_token`.
    """

    _kernel: Kernel
    _session_id: str
    _stream: IOStream
    _connection: Connection | None = None

    # -- handshake ----------------------------------------------------------------------------------

    def identify(self) -> Identity:
        return self.web.access.admit_websocket(self.request, self.path_kwargs.get("path_token"))

    def check_origin(self, origin: str) -> bool:
        return True  # `identify` has asked, whatever the authentication

    async def options(self, *args: str, **kwargs: str) -> None:
        self.answer_options()

    async def get(self, *args: str, **kwargs: str) -> None:
        self._kernel = self.web.kernel_of(self.identity, kwargs["kernel_id"])
        self._check_handshake()
        self._session_id = self._read_session_id()
        await super().get(*args, **kwargs)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        assert isinstance(protocol, WebSocketProtocol13)  # `_check_handshake` has seen to the version
        return _Protocol(self, protocol.params)

    @property
    def max_message_size(self) -> int:
        """Bytes of the largest message of a client; a larger one closes the websocket with 1009."""
        return self.web.kernels.max_message_size

    def _check_handshake(self) -> None:
        """RFC 6455, section 4.2.1: what Tornado checks as well, and would answer without JSON."""
        headers = self.request.headers
        upgrade = headers.get("Connection", "").lower().replace(" ", "").split(",")
        if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in upgrade:
            raise HttpError(400, "This path is a websocket. Open it with a websocket client.")
        if not headers.get("Sec-WebSocket-Key"):
            raise HttpError(
                400, "The header Sec-WebSocket-Key is missing. Open this path with a websocket client."
            )
        if headers.get("Sec-WebSocket-Version") != "13":
            versions = {"Sec-WebSocket-Version": "13"}
            raise HttpError(426, "The version of this websocket is not known. Use version 13.", versions)

    def _read_session_id(self) -> str:
        session_id = self.get_query_argument("session_id", "")
        if len(session_id) > MAX_SESSION_ID:
            raise HttpError(400, f"The session_id has more than {MAX_SESSION_ID} characters. Send a UUID.")
        # A client that gives its session no name cannot come back to it.
        return session_id or uuid.uuid4().hex

    # -- open ---------------------------------------------------------------------------------------

    def detach(self) -> IOStream:
        # Where Tornado takes the stream for the websocket, and the one public place to learn of it.
        self._stream = super().detach()
        return self._stream

    def open(self, *args: str, **kwargs: str) -> None:
        # Without it each small exchange waits up to 40 ms for an acknowledgement of TCP's.
        self.set_nodelay(True)
        # A message is buffered whole, beside what has come after it.
        self._stream.max_buffer_size = max(self._stream.max_buffer_size, self.max_message_size + (1 << 20))
        try:
            attachment = self._kernel.attach(self._session_id)
        except KernelGoneError:
            self.close(*GONE)
            return
        dialect = Dialect(
            negotiated=self.selected_subprotocol == SUBPROTOCOL,
            takes_binary="Origin" in self.request.headers and "session_id" in self.request.query_arguments,
            max_message=self.max_message_size,
        )
        self._connection = Connection(self, self._stream, attachment, dialect, self.web.metrics, LOG)

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        # Tornado reads on when what is returned here is done.
        return None if self._connection is None else self._connection.take(message)

    @property
    def waits_for_kernel(self) -> bool:
        """Whether the client is not read from because the kernel has not taken what it sent."""
        return self._connection is not None and self._connection.waits_for_kernel

    def on_pong(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.on_pong(data)

    def on_close(self) -> None:
        if self._connection is not None:
            self._connection.release()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
