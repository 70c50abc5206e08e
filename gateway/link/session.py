"""The framed session with one relay: several routes over one transport, bounded both ways.

`docs/protocol.md`, section 1, is the theory; this is the gateway's end of it. A `Link` owns two tasks,
one that reads and one that writes. It ends once, with a reason in words (`Link.closed`): the relay ended
it, broke a rule of the protocol, did not answer, or `close` was called. What the relay sends is
hostile: every number is checked before it is used, nothing from it sizes a loop or a buffer, and
a rule that is broken ends this link and nothing else.

Kernel messages pass as opaque bytes. They wait in the `Inbox` of each route until its client takes
them. An honest relay stops its kernel when a client is slow, so what waits has a bound
(`gateway.wire.window`); a route that goes beyond gets nothing more until its client comes back and has it
sent again. No client ever stops the reading of the link, on which the others, and every command, depend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..transport.base import Transport, TransportError
from ..wire import framing, payloads
from ..wire.allowance import Allowance
from ..wire.framing import Frame, FrameDecoder, FramingError, Kind
from ..wire.payloads import STATES
from ..wire.v1 import MIN_SIZE
from ..wire.window import COST, reach
from .controls import Controls
from .errors import LinkClosedError, ProtocolError
from .inbox import Inbox, InboxFullError
from .listener import LinkListener
from .outgoing import Outgoing

#: Bytes of requests beyond one message that may wait for the relay's acknowledgement.
REQUEST_SLACK = 1 << 20
#: Seconds between two PINGs, and that one may go unanswered before the relay counts as gone.
PING_INTERVAL = 10.0
PING_TIMEOUT = 60.0

#: Bytes of what was received that are handled together, and frames in them after which the others get a turn.
#: An honest relay sends a hundred, one that sends the smallest there are, thousands.
PIECE = 32 * 1024
MANY = 512

#: Bytes of a message that is kept to show the kernel's session (`Link.spoken`).
MAX_SPOKEN = 4096


class Route:
    """One client's lane on a link. Made by `Link.open_route`."""

    def __init__(self, link: Link, number: int, inbox: Inbox) -> None:
        self._link = link
        self.number = number
        self.inbox = inbox

    async def send(self, message: bytes) -> int:
        """Send one v1 message to the kernel; returns its sequence number.

        Waits while too much is unacknowledged. Raises `LinkClosedError`.
        """
        return await self._link.send_message(self.number, message)

    def acknowledge(self, sequence: int) -> None:
        """The client has taken every message up to `sequence`."""
        self._link.acknowledge(self.number, sequence)

    def close(self) -> None:
        """Give the route up; the relay keeps what its session has not acknowledged."""
        self._link.close_route(self)


