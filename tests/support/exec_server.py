"""A stand-in for the Kubernetes API server's `pods/exec`, with a test in the place of the container's
command.

It is no Kubernetes and proves nothing of one; tests/cluster/test_exec_stream.py asks a real one. It does what
k8s.io/apiserver 0.36 does (pkg/util/proxy/websocket.go and streamtranslator.go), and can do what that never
does: agree to the websocket, send an empty message to stdout, carry bytes by messages of at most 32 KiB,
take the half-close in v5, write a Status when the command ends, and then close the connection at once,
whatever lies unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, CLOSE = 0, 1, 2, 3, 255

#: Bytes of one message; Go's io.Copy has a buffer of that size.
PIECE = 32 * 1024
#: Bytes of stdin that may wait for the command.
_STDIN_BUFFER = 64 * 1024
_SYSTEM_BUFFER = 256 * 1024

SUCCESS = {"metadata": {}, "status": "Success"}


def exit_status(code: int) -> dict[str, Any]:
    """The Status for a command that ended."""
    if code == 0:
        return SUCCESS
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


class Command:
    """The command in the container, played by a test; and the server's other channels."""

    def __init__(self, handler: WebSocketHandler, stream: IOStream, query: dict[str, list[str]]) -> None:
        #: Of the request.
        self.query = query
        self.headers = handler.request.headers
        #: Bytes of each message that came, its first included.
        self.sizes: list[int] = []
        self._handler = handler
        self._stream = stream
        self._stdin = bytearray()
        self._stdin_ended = False
        self._gone = False
        self._changed = asyncio.Event()
        self._room: asyncio.Future[None] | None = None

    async def read(self, size: int) -> bytes:
        """The next `size` bytes of stdin, fewer only where it ends."""
        while len(self._stdin) < size and not self._stdin_ended:
            self._let_more_come()
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._stdin[:size])
        del self._stdin[:size]
        if not self._stdin:
            self._let_more_come()
        return data

    async def write(self, data: bytes) -> None:
        """Write to stdout. Raises `ConnectionError` once the connection is gone."""
        for start in range(0, len(data), PIECE):
            await self.message(STDOUT, data[start : start + PIECE])

    async def message(self, channel: int, data: bytes) -> None:
        """One message of any channel. Raises `ConnectionError`."""
        try:
            writing = self._handler.write_message(bytes([channel]) + data, binary=True)
            writing.add_done_callback(lambda each: each.cancelled() or each.exception())
            # Tornado's own callback fails where its future is cancelled.
            await asyncio.shield(writing)
        except WebSocketClosedError:
            raise ConnectionResetError("the client is gone") from None

    async def text(self, text: str) -> None:
        """A message of a type that the protocol does not have."""
        await self._handler.write_message(text)

    async def raw(self, data: bytes) -> None:
        """Bytes that need be no websocket's."""
        with contextlib.suppress(StreamClosedError):
            await self._stream.write(data)

    async def exit(self, code: int = 0) -> None:
        """End, and with it the stream; waits until the client's system has the Status."""
        await self.status(json.dumps(exit_status(code)).encode())

    async def status(self, status: bytes) -> None:
        """The server's last word, and its end; nothing where that is behind it."""
        with contextlib.suppress(ConnectionError):
            await self.message(STATUS, status)
            self._handler.close(1000)
        self.cut()

    def cut(self) -> None:
        """End the connection without a word."""
        self._stream.close()
        self.gone()

    # -- for the websocket ----------------------------------------------------------------------------

    def arrived(self, message: bytes) -> asyncio.Future[None] | None:
        """What the client has sent; the next message has to wait for the future."""
        self.sizes.append(len(message))
        if message[0] == STDIN:
            self._stdin += message[1:]
        elif message == bytes([CLOSE, STDIN]):
            self._stdin_ended = True
        else:
            raise AssertionError(f"the client sent {message[:20]!r}")
        self._changed.set()
        if len(self._stdin) < _STDIN_BUFFER or self._gone:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

    def gone(self) -> None:
        self._gone = True
        self._stdin_ended = True
        self._changed.set()
        self._let_more_come()

    def _let_more_come(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class ExecServer:
    """Listens on 127.0.0.1; what it offers is one subprotocol, or none of ours."""

    def __init__(self, subprotocol: str | None = V5, *, tls: ssl.SSLContext | None = None) -> None:
        self.subprotocol = subprotocol
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._pod = "/api/v1/namespaces/n/pods/p"
        application = Application([(self._pod + "/exec", _Exec, {"server": self})])
        self._server = HTTPServer(application, ssl_options=tls)
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{sockets[0].getsockname()[1]}{self._pod}"

    async def command(self) -> Command:
        """The next that a client has had run."""
        return await asyncio.wait_for(self._commands.get(), 10)

    def opened(self, command: Command) -> None:
        self._commands.put_nowait(command)

    def close(self) -> None:
        """Listen no more."""
        self._server.stop()


class _Exec(WebSocketHandler):
    def initialize(self, server: ExecServer) -> None:
        self._exec_server = server

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        offered = self._exec_server.subprotocol
        return offered if offered in subprotocols else None

    async def open(self, *args: str, **kwargs: str) -> None:
        assert self.ws_connection is not None
        self.set_nodelay(True)
        stream = self.ws_connection.stream
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.socket.setsockopt(socket.SOL_SOCKET, option, _SYSTEM_BUFFER)
        arguments = self.request.query_arguments.items()
        query = {name: [value.decode() for value in values] for name, values in arguments}
        self._command = Command(self, stream, query)
        await self.write_message(bytes([STDOUT]), binary=True)
        self._exec_server.opened(self._command)

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        assert isinstance(message, bytes)
        return self._command.arrived(message)

    def on_close(self) -> None:
        self._command.gone()
