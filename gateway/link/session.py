"""The framed session with one relay: several routes over one transport, bounded both ways.

`docs/protocol.md`, section 1, is the theory; this is the gateway's end of it. A `Link` owns two tasks,
one that reads and one that writes. It ends once, with a reason in words (`Link.closed`): the relay ended
it, broke a rule of the protocol, did not answer, or `close` was called. What the relay sends is
hostile: every number is checked before it is used, nothing from it sizes a loop or a buffer, and
a rule that is broken ends this link and nothing else.

Kernel messages pass as opaque bytes. They wait in the `Inbox` of each route until its client takes
them; a route that holds more than its bound stops the reading of the whole link, which only happens with
a relay that disregards the window it was told (an honest one stops its kernel first).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from ..transport.base import Transport, TransportError
from ..wire import framing
from ..wire.allowance import Allowance
from ..wire.framing import Frame, FrameDecoder, FramingError, Kind
from . import payloads
from .inbox import Inbox
from .payloads import ProtocolError

#: Bytes of requests beyond one message that may wait for the relay's acknowledgement.
REQUEST_SLACK = 1 << 20
#: Seconds between two PINGs, and without any frame from the relay before it counts as gone.
PING_INTERVAL = 10.0
PING_TIMEOUT = 60.0

#: Bytes of a message that is kept to show the kernel's session (`Link.spoken`).
MAX_SPOKEN = 4096

#: The code in a STATE frame -> the word that clients know.
STATES = ("starting", "idle", "busy", "restarting", "dead")


class LinkError(Exception):
    """Base of what a link raises."""


class LinkClosedError(LinkError):
    """The link has ended; the message is the reason."""


class ControlError(LinkError):
    """The relay could not do what it was asked; the message is its sentence (hostile text, bounded)."""


class LinkListener(Protocol):
    """Who hears what the relay tells about its kernel. Called from the reading task; must not block."""

    def on_state(self, state: str) -> None:
        """The kernel's execution state, one of `STATES`."""

    def on_died(self, reason: str, asked: str | None) -> None:
        """The kernel's process ended; its outstanding requests were ended by the relay.

        `asked` is "shutdown" or "restart" where a client's shutdown_request wanted that.
        """

    def on_done(self, sequences: Sequence[int]) -> None:
        """These requests, by the numbers that `Route.send` returned, have their reply and their idle."""

    def on_log(self, text: str) -> None:
        """Whole lines of the relay's or kernel's own output; hostile text."""

    def on_activity(self) -> None:
        """Kernel messages came."""


