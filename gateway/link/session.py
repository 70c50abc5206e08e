"""The framed session with one relay: several routes over one transport, bounded both ways.

`docs/protocol.md`, section 1, is the theory; this is the gateway's end of it. A `Link` ends once, with a
reason in words (`Link.closed`): the relay ended it, broke a rule of the protocol, did not answer, or `close`
was called. Where the relay lives on without its stream, the link does too: it asks for another stream, hears
in the relay's HELLO what has arrived, and sends the rest again. Routes, numbers and commands go on.

What the relay sends is hostile: every number is checked before it is used, nothing from it sizes a loop or
a buffer, and a rule that is broken ends this link and nothing else.

Kernel messages pass as opaque bytes. They wait in the `Inbox` of each route until its client takes
them. An honest relay stops its kernel when a client is slow, so what waits has a bound
(`gateway.wire.window`); a route that goes beyond gets nothing more until its client comes back and has it
sent again. No client ever stops the reading of the link, on which the others, and every command, depend.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

from ..transport.base import Transport
from ..wire import framing, payloads
from ..wire.allowance import Allowance
from ..wire.framing import Frame, FramingError, Kind
from ..wire.payloads import STATES
from ..wire.v1 import MIN_SIZE
from ..wire.window import COST, reach
from .controls import Controls
from .death import Death
from .errors import LinkClosedError, ProtocolError
from .inbox import Inbox, InboxFullError
from .listener import LinkListener
from .outgoing import Outgoing
from .route import Route, Sent, opening, request
from .seeker import Reconnect, Seeker
from .stream import Stream

#: Bytes of requests beyond one message that may wait for the relay's acknowledgement.
REQUEST_SLACK = 1 << 20
#: Seconds between two PINGs, and that one may go unanswered before the relay counts as gone.
PING_INTERVAL = 10.0
PING_TIMEOUT = 60.0

#: Seconds that a link without a stream looks for another one.
PATIENCE = 120.0

#: What a PING asks that is to be answered behind all that the relay sends again; the heartbeat's ask 0.
_ALL_SENT = 1

#: Bytes of a message that is kept to show the kernel's session (`Link.spoken`).
MAX_SPOKEN = 4096


class Link:
    """A session with one relay over `transport`, which it owns and closes.

    `window` bounds the bytes that a client may hold unacknowledged, `max_message` one message, in bytes.
    `reconnect` gives another stream when one breaks; None ends the link with it. Without a `transport` the
    relay is one that another gateway has left: a stream is asked for, and nothing sent before its HELLO.
    Seconds: a PING goes every `ping_interval`, and may go unanswered for `ping_timeout`; without a stream the
    link ends after `patience`.
    """

    def __init__(
        self,
        transport: Transport | None,
        listener: LinkListener,
        *,
        window: int,
        max_message: int,
        reconnect: Reconnect | None = None,
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self._listener = listener
        self._seeker = Seeker(reconnect, patience)
        self._window = window
        self._max_message = max_message
        self._reach = reach(window, max_message)
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._routes: dict[int, Route] = {}
        self._hearing: tuple[Route, ...] = ()
        self._next_route = 1
        #: The last small message that went to everyone: it shows the kernel's session.
        self.spoken = b""
        self._received = 0
        self._sent = 0
        self._unacknowledged: deque[Sent] = deque()
        self._unacknowledged_bytes = 0
        self._credit = asyncio.Event()
        self._stream = None if transport is None else self._make_stream(transport)
        #: Where frames go; None while a stream's beginning is to be settled first (`_catch_up`).
        self._outgoing: Outgoing | None = None if self._stream is None else self._stream.outgoing
        self._controls = Controls(self._post)
        #: Whether the relay has said HELLO on this stream, and its name for itself, from the first one.
        self._greeted = False
        self._relay: str | None = None
        #: Set once numbers can be given.
        self._numbered = asyncio.Event()
        if transport is not None:
            self._numbered.set()
        self._death = Death(listener.on_died)
        self._log_allowance = Allowance(0.0)
        self._reason: str | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Say HELLO and start to serve; requests may follow at once, the relay reads them in order."""
        if self._stream is not None:
            self._say_hello(self._stream)
        self._task = asyncio.create_task(self._live())

    async def greeted(self) -> None:
        """Wait for the relay's first HELLO, where it is adopted. Raises `LinkClosedError`."""
        await self._numbered.wait()
        self._check_open()

    def abandon(self, reason: str) -> None:
        """There will be no other stream: the link ends with the one that it has, or now, with `reason`."""
        self._seeker.abandon(reason)

    async def closed(self) -> str:
        """Wait for the end of the link; the reason in words."""
        await self._ended.wait()
        return self._reason or ""

    async def settle(self, within: float) -> None:
        """Wait until all that was posted has gone to the transport, for up to `within` seconds.

        Before `close`, where another gateway goes on: what it does not know as acknowledged is sent again.
        """
        if self._outgoing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outgoing.drained(), within)

    async def close(self) -> None:
        """End the link and give back its tasks and its transport; may be called again."""
        self._end("the gateway closed the link")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._stream is not None:
            await self._stream.close()

    async def _live(self) -> None:
        clock = asyncio.get_running_loop().time
        reason = "it has none yet"
        try:
            while self._reason is None:
                if self._stream is not None:
                    began = clock()
                    reason = await self._stream.run()
                    self._outgoing = None
                    self._seeker.ended(clock() - began, greeted=self._greeted)
                    if self._seeker.reconnect is not None:
                        self._listener.on_stream(f"lost, and another is looked for: {reason}")
                transport = await self._seeker.next()
                if transport is None:
                    self._end(self._seeker.why(reason))
                    return
                self._greeted = False
                self._stream = self._make_stream(transport)
                self._say_hello(self._stream)
        except (FramingError, ProtocolError) as error:
            self._end(f"the relay broke the protocol: {error}")
        except Exception as error:
            # A bug of ours must not leave a link that looks alive.
            self._end(f"the link failed: {error!r}")
            raise

    def _make_stream(self, transport: Transport) -> Stream:
        return Stream(
            transport,
            self._dispatch,
            max_message=self._max_message,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
        )

    def _say_hello(self, stream: Stream) -> None:
        hello = {
            "version": framing.VERSION,
            "capabilities": [],
            "window": self._window,
            "max_message": self._max_message,
        }
        stream.outgoing.post(framing.encode(Kind.HELLO, payload=payloads.dump(hello)))

    def _post(self, *pieces: bytes) -> None:
        # What is not posted here is said by `_catch_up`.
        if self._outgoing is not None:
            self._outgoing.post(*pieces)

    def _end(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._controls.fail(LinkClosedError(reason))
        self._numbered.set()
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
        await self.greeted()
        await self._controls.ask(op, members or {}, within)

    def open_route(self, session_id: str, inbox: Inbox) -> Route:
        """Tie a new route to the client's session; its messages come to `inbox` from then on."""
        self._check_open()
        number = self._next_route
        if number > framing.MAX_ROUTE:
            self._end("this link has used up its routes")
            self._check_open()
        self._next_route += 1
        route = self._routes[number] = Route(self, number, session_id, inbox)
        self._post(opening(route, 0))
        return route

    def close_route(self, route: Route) -> None:
        """See `Route.close`; a second call does nothing."""
        if self._routes.pop(route.number, None) is None:
            return
        self._hearing = tuple(other for other in self._hearing if other is not route)
        if self._outgoing is not None:
            # The acknowledgement has to go first: it decides what the session still needs.
            self._outgoing.flush_acks()
            self._outgoing.post(framing.encode(Kind.CLOSE, route.number))

    async def send_message(self, route: Route, message: bytes) -> int:
        """See `Route.send`."""
        await self._numbered.wait()
        while self._unacknowledged_bytes > self._max_message + REQUEST_SLACK and self._reason is None:
            self._credit.clear()
            await self._credit.wait()
        self._check_open()
        self._sent += 1
        size = len(message) + COST
        sent = Sent(self._sent, size, route, message if self._seeker.reconnect is not None else b"")
        self._unacknowledged.append(sent)
        self._unacknowledged_bytes += size
        self._post(*request(route.number, self._sent, message))
        return self._sent

    def acknowledge(self, route: Route, sequence: int) -> None:
        """See `Route.acknowledge`."""
        route.acknowledged = max(route.acknowledged, sequence)
        if self._outgoing is not None and route.number in self._routes:
            self._outgoing.acknowledge(route.number, route.acknowledged)

    def _catch_up(self, received: int) -> None:
        """Say what the relay does not know: it has had the requests up to `received`."""
        assert self._stream is not None
        outgoing = self._stream.outgoing
        again = [sent for sent in self._unacknowledged if sent.sequence > received]
        # A route that was closed meanwhile may have sent some of them. It gets nothing any more, and a newer
        # route of its session takes that over right after.
        closed = {sent.route.number: sent.route for sent in again if sent.route.number not in self._routes}
        for route in closed.values():
            outgoing.post(opening(route, self._received))
        for route in self._routes.values():
            outgoing.post(opening(route, max(route.inbox.last - route.inbox.offset, 0)))
            if route.acknowledged:
                outgoing.post(
                    framing.encode(Kind.ACK, route.number, framing.SEQUENCE.pack(route.acknowledged))
                )
        for sent in again:
            outgoing.post(*request(sent.route.number, sent.sequence, sent.message))
        for number in closed:
            outgoing.post(framing.encode(Kind.CLOSE, number))
        self._hearing = ()
        self._outgoing = outgoing
        self._controls.post_again()

    # -- from the relay -----------------------------------------------------------------------------

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
        self._on_place(hello)

    def _on_place(self, hello: dict[str, Any]) -> None:
        """Follow the relay to where it is: at the beginning, further on, or where another gateway left it."""
        stream = payloads.text(hello, "stream")
        received, sent = payloads.integer(hello, "received"), payloads.integer(hello, "sent")
        if self._relay is None and not self._numbered.is_set():
            self._sent, self._received = received, sent
            self._controls.go_on(payloads.integer(hello, "command"))
            self._numbered.set()
        elif self._relay is None and self._outgoing is not None:
            # All that was posted goes over this stream, which is its first.
            if received or sent:
                raise ProtocolError(f"it is new, and has had {received} messages and sent {sent}")
            self._relay = stream
            return
        elif self._relay not in (None, stream):
            raise ProtocolError("another relay has taken its place")
        elif sent < self._received or received > self._sent:
            raise ProtocolError(
                f"it has had {received} and sent {sent}, of {self._sent} and {self._received}"
            )
        self._relay = stream
        self._received = sent
        self._death.begins_anew()
        if self._controls.have_arrived(payloads.integer(hello, "command")):
            self._death.has_had_a_command()
        self._listener.on_place(received)
        self._listener.on_state(_state(hello))
        self._catch_up(received)

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
            case Kind.OUTSTANDING:
                told = payloads.load(frame)
                channel = payloads.text(told, "channel")
                if (sequence := payloads.integer(told, "sequence")) > self._sent:
                    raise ProtocolError(f"request {sequence} is outstanding, only {self._sent} were sent")
                self._listener.on_outstanding(
                    sequence,
                    payloads.text(told, "session_id"),
                    channel if channel in ("shell", "control") else "shell",
                    payloads.text(told, "header", framing.MAX_SMALL_PAYLOAD).encode(),
                )
            case Kind.ACK:
                self._on_ack(payloads.sequence(frame))
            case Kind.OPENED:
                self._on_opened(number, payloads.load(frame))
            case Kind.CONTROL:
                self._controls.answered(payloads.load(frame))
                self._death.has_had_a_command()
            case Kind.DIED:
                self._on_died(payloads.load(frame))
            case Kind.LOG:
                lines = payload.decode("utf-8", "replace").splitlines()
                if text := self._log_allowance.limit(lines, asyncio.get_running_loop().time()):
                    self._listener.on_log(text)
            case Kind.PING:
                assert self._stream is not None
                self._stream.outgoing.answer(payloads.sequence(frame))
            case Kind.PONG:
                # Any frame shows that the relay lives.
                if payloads.sequence(frame) == _ALL_SENT:
                    self._death.tell()
            case _:
                raise ProtocolError(f"a {kind.name} frame, which only a gateway sends, or only once")

    def _on_died(self, died: dict[str, Any]) -> None:
        asked = died.get("asked")
        if self._death.heard(
            payloads.text(died, "reason"),
            asked if asked in ("shutdown", "restart") else None,
            behind_all=len(self._hearing) == len(self._routes),
        ):
            self._post(framing.encode(Kind.PING, payload=framing.SEQUENCE.pack(_ALL_SENT)))

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
        while self._unacknowledged and self._unacknowledged[0].sequence <= sequence:
            self._unacknowledged_bytes -= self._unacknowledged.popleft().size
        self._credit.set()


def _state(hello: dict[str, Any]) -> str:
    state = payloads.text(hello, "state")
    if state not in STATES:
        raise ProtocolError(f"a state {state[:20]!r} that is none")
    return state
