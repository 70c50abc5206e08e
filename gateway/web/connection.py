"""One open channels websocket: what carries messages between a client and its kernel's attachment.

A `Connection` owns one task, which writes, and one timer. It holds no queue of its own: it takes the
next messages from the attachment only when the socket has taken the last ones, and while the kernel cannot
take a client's message nothing more is read from that client. So what a slow side may cost is
what the attachment's window allows, one write, and the socket's own buffers.

`release` gives everything back, at once and in any state; it is what every end of the websocket comes to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..kernels.attachment import Attachment, ClientBehindError, SessionTakenError
from ..kernels.errors import KernelGoneError
from ..observability import Metrics
from ..wire.messages import MessageError
from .protocol import Dialect, IgnoredError, RefusedError, gather

#: Bytes of new messages after which the client is asked at once whether it has them, and the seconds
#: after which it is asked where there are fewer.
RECEIPT_BYTES = 64 * 1024
RECEIPT_DELAY = 0.2

#: How a websocket is closed: codes of RFC 6455, section 7.4.1, and reasons. JupyterLab does not come back
#: after 1000 and 1001 (@jupyterlab/services, kernel/default.ts), and has no cause to.
GONE = (1001, "This kernel has been shut down.")
TAKEN_OVER = (1000, "This session goes on in another connection.")
BEHIND = (1013, "This client reads too slowly. Connect again for what is left.")
FAILED = (1011, "The gateway failed; its log has the details.")


class Receipts:
    """Learns what the client has taken: a ping follows the messages, and its pong proves them taken.

    What TCP has taken proves nothing: it may sit in a buffer of a connection that is dead. A
    websocket answers a ping with the ping's own payload (RFC 6455, section 5.5.3), here the number
    of the last message before it. One ping is outstanding at most, so a client that does not
    answer costs one timer. Tornado's own pings, with an empty payload, are left alone.
    """

    def __init__(self, ping: Callable[[bytes], None], acknowledge: Callable[[int], None]) -> None:
        self._ping = ping
        self._acknowledge = acknowledge
        self._sent = 0
        self._new = 0
        self._asked: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, sequence: int, size: int) -> None:
        """Messages up to `sequence`, `size` bytes, are on their way."""
        self._sent = sequence
        self._new += size
        self._consider()

    def answered(self, payload: bytes) -> None:
        """A pong came; one that answers no ping of ours says nothing."""
        if self._asked is None or payload != _payload(self._asked):
            return
        self._acknowledge(self._asked)
        self._asked = None
        self._consider()

    def close(self) -> None:
        """Ask no more."""
        self._new = 0
        self._asked = None
        self._stop_timer()

    def _consider(self) -> None:
        if self._asked is not None or not self._new:
            return
        if self._new >= RECEIPT_BYTES:
            self._ask()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RECEIPT_DELAY, self._ask)

    def _ask(self) -> None:
        self._stop_timer()
        self._new = 0
        self._asked = self._sent
        self._ping(_payload(self._asked))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection:
    """Carries messages both ways until one side ends; see the module's docstring.

    `stream` is the websocket's own, on which nobody else writes anything but whole frames.
    """

    def __init__(
        self,
        websocket: WebSocketHandler,
        stream: IOStream,
        attachment: Attachment,
        dialect: Dialect,
        metrics: Metrics,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._websocket = websocket
        self._stream = stream
        self._attachment = attachment
        self._dialect = dialect
        self._count_in = _traffic(metrics, "in")
        self._count_out = _traffic(metrics, "out")
        self._log = log
        self._receipts = Receipts(self._ask, attachment.acknowledge)
        self._sending: asyncio.Task[Any] | None = None
        self._complained = False
        self._released = False
        # Tornado reads on only when the kernel has taken a message, so it may be long in
        # finding out by itself that the client has gone.
        stream.set_close_callback(self.release)
        self._writer = asyncio.create_task(self._write())

    # -- from the client ----------------------------------------------------------------------------

    async def take(self, message: str | bytes) -> None:
        """Hand on what the client sent; returns when the kernel has taken it."""
        if self._released:
            # Only a client whose session was taken over can still speak here; see `_give_way`.
            self._websocket.close(*TAKEN_OVER)
            return
        try:
            decoded = self._dialect.decode(message)
        except IgnoredError as ignored:
            self._once("a message of a client was ignored: %s", ignored)
            return
        except RefusedError as refusal:
            self._log.warning("a websocket is closed: %s", refusal)
            self._end(refusal.code, refusal.reason)
            return
        self._count_in(1, len(decoded))
        self._sending = asyncio.current_task()
        try:
            await self._attachment.send(decoded)
        except KernelGoneError:
            pass  # the writing task hears it as well, and tells the client
        except asyncio.CancelledError:
            if not self._released:
                raise
        finally:
            self._sending = None

    @property
    def waits_for_kernel(self) -> bool:
        """Whether a message of the client waits for the kernel, and all that follows it waits to be read."""
        return self._sending is not None

    def on_pong(self, payload: bytes) -> None:
        """The client answered a ping."""
        self._receipts.answered(payload)

    # -- to the client ------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                batch = await self._attachment.receive()
                for write in gather(batch, self._dialect.encode, self._untold):
                    # Nothing may come between the pieces of one frame, so nothing is awaited here.
                    flushed = [self._stream.write(piece) for piece in write.pieces][-1]
                    self._receipts.sent(write.sequence, write.size)
                    self._count_out(write.messages, write.size)
                    await flushed
                    # A client that is fast enough must not keep the others waiting.
                    await asyncio.sleep(0)
        except KernelGoneError:
            self._end(*GONE)
        except SessionTakenError:
            self._give_way()
        except ClientBehindError:
            self._end(*BEHIND)
        except StreamClosedError:
            self.release()
        except Exception:
            self._log.exception("writing to a websocket failed")
            self._end(*FAILED)

    def _give_way(self) -> None:
        """End for the websocket that took this session over.

        jupyter_server's gateway client opens a second one when its browser comes back, while it still
        believes in the first, and reconnects that one whatever the close code says: closed, it would take
        the session back, and its outputs to a browser that is gone. Such a client's is left open and
        silent, until it speaks or ends.
        """
        if self._dialect.text_only:
            self.release()
        else:
            self._end(*TAKEN_OVER)

    def _ask(self, payload: bytes) -> None:
        try:
            self._websocket.ping(payload)
        except (StreamClosedError, WebSocketClosedError):
            self.release()

    def _untold(self, error: MessageError) -> None:
        self._once("a message of the kernel could not be passed on: %s", error)

    def _once(self, message: str, *args: object) -> None:
        """Warn the first time only: neither a client nor a kernel may fill the log."""
        if not self._complained:
            self._complained = True
            self._log.warning(message + " (what follows on this websocket is not logged)", *args)

    # -- end ----------------------------------------------------------------------------------------

    def release(self) -> None:
        """Give back the task, the timer and the attachment; idempotent."""
        if self._released:
            return
        self._released = True
        self._receipts.close()
        self._attachment.detach()
        for task in (self._writer, self._sending):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _end(self, code: int, reason: str) -> None:
        self.release()
        self._websocket.close(code, reason)


def _traffic(metrics: Metrics, direction: str) -> Callable[[int, int], None]:
    """Counts messages and their bytes."""
    messages = metrics.websocket_messages.labels(direction)
    size = metrics.websocket_bytes.labels(direction)

    def count(messages_more: int, size_more: int) -> None:
        messages.inc(messages_more)
        size.inc(size_more)

    return count


def _payload(sequence: int) -> bytes:
    return sequence.to_bytes(8, "little")