class Route:
    """One client's lane on a link. Made by `Link.open_route`."""

    def __init__(self, link: Link, number: int, inbox: Inbox) -> None:
        self._link = link
        self.number = number
        self.inbox = inbox
        self.opened = False

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
    """

    def __init__(
        self, transport: Transport, listener: LinkListener, *, window: int, max_message: int
    ) -> None:
        self._transport = transport
        self._listener = listener
        self._window = window
        self._max_message = max_message
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
        self._room = asyncio.Event()
        self._outgoing: list[bytes] = []
        self._acks: dict[int, int] = {}
        self._pong: bytes | None = None
        self._wake_writer = asyncio.Event()
        self._controls: dict[int, asyncio.Future[None]] = {}
        self._next_control = 1
        self._greeted = False
        self._heard = 0.0
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
        self._post(framing.encode(Kind.HELLO, payload=payloads.dump(hello)))
        self._heard = asyncio.get_running_loop().time()
        for work in (self._read, self._write, self._keep_alive):
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
        for future in self._controls.values():
            if not future.done():
                future.set_exception(LinkClosedError(reason))
        self._controls.clear()
        self._credit.set()
        self._room.set()
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
        number = self._next_control
        self._next_control += 1
        payload = payloads.dump({"id": number, "op": op, **(members or {})})
        if len(payload) > framing.MAX_SMALL_PAYLOAD:
            raise ControlError(f"the {op} command is too large: {len(payload)} bytes")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._controls[number] = future
        try:
            self._post(framing.encode(Kind.CONTROL, payload=payload))
            async with asyncio.timeout(within):
                await future
        except TimeoutError:
            raise ControlError(f"no answer to {op} within {within:g} s") from None
        finally:
            self._controls.pop(number, None)

    def open_route(self, session_id: str, inbox: Inbox) -> Route:
        """Tie a new route to the client's session; its messages come to `inbox` from then on."""
        self._check_open()
        number = self._next_route
        if number > framing.MAX_ROUTE:
            self._end("this link has used up its routes")
            self._check_open()
        self._next_route += 1
        route = self._routes[number] = Route(self, number, inbox)
        inbox.on_taken = self._room.set
        self._post(framing.encode(Kind.OPEN, number, payloads.dump({"session_id": session_id})))
        return route

    def close_route(self, route: Route) -> None:
        """See `Route.close`; a second call does nothing."""
        if self._routes.pop(route.number, None) is None:
            return
        self._hearing = tuple(other for other in self._hearing if other is not route)
        route.inbox.on_taken = None
        self._room.set()
        if self._reason is None:
            # The acknowledgement has to go first: it decides what the session still needs.
            self._flush_acks()
            self._post(framing.encode(Kind.CLOSE, route.number))

    async def send_message(self, route: int, message: bytes) -> int:
        """See `Route.send`."""
        while self._unacknowledged_bytes > self._max_message + REQUEST_SLACK and self._reason is None:
            self._credit.clear()
            await self._credit.wait()
        self._check_open()
        self._sent += 1
        self._unacknowledged.append((self._sent, len(message)))
        self._unacknowledged_bytes += len(message)
        self._outgoing.append(framing.encode_header(Kind.MESSAGE, route, len(message), self._sent))
        self._post(message)
        return self._sent

    def acknowledge(self, route: int, sequence: int) -> None:
        """See `Route.acknowledge`."""
        if self._reason is None and route in self._routes:
            self._acks[route] = sequence
            self._wake_writer.set()

    def _post(self, data: bytes) -> None:
        self._outgoing.append(data)
        self._wake_writer.set()

    def _flush_acks(self) -> None:
        for route, sequence in self._acks.items():
            self._outgoing.append(framing.encode(Kind.ACK, route, framing.SEQUENCE.pack(sequence)))
        self._acks.clear()

    async def _write(self) -> None:
        while self._reason is None:
            await self._wake_writer.wait()
            self._wake_writer.clear()
            self._flush_acks()
            if self._pong is not None:
                # Only the newest is kept, so that a flood of PINGs costs no memory.
                self._outgoing.append(framing.encode(Kind.PONG, payload=self._pong))
                self._pong = None
            outgoing, self._outgoing = self._outgoing, []
            await self._transport.send(b"".join(outgoing))

    async def _keep_alive(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._reason is None:
            await asyncio.sleep(PING_INTERVAL)
            if clock() - self._heard > PING_TIMEOUT:
                self._end(f"the relay did not answer for {PING_TIMEOUT:g} s")
                return
            self._post(framing.encode(Kind.PING, payload=framing.SEQUENCE.pack(0)))

    # -- from the relay -----------------------------------------------------------------------------

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._reason is None:
            data = await self._transport.receive()
            if not data:
                self._decoder.end()
                self._end("the relay ended the link")
                return
            self._heard = clock()
            self._dispatch(self._decoder.feed(data))
            await self._wait_for_room()
            # The time that a slow client took is not the relay's silence.
            self._heard = clock()

    async def _wait_for_room(self) -> None:
        while self._reason is None and any(
            route.inbox.size > self._window for route in self._routes.values()
        ):
            self._room.clear()
            await self._room.wait()

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
        if touched:
            self._listener.on_activity()

    def _on_message(self, frame: Frame, touched: set[Inbox]) -> None:
        _, number, payload, sequence = frame
        if sequence > self._received:
            if sequence != self._received + 1:
                raise ProtocolError(f"message {sequence} came after {self._received}")
            self._received = sequence
        if number == framing.BROADCAST:
            if len(payload) < MAX_SPOKEN:
                self.spoken = payload
            for route in self._hearing:
                route.inbox.put(sequence, payload)
                touched.add(route.inbox)
        elif (addressee := self._routes.get(number)) is not None:
            # A route that was closed meanwhile is no fault of the relay's: it is not known here.
            addressee.inbox.put(sequence, payload)
            touched.add(addressee.inbox)

    def _on_hello(self, frame: Frame) -> None:
        if frame.kind is not Kind.HELLO:
            raise ProtocolError(f"its first frame was {frame.kind.name}, not HELLO")
        hello = payloads.load(frame)
        if payloads.integer(hello, "version") < 1:
            raise ProtocolError(f"it speaks version {hello['version']}, this gateway 1")
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
                route = self._routes.get(number)
                if route is not None and not route.opened:
                    route.opened = True
                    self._hearing = (*self._hearing, route)
            case Kind.CONTROL:
                self._on_control(payloads.load(frame))
            case Kind.DIED:
                died = payloads.load(frame)
                asked = died.get("asked")
                self._listener.on_died(
                    payloads.text(died, "reason"), asked if asked in ("shutdown", "restart") else None
                )
            case Kind.LOG:
                lines = payload.decode("utf-8", "replace").splitlines()
                if text := self._log_allowance.limit(lines, self._heard):
                    self._listener.on_log(text)
            case Kind.PING:
                self._pong = framing.SEQUENCE.pack(payloads.sequence(frame))
                self._wake_writer.set()
            case Kind.PONG:
                pass  # any frame shows that the relay lives
            case _:
                raise ProtocolError(f"a {kind.name} frame, which only a gateway sends, or only once")

    def _on_ack(self, sequence: int) -> None:
        if sequence > self._sent:
            raise ProtocolError(f"it acknowledged {sequence}, only {self._sent} were sent")
        while self._unacknowledged and self._unacknowledged[0][0] <= sequence:
            self._unacknowledged_bytes -= self._unacknowledged.popleft()[1]
        self._credit.set()

    def _on_control(self, answer: dict[str, Any]) -> None:
        future = self._controls.get(payloads.integer(answer, "id"))
        if future is None or future.done():
            return  # the asker has given up
        if answer.get("ok") is True:
            future.set_result(None)
        else:
            future.set_exception(ControlError(payloads.text(answer, "error")))