class Link:
    """A session with one relay over `transport`, which it owns and closes.

    `window` bounds the bytes that a client may hold unacknowledged, `max_message` one message, in bytes.
    Seconds: a PING goes every `ping_interval`, and may go unanswered for `ping_timeout`.
    """

    def __init__(
        self,
        transport: Transport,
        listener: LinkListener,
        *,
        window: int,
        max_message: int,
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
    ) -> None:
        self._transport = transport
        self._listener = listener
        self._window = window
        self._max_message = max_message
        self._reach = reach(window, max_message)
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._decoder = FrameDecoder(max_message)
        self._routes: dict[int, Route] = {}
        self._hearing: tuple[Route, ...] = ()
        self._next_route = 1
        #: The last small message that went to everyone: it shows the kernel's session.
        self.spoken = b""
        self._received = 0
        self._sent = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._unacknowledged_bytes = 0
        self._credit = asyncio.Event()
        self._outgoing = Outgoing(transport)
        self._controls = Controls(self._outgoing.post)
        self._greeted = False
        #: When the oldest PING went that nothing has answered; any bytes from the relay are an answer.
        self._pinged: float | None = None
        self._log_allowance = Allowance(0.0)
        self._reason: str | None = None
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Say HELLO and start the tasks; requests may follow at once, the relay reads them in order."""
        hello = {
            "version": framing.VERSION,
            "capabilities": [],
            "window": self._window,
            "max_message": self._max_message,
            "received": None,
        }
        self._outgoing.post(framing.encode(Kind.HELLO, payload=payloads.dump(hello)))
        for work in (self._read, self._outgoing.write, self._keep_alive):
            self._tasks.append(asyncio.create_task(self._guard(work)))

    async def closed(self) -> str:
        """Wait for the end of the link; the reason in words."""
        await self._ended.wait()
        return self._reason or ""

    async def close(self) -> None:
        """End the link and give back its tasks and its transport; may be called again."""
        self._end("the gateway closed the link")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.close()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TransportError as error:
            self._end(f"the stream to the relay broke: {error}")
        except (FramingError, ProtocolError) as error:
            self._end(f"the relay broke the protocol: {error}")
        except Exception as error:
            # A bug of ours must not leave a link that looks alive.
            self._end(f"the link failed: {error!r}")
            raise

    def _end(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._controls.fail(LinkClosedError(reason))
        self._credit.set()
        self._ended.set()

    def _check_open(self) -> None:
        if self._reason is not None:
            raise LinkClosedError(self._reason)

    # -- to the relay -------------------------------------------------------------------------------

    async def control(self, op: str, members: dict[str, Any] | None = None, *, within: float) -> None:
        """Have the relay do `op` (protocol.md 1.5) and wait up to `within` seconds for its answer.

        Raises `ControlError` (it could not, or did not answer in time) or `LinkClosedError`.
        """
        self._check_open()
        await self._controls.ask(op, members or {}, within)

    def open_route(self, session_id: str, inbox: Inbox) -> Route:
        """Tie a new route to the client's session; its messages come to `inbox` from then on."""
        self._check_open()
        number = self._next_route
        if number > framing.MAX_ROUTE:
            self._end("this link has used up its routes")
            self._check_open()
        self._next_route += 1
        route = self._routes[number] = Route(self, number, inbox)
        self._outgoing.post(framing.encode(Kind.OPEN, number, payloads.dump({"session_id": session_id})))
        return route

    def close_route(self, route: Route) -> None:
        """See `Route.close`; a second call does nothing."""
        if self._routes.pop(route.number, None) is None:
            return
        self._hearing = tuple(other for other in self._hearing if other is not route)
        if self._reason is None:
            # The acknowledgement has to go first: it decides what the session still needs.
            self._outgoing.flush_acks()
            self._outgoing.post(framing.encode(Kind.CLOSE, route.number))

    async def send_message(self, route: int, message: bytes) -> int:
        """See `Route.send`."""
        while self._unacknowledged_bytes > self._max_message + REQUEST_SLACK and self._reason is None:
            self._credit.clear()
            await self._credit.wait()
        self._check_open()
        self._sent += 1
        size = len(message) + COST
        self._unacknowledged.append((self._sent, size))
        self._unacknowledged_bytes += size
        self._outgoing.post(framing.encode_header(Kind.MESSAGE, route, len(message), self._sent), message)
        return self._sent

    def acknowledge(self, route: int, sequence: int) -> None:
        """See `Route.acknowledge`."""
        if self._reason is None and route in self._routes:
            self._outgoing.acknowledge(route, sequence)

    async def _keep_alive(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._reason is None:
            slept = clock()
            await asyncio.sleep(self._ping_interval)
            now = clock()
            if self._pinged is None or now - slept > 2 * self._ping_interval:
                # Where this process itself stood still, what was answered meanwhile may not be read yet.
                self._pinged = now
            elif now - self._pinged > self._ping_timeout:
                self._end(f"the relay did not answer for {self._ping_timeout:g} s")
                return
            self._outgoing.post(framing.encode(Kind.PING, payload=framing.SEQUENCE.pack(0)))

    # -- from the relay -----------------------------------------------------------------------------

    async def _read(self) -> None:
        while self._reason is None:
            data = await self._transport.receive()
            if not data:
                self._decoder.end()
                self._end("the relay ended the link")
                return
            self._pinged = None
            view = memoryview(data)
            for first in range(0, len(view), PIECE):
                frames = self._decoder.feed(view[first : first + PIECE])
                self._dispatch(frames)
                if len(frames) > MANY:
                    await asyncio.sleep(0)

    def _dispatch(self, frames: list[Frame]) -> None:
        touched: set[Inbox] = set()
        try:
            for frame in frames:
                if not self._greeted:
                    self._on_hello(frame)
                elif frame.kind is Kind.MESSAGE:
                    self._on_message(frame, touched)
                else:
                    self._on_small(frame)
        finally:
            for inbox in touched:
                inbox.wake()
                if inbox.size > self._reach:
                    inbox.close(InboxFullError(f"{inbox.size} bytes wait for one client"))
        if touched:
            self._listener.on_activity()

    def _on_message(self, frame: Frame, touched: set[Inbox]) -> None:
        _, number, payload, sequence = frame
        if len(payload) < MIN_SIZE:
            raise ProtocolError(f"message {sequence} has {len(payload)} bytes, fewer than any")
        if sequence == self._received + 1:
            self._received = sequence
        elif number == framing.BROADCAST or not 1 <= sequence <= self._received:
            raise ProtocolError(f"message {sequence} came after {self._received}")
        if number == framing.BROADCAST:
            if len(payload) < MAX_SPOKEN:
                self.spoken = payload
            for route in self._hearing:
                route.inbox.put(sequence, payload)
                touched.add(route.inbox)
        elif (addressee := self._routes.get(number)) is not None:
            # A route that was closed meanwhile is no fault of the relay's: it is not known here.
            inbox = addressee.inbox
            if sequence + inbox.offset <= inbox.last:
                raise ProtocolError(f"message {sequence} came to route {number} again")
            inbox.put(sequence, payload)
            touched.add(inbox)

    def _on_hello(self, frame: Frame) -> None:
        if frame.kind is not Kind.HELLO:
            raise ProtocolError(f"its first frame was {frame.kind.name}, not HELLO")
        hello = payloads.load(frame)
        if payloads.integer(hello, "version") < 1:
            raise ProtocolError(f"it speaks version {hello['version']}, this gateway 1")
        if (takes := payloads.integer(hello, "max_message")) < self._max_message:
            raise ProtocolError(
                f"it takes messages of {takes} bytes, and Kernels.max_message_size is {self._max_message}"
            )
        self._greeted = True

    def _on_small(self, frame: Frame) -> None:
        kind, number, payload, _ = frame
        match kind:
            case Kind.STATE:
                if len(payload) != 1 or payload[0] >= len(STATES):
                    raise ProtocolError(f"a STATE frame of {payload[:8]!r}")
                self._listener.on_state(STATES[payload[0]])
            case Kind.DONE:
                if not payload or len(payload) % framing.SEQUENCE.size:
                    raise ProtocolError(f"a DONE frame of {len(payload)} bytes")
                self._listener.on_done([number for (number,) in framing.SEQUENCE.iter_unpack(payload)])
            case Kind.ACK:
                self._on_ack(payloads.sequence(frame))
            case Kind.OPENED:
                self._on_opened(number, payloads.load(frame))
            case Kind.CONTROL:
                self._controls.answered(payloads.load(frame))
            case Kind.DIED:
                died = payloads.load(frame)
                asked = died.get("asked")
                self._listener.on_died(
                    payloads.text(died, "reason"), asked if asked in ("shutdown", "restart") else None
                )
            case Kind.LOG:
                lines = payload.decode("utf-8", "replace").splitlines()
                if text := self._log_allowance.limit(lines, asyncio.get_running_loop().time()):
                    self._listener.on_log(text)
            case Kind.PING:
                self._outgoing.answer(payloads.sequence(frame))
            case Kind.PONG:
                pass  # any frame shows that the relay lives
            case _:
                raise ProtocolError(f"a {kind.name} frame, which only a gateway sends, or only once")

    def _on_opened(self, number: int, opened: dict[str, Any]) -> None:
        sequence = payloads.integer(opened, "sequence")
        payloads.integer(opened, "lost")
        if sequence > self._received or not 1 <= number < self._next_route:
            raise ProtocolError(f"route {number} was opened at {sequence}, which cannot be")
        route = self._routes.get(number)
        if route is None:
            return  # it was closed meanwhile
        if route in self._hearing:
            raise ProtocolError(f"route {number} was opened twice")
        self._hearing = (*self._hearing, route)

    def _on_ack(self, sequence: int) -> None:
        if sequence > self._sent:
            raise ProtocolError(f"it acknowledged {sequence}, only {self._sent} were sent")
        while self._unacknowledged and self._unacknowledged[0][0] <= sequence:
            self._unacknowledged_bytes -= self._unacknowledged.popleft()[1]
        self._credit.set()
