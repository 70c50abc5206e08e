"""A transport over `pods/exec`, for a sandbox that is a pod: API server, kubelet, runtime, never the pod's
network.

The command that is run in the container, `relay connect`, has the stream as its stdin and stdout. What the
API server speaks is the websocket subprotocol v5.channel.k8s.io (`exec_arrivals` has the channels). v4 is
what older API servers pass on to a kubelet; it is the same but for the half-close, so `send_eof` raises
`NotImplementedError` there.

How a stream ends, as the contract in `base` has it:

- The command ends with 0: `b""` from `receive`, behind all that it wrote.
- It ends otherwise, or the server has a reason to end it: `TransportBrokenError` with that reason and the end
  of its stderr. `ended` has the parts.
- The connection ends without a word of the command's end: `TransportBrokenError`, and `ended` stays None.

With the stream's end both directions are over: nothing in the protocol ends stdout alone. When the server
closes while bytes lie unread at its side, TCP may throw away the reason, and what was on its way here.

A side that does not read stops the other one, but not at once: API server, kubelet and runtime hold as much
as their connections' buffers do (26 to 31 MiB seen per direction where tcp_rmem allows 32). So what is sent
last may arrive late, and the link has a window and a heartbeat of its own.

What is wrong with the container is told in one of two ways. From Kubernetes 1.36 on a node's kubelet may take
the websocket itself (ExtendWebSocketsToKubelet, pkg/registry/core/pod/rest/subresources.go), and refuses it
with an HTTP status, which `open` raises. Otherwise the API server has agreed before it asks the kubelet
(k8s.io/apiserver 0.36, streamtranslator.go), and the refusal comes by the stream. 401, 403, 404 and 429 are
always HTTP's.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from tornado.httpclient import HTTPClientError
from tornado.iostream import StreamClosedError, UnsatisfiableReadError
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketError

from . import exec_socket, exec_status
from .base import Transport, TransportBrokenError, TransportBusyError, TransportClosedError, TransportError
from .exec_arrivals import CLOSE, STDIN, Arrivals
from .exec_socket import ExecSocket
from .exec_status import ExecEnd

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"

#: Bytes of stdin that go in one message. The server takes 32 MiB (golang.org/x/net/websocket); what is not
#: gone when a `send` is cancelled stays in memory.
CHUNK = 256 * 1024
_STDIN = bytes([STDIN])
_STDIN_ENDS = bytes([CLOSE, STDIN])

_CLOSED = "this side has closed the exec stream"
_SENT_EOF = "this side has said that it sends nothing more"
_CANCELLED = "a send was cancelled before all of its bytes were gone"
_GONE = "the connection to the API server is gone"


@dataclass(frozen=True)
class ExecAddress:
    """A command to be run in a container."""

    #: The pod's, up to its name: https://HOST/api/v1/namespaces/NAMESPACE/pods/POD.
    url: str
    container: str
    command: Sequence[str]
    #: Of the request: who asks.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Whom to trust, and the client's certificate; None for what the system trusts.
    ssl_context: ssl.SSLContext | None = None


class TransportRefusedError(TransportError):
    """The API server did not open the stream. `status` is HTTP's."""

    def __init__(self, message: str, *, status: int, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        #: Seconds after which the server wants to be asked again, where it says so, as with 429.
        self.retry_after = retry_after


class KubeExecTransport(Transport):
    """One exec stream; the module's docstring says how it ends. Made by `open`."""

    def __init__(self, connection: ExecSocket, arrivals: Arrivals, *, half_close: bool) -> None:
        self._connection = connection
        self._arrivals = arrivals
        self._half_close = half_close
        self._closed = False
        self._receiving = False
        self._sending = False
        self._send_fault: str | None = None
        self._sent_eof = False

    @classmethod
    async def open(cls, address: ExecAddress, *, within: float) -> KubeExecTransport:
        """Run the command and hold its stdin and stdout; `within` so many seconds.

        Raises `TransportRefusedError` where the server answers with another status, and
        `TransportBrokenError` where none answers that is trusted and speaks the protocol.
        """
        try:
            async with asyncio.timeout(within):
                return await cls._open(address)
        except Exception as error:
            why = _why(error, _server(address), within)
            if why is None:
                raise
            raise why from None

    @classmethod
    async def _open(cls, address: ExecAddress) -> KubeExecTransport:
        url = urlsplit(address.url)
        secure = url.scheme == "https"
        context = address.ssl_context or ssl.create_default_context() if secure else None
        stream = await exec_socket.connect(url.hostname or "", url.port or (443 if secure else 80), context)
        arrivals = Arrivals()
        connection = ExecSocket(stream, _url(address), address.headers, (V5, V4), arrivals)
        try:
            await connection.connect_future
            agreed = connection.agreed
            if agreed not in (V5, V4):
                raise TransportBrokenError(f"{_server(address)} speaks neither {V5} nor {V4}")
            # Tornado has turned it off behind its request. Without it small messages wait up to 40 ms.
            connection.stream.set_nodelay(True)
        except BaseException:
            connection.end()
            raise
        return cls(connection, arrivals, half_close=agreed == V5)

    @property
    def ended(self) -> ExecEnd | None:
        """How the command ended, as soon as the server has said so."""
        return self._arrivals.end

    # -- receiving ----------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        if self._closed:
            raise TransportClosedError(_CLOSED)
        if self._receiving:
            raise TransportBusyError("another task is receiving from this exec stream")
        self._receiving = True
        try:
            await self._arrivals.wait()
        finally:
            self._receiving = False
        if self._closed:
            raise TransportClosedError(_CLOSED)
        return self._arrivals.next()

    # -- sending ------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        self._check_sending()
        view = memoryview(data)
        for start in range(0, len(data), CHUNK):
            await self._write(_STDIN + view[start : start + CHUNK])

    async def send_eof(self) -> None:
        self._check_sending()
        if not self._half_close:
            raise NotImplementedError(f"{V4} has no half-close")
        await self._write(_STDIN_ENDS)
        self._sent_eof = True

    async def _write(self, message: bytes) -> None:
        """Returns when the system has taken it all."""
        self._sending = True
        try:
            writing = self._connection.write_message(message, binary=True)
            writing.add_done_callback(_look)
            # What tornado writes must not be cancelled, or its own callback fails. It ends with the bytes or
            # with the connection.
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._send_fault = _CANCELLED
            raise
        except WebSocketClosedError:
            if not self._closed:
                self._send_fault = self._arrivals.over or _GONE
                raise TransportBrokenError(self._send_fault) from None
        finally:
            self._sending = False
        # Also where all bytes are gone: the goodbye takes the rest along if there has just come room for it.
        if self._closed:
            raise TransportClosedError(_CLOSED)

    def _check_sending(self) -> None:
        if self._closed:
            raise TransportClosedError(_CLOSED)
        if self._sending:
            raise TransportBusyError("another task is sending to this exec stream")
        if fault := self._send_fault or self._arrivals.over:
            raise TransportBrokenError(fault)
        if self._sent_eof:
            raise TransportClosedError(_SENT_EOF)

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._arrivals.close()
        self._connection.end()


def _look(writing: asyncio.Future[None]) -> None:
    """What went wrong is not unseen where the `send` was cancelled that would have told it."""
    if not writing.cancelled():
        writing.exception()


def _url(address: ExecAddress) -> str:
    query = [("command", word) for word in address.command]
    query += [("container", address.container)]
    query += [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
    return f"{urlsplit(address.url)._replace(scheme='ws').geturl()}/exec?{urlencode(query)}"


def _server(address: ExecAddress) -> str:
    return f"the API server at {urlsplit(address.url).netloc}"


def _why(error: Exception, server: str, within: float) -> TransportError | None:
    """What kept the stream from being opened, in words; None for what is no affair of the server's."""
    match error:
        case TimeoutError():
            return TransportBrokenError(f"{server} did not answer within {within:g} s")
        case StreamClosedError() | HTTPStreamClosedError() | ConnectionResetError() | BrokenPipeError():
            return TransportBrokenError(f"{server} closed the connection without an answer")
        case HTTPClientError():
            return _refused(error, server)
        case WebSocketError() | UnsatisfiableReadError():
            return TransportBrokenError(f"{server} answered, but not with a websocket")
        case ssl.SSLCertVerificationError():
            return TransportBrokenError(f"the certificate of {server} is not trusted: {error.verify_message}")
        case ssl.SSLError():
            return TransportBrokenError(f"no TLS with {server}: {error.reason or error}")
        case OSError():
            # asyncio puts a text of its own beside the system's number; a resolver's numbers are below 0.
            number = error.errno or 0
            said = os.strerror(number) if number > 0 else error.strerror or error
            return TransportBrokenError(f"{server} cannot be reached: {said}")
    return None


def _refused(error: HTTPClientError, server: str) -> TransportRefusedError:
    response = error.response
    body, headers = (response.body, response.headers) if response is not None else (b"", {})
    # The API server answers with a Status, a kubelet with a line of text.
    is_text = headers.get("Content-Type", "").startswith("text/plain")
    said = exec_status.message_of(body) or exec_status.line(
        body if is_text else (error.message or "").encode()
    )
    after = headers.get("Retry-After", "")
    return TransportRefusedError(
        f"{server} refused the exec stream ({error.code}): {said}",
        status=error.code,
        # Seconds, which is what the API server writes; a date is read by nobody here.
        retry_after=float(after) if after.isascii() and after.isdecimal() and len(after) < 10 else None,
    )
