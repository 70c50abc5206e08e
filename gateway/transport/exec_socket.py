"""The websocket of an exec stream: tornado's client, with the flow control and the end a transport needs.

Tornado's own `websocket_connect` is not used. It gives the connection to its caller only once that is up,
so that nobody can end one that is still being made, and one cancelled at the wrong moment stays open for
good. It also queues messages one by one, which a close does not undo. So the socket is connected here
(`connect`), and this subclass hands each message to `Arrivals`, whose future stops the reading of the socket.

No pings are sent: the answer would come behind everything that waits to be received, and prove nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, SSLIOStream
from tornado.tcpclient import TCPClient
from tornado.websocket import WebSocketClientConnection, WebSocketProtocol, WebSocketProtocol13

from .exec_arrivals import MOST, Arrivals

#: Bytes of an answer that is no websocket. The API server's are Statuses.
_LARGEST_ANSWER = 1024 * 1024
#: Bytes that the system may hold per direction; it grants less where net.core.rmem_max and wmem_max say so.
#: Left alone it goes up to tcp_rmem and tcp_wmem, which is tens of MiB on some machines.
_SYSTEM_BUFFER = 512 * 1024

_LOST = "the connection to the API server ended before the command did"


async def connect(host: str, port: int, context: ssl.SSLContext | None) -> IOStream:
    """A connection, with TLS where there is a context. Raises `OSError`, which `ssl.SSLError` is too.

    The addresses of a name are tried one after the other.
    """
    loop = asyncio.get_running_loop()
    error = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            _tune(sock)
            await loop.sock_connect(sock, address)
            return IOStream(sock) if context is None else await _secure(sock, host, context)
        except OSError as failure:
            sock.close()
            error = failure
        except BaseException:
            sock.close()
            raise
    raise error


async def _secure(sock: socket.socket, host: str, context: ssl.SSLContext) -> IOStream:
    """Takes over `sock`, whatever happens."""
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    stream = SSLIOStream(secured, ssl_options=context)
    try:
        return await stream.wait_for_handshake()
    except BaseException:
        stream.close()
        raise


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, _SYSTEM_BUFFER)


class ExecSocket(WebSocketClientConnection):
    """Takes over `stream`, and asks at once. `connect_future` is done when the server has agreed, or raises.

    It waits as long as the server does. `end` has to be called in any case.
    """

    def __init__(
        self,
        stream: IOStream,
        url: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
        arrivals: Arrivals,
    ) -> None:
        """`url` is a ws one: what makes it secure is the stream's."""
        self._arrivals = arrivals
        self._asking: asyncio.Task[None] | None = None
        # No timeouts: they are the caller's, who ends this.
        request = HTTPRequest(url, headers=HTTPHeaders(dict(headers)), connect_timeout=0, request_timeout=0)
        super().__init__(request, max_message_size=MOST, subprotocols=list(subprotocols))
        # What follows is read when the request is sent, which is later.
        self.stream = stream
        self.tcp_client = _Connected(stream)
        self.max_body_size = _LARGEST_ANSWER

    @property
    def agreed(self) -> str | None:
        """The subprotocol that the server has chosen, also when the stream has ended since."""
        return self.headers.get("Sec-WebSocket-Protocol") if self.headers is not None else None

    async def run(self) -> None:
        """Ask; tornado starts it, and keeps no hold of its task."""
        self._asking = asyncio.current_task()
        await super().run()

    def get_websocket_protocol(self) -> WebSocketProtocol:
        return _Protocol(self, mask_outgoing=True, params=self.params)

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        pause = self._arrivals.take(message)
        if self._arrivals.over is not None:
            self.end()
        return pause

    def on_ws_connection_close(self, close_code: int | None = None, close_reason: str | None = None) -> None:
        super().on_ws_connection_close(close_code, close_reason)
        refused = self.protocol.refused if isinstance(self.protocol, _Protocol) else None
        error = self.stream.error
        self._arrivals.lost(refused or (f"{_LOST}: {error}" if error else _LOST))

    def end(self) -> None:
        """Say goodbye where that needs no waiting, and give everything back; a second call does nothing."""
        protocol, self.protocol = self.protocol, None
        # It has no stream where the server's answer was no good.
        if protocol is not None and protocol.stream is not None:
            protocol.close()
        if self._asking is not None:
            self._asking.cancel()
        self.stream.close()


class _Connected(TCPClient):
    """What tornado has the connection made by; here it is."""

    def __init__(self, stream: IOStream) -> None:
        super().__init__()
        self._stream = stream

    async def connect(self, *_: Any, **__: Any) -> IOStream:
        return self._stream


class _Protocol(WebSocketProtocol13):
    """Remembers why it has refused to go on, which tornado tells the peer alone."""

    refused: str | None = None

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if reason is not None:
            self.refused = f"the API server broke the websocket's rules: {reason}"
        super().close(code, reason)
