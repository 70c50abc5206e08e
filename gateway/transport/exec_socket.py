"""The websocket of an exec stream: tornado's client, with the flow control and the end that a transport
needs.

Tornado's own `websocket_connect` is not used, for it gives the connection to its caller only once that is
up, so nobody can end one that is still being made; and it queues messages one by one, which a close does
not undo. This subclass hands each message to `Arrivals`, whose future stops the reading of the socket.

No pings are sent: the answer would come behind everything that waits to be received, and prove nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketProtocol, WebSocketProtocol13

from .exec_arrivals import MOST, Arrivals

#: Bytes of an answer that is no websocket. The API server's are Statuses.
_LARGEST_ANSWER = 1024 * 1024

_LOST = "the connection to the API server ended before the command did"


class ExecSocket(WebSocketClientConnection):
    """Connects at once; `connect_future` is done when the server has agreed, or says why not.

    `end` has to be called in either case, and when waiting for it was cancelled. `request` needs a ws or
    wss URL, and both timeouts.
    """

    def __init__(self, request: HTTPRequest, subprotocols: Sequence[str], arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._connecting: asyncio.Task[None] | None = None
        super().__init__(request, max_message_size=MOST, subprotocols=list(subprotocols))
        # Read when the request is sent, which is later; tornado allows 100 MiB.
        self.max_body_size = _LARGEST_ANSWER

    async def run(self) -> None:
        """Connect; tornado starts it, and keeps no hold of its task."""
        self._connecting = asyncio.current_task()
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
        """Say goodbye where that goes without waiting, and give everything back; a second call does
        nothing."""
        protocol, self.protocol = self.protocol, None
        # Without one where the server's answer was no good.
        if protocol is not None and protocol.stream is not None:
            protocol.close()
        if self._connecting is not None:
            self._connecting.cancel()
        # There is none before the connection is up.
        if hasattr(self, "stream"):
            self.stream.close()


class _Protocol(WebSocketProtocol13):
    """Remembers why it has refused to go on, which tornado tells the peer alone."""

    refused: str | None = None

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if reason is not None:
            self.refused = f"the API server broke the websocket's rules: {reason}"
        super().close(code, reason)
