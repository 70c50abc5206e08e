"""A transport over one end of a socket pair, for a sandbox on this machine.

A pair of Unix stream sockets carries both directions in one descriptor and has a half-close, which two
pipes would need two descriptors for and a terminal does not have. The other end is the child's stdin and
stdout at once. `PipeTransport.pair` makes both.

How it stays cheap: nothing is buffered on the way out but by the system, and on the way in at most one chunk.
The descriptor stays registered with the loop from the first wait on, so that an exchange of small messages
costs one `recv` and one `send` and no change of the registration; only when a chunk lies here that nobody
has taken is reading paused. Each `receive` follows a turn of the loop, so that a peer that floods
cannot keep the other tasks from running.

What a hostile peer could do with a Unix socket, or with a pipe, is in `guarded`. One that passes a descriptor
along has broken its stream.
"""

from __future__ import annotations

import asyncio
import socket

from .base import Transport, TransportBrokenError, TransportBusyError, TransportClosedError
from .guarded import MOST, DescriptorPassedError, GuardedSocket

#: Bytes that are asked for while the peer sends less. From 128 KiB on the memory for each call is mapped and
#: unmapped, which takes four times as long as receiving a small message.
SMALL_CHUNK = 64 * 1024
#: Bytes that the system may hold per direction; it grants less where net.core.wmem_max says so.
SYSTEM_BUFFER = 1024 * 1024

_CLOSED = "this side has closed the pipe"
_ENDED = "this side has said that it sends nothing more"
_PASSED = "the peer passed a descriptor along, which no relay does"
_CANCELLED = "a send was cancelled before all of its bytes were gone"


class PipeTransport(Transport):
    """One end of a connected stream socket; the module's docstring says how it works.

    Takes over `sock`. To be made and used within one event loop.
    """

    def __init__(self, sock: socket.socket, *, refuse: bool = True) -> None:
        """`refuse` as in `GuardedSocket`."""
        self._guarded = GuardedSocket(sock, refuse=refuse)
        self._socket = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._closed = False

        # Futures only wake a task, which then finds out why: one that is cancelled at that moment
        # leaves nothing unseen behind.
        self._receiver: asyncio.Future[None] | None = None
        self._reading = False  # registered with the loop
        self._ask = SMALL_CHUNK
        self._chunk: bytes | None = (
            None  # read, and not yet received; b"" is the end, which can be read again
        )
        self._receive_fault: str | None = None

        self._sender: asyncio.Future[None] | None = None
        self._unsent = memoryview(b"")
        self._send_fault: str | None = None
        self._ended = False  # by `send_eof`

    @classmethod
    def pair(cls, *, refuse: bool = True) -> tuple[PipeTransport, socket.socket]:
        """A transport and the child's end, to be passed as both stdin and stdout and then closed here.

        The child's end is blocking, as a program expects of its stdin.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BUFFER)
            return cls(ours, refuse=refuse), theirs
        except BaseException:
            ours.close()
            theirs.close()
            raise

    # -- receiving ----------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        if self._closed:
            raise TransportClosedError(_CLOSED)
        if self._receiver is not None:
            raise TransportBusyError("another task is receiving from this pipe")
        if self._chunk is None and self._receive_fault is None:
            self._start_reading()
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
            if self._closed:
                raise TransportClosedError(_CLOSED)
        chunk = self._chunk
        if chunk is None:
            raise TransportBrokenError(self._receive_fault)
        self._chunk = None
        return chunk

    def _on_readable(self) -> None:
        if self._chunk is not None:
            self._stop_reading()
            return
        try:
            chunk = self._guarded.receive(self._ask)
        except (BlockingIOError, InterruptedError):
            return
        except DescriptorPassedError:
            self._receive_fault = _PASSED
            self._stop_reading()
        except OSError as error:
            self._receive_fault = f"the peer vanished: {error.strerror}"
            self._stop_reading()
        else:
            self._chunk = chunk
            self._ask = MOST if len(chunk) >= SMALL_CHUNK else SMALL_CHUNK
        _wake(self._receiver)

    def _start_reading(self) -> None:
        if not self._reading:
            self._loop.add_reader(self._fd, self._on_readable)
            self._reading = True

    def _stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    # -- sending ------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        self._check_sending()
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            raise self._broken(error) from None
        if sent == len(data):
            return
        self._unsent = memoryview(data)[sent:]
        self._sender = self._loop.create_future()
        self._loop.add_writer(self._fd, self._on_writable)
        try:
            await self._sender
        except asyncio.CancelledError:
            self._send_fault = self._send_fault or _CANCELLED
            raise
        finally:
            self._sender = None
            self._unsent = memoryview(b"")
            if not self._closed:
                self._loop.remove_writer(self._fd)
        self._check_sending()

    async def send_eof(self) -> None:
        self._check_sending()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._broken(error) from None
        self._ended = True

    def _check_sending(self) -> None:
        if self._closed:
            raise TransportClosedError(_CLOSED)
        if self._sender is not None:
            raise TransportBusyError("another task is sending to this pipe")
        if self._send_fault is not None:
            raise TransportBrokenError(self._send_fault)
        if self._ended:
            raise TransportClosedError(_ENDED)

    def _on_writable(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error)
        else:
            if self._unsent:
                return
        _wake(self._sender)

    def _broken(self, error: OSError) -> TransportBrokenError:
        self._send_fault = f"the peer takes nothing more: {error.strerror}"
        return TransportBrokenError(self._send_fault)

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_reading()
        self._loop.remove_writer(self._fd)
        _wake(self._receiver)
        _wake(self._sender)
        await self._guarded.close()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
