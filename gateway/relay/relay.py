"""The link's frames, and the parts of the relay put together.

A link begins with HELLO, which tells all that a gateway cannot know, and ends with its stream. The relay
ends with it, or waits for the next one, if it was told to (`door`); then what goes on meanwhile is kept by
`outbox` and told by the next HELLO.

Each turn of the loop handles what is ready and then settles: DONE and ACK are told, what waits is
written (at once, or with what comes right behind it: `pace`), and the taps are turned by how much waits. An
ACK alone is not worth a wake-up of the gateway, so it waits a moment for something to travel with.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import zmq

from ..wire import framing, payloads
from ..wire.allowance import Allowance
from ..wire.framing import Frame, FrameDecoder, FramingError, Kind, encode
from ..wire.payloads import STATES
from .boot import Boot
from .brake import MAX_UNSENT
from .commands import Commands
from .errors import LinkError
from .hiding import hide
from .inbound import Inbound
from .life import DEFAULT_GRACE, Gateway, Life
from .loop import Loop
from .outbound import Outbound
from .outbox import SESSION_TTL, Outbox
from .pace import GATHER, MUCH
from .requests import Request, Requests
from .taps import Taps
from .voice import Voice
from .writer import Writer

#: Bytes that are read from the link in one turn.
_READ = 256 * 1024
#: Seconds that an ACK may wait, and messages that may wait for one.
_ACK_DELAY = 0.02
_ACK_COUNT = 64
#: Characters of a session's name.
_MAX_NAME = 1024
#: Routes that may be open at a time.
_MAX_ROUTES = 65_536
#: Exit statuses from here on are signals, as shells and container runtimes tell them.
_SIGNALLED = 128


class Relay(Gateway):
    """One relay. `gateway` in the other modules' terms: it implements `life.Gateway`."""

    def __init__(
        self,
        run_dir: str,
        boot: Boot,
        patience: float | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`patience`: seconds without a link after which the relay ends; None: it ends with its first one.

        `environment` is what its sandbox gives a kernel, beneath that of its start.
        """
        self._stream = os.urandom(16).hex()
        self._state = "starting"
        self._acknowledged = 0
        self._boot = boot
        self._patience = patience
        # The link: its stream, what gives that back, and whether the gateway has said HELLO.
        self._reading: int | None = None
        self._release: Callable[[], None] = lambda: None
        self._greeted = False
        self._decoder = FrameDecoder()
        self._commands = Commands()
        self._died: bytes | None = None
        #: How the process ends, when `run` has ended.
        self.status = 0
        self.loop = Loop(self._settle)
        self._notes = Allowance(self.loop.now)
        self._writer = Writer()
        self._requests = Requests()
        self._outbox = Outbox(self._writer.write, window=framing.DEFAULT_MAX_MESSAGE)
        self._voice = Voice(self._outbox)
        self._inbound = Inbound(self._outbox, self._requests, self._voice, self._note)
        self._outbound = Outbound(self._outbox, self._requests, self._inbound, self._voice, self._note)
        self._taps = Taps(self.loop, self._inbound, self._outbound, self._outbox, self._writer)
        self._life = Life(self.loop, self, self._taps, self._inbound, run_dir, environment or {})
        self._outbound.listener = self._life

    # -- life of the link ---------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until it is time to end. Raises `LinkError` or `FramingError` where it ends with its link."""
        if (command := self._boot.command) is not None:
            self._commands.begin(int(str(command["id"])))
        self._life.adopt(self._boot)
        self._feed(self._boot.pending)
        if self._reading is None:
            self._await_link()
        self.loop.run()

    def take(self, reading: int, writing: int, release: Callable[[], None] = lambda: None) -> None:
        """Begin a link over these nonblocking descriptors; one that there is ends.

        `release` is called when this one has ended, and gives them back.
        """
        if self._reading is not None:
            self._let_go()
        self.loop.cancel("orphan")
        self._reading, self._release = reading, release
        self._greeted = False
        self._decoder = FrameDecoder()
        self._writer.attach(writing)
        self.loop.watch(reading, self._read)
        self._acknowledged = 0
        hello = {
            "version": framing.VERSION,
            "capabilities": [],
            "stream": self._stream,
            "max_message": framing.DEFAULT_MAX_MESSAGE,
            "received": self._inbound.received,
            "sent": self._outbox.sent,
            "command": self._commands.last,
            "state": self._state,
        }
        self._tell(Kind.HELLO, payloads.dump(hello))
        for request in self._requests.outstanding():
            self._tell_outstanding(request)
        if self._died is not None:
            self._tell(Kind.DIED, self._died)

    def end_link(self) -> None:
        """The link is over: its stream has ended, or the gateway broke a rule."""
        if self._patience is None:
            self.loop.stop()
        elif self._reading is not None:
            self._let_go()
            self._await_link()

    def _let_go(self) -> None:
        assert self._reading is not None
        assert self._writer.descriptor is not None
        self.loop.ignore(self._reading)
        self.loop.ignore(self._writer.descriptor)
        self.loop.cancel("ack")
        self.loop.cancel("write")
        self._writer.detach()
        self._outbox.close_all(self.loop.now)
        self._expire_later()
        self._reading = None
        self._release()

    def _await_link(self) -> None:
        if self._patience is not None:
            self.loop.at("orphan", self.loop.now + self._patience, self.loop.stop)

    def on_signal(self, number: int) -> None:
        """A signal came to the relay: a child has ended, or it is to end itself."""
        if number == signal.SIGCHLD:
            self._life.on_child()
        elif number == signal.SIGTERM:
            # Not 0: a kubelet takes a pod whose processes end well for one that has done its work, and
            # forgets that it has evicted it, or shuts down (generateAPIPodStatus in kubelet_pods.go).
            self.status = _SIGNALLED + number
            self.loop.stop()

    def kill_all(self) -> None:
        """End every process of the sandbox."""
        if self._life.process is not None:
            self._life.process.kill_all()

    # -- from the gateway ---------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._reading is not None
        try:
            data = os.read(self._reading, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end_link()
            return
        try:
            self._feed(data)
        except (LinkError, FramingError) as error:
            if self._patience is None:
                raise
            _complain(error)
            self.end_link()

    def _feed(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if not self._greeted:
                self._on_hello(frame)
            elif frame.kind is Kind.MESSAGE:
                self._inbound.take(frame)
            else:
                self._on_small(frame)

    def _on_hello(self, frame: Frame) -> None:
        if frame.kind is not Kind.HELLO:
            raise LinkError(f"the first frame was {frame.kind.name}, not HELLO")
        hello = payloads.load(frame)
        if payloads.integer(hello, "version") < 1:
            raise LinkError(f"the gateway speaks version {hello['version']}, this relay 1")
        self._outbox.window = payloads.integer(hello, "window", 1)
        self._outbound.max_message = payloads.integer(hello, "max_message", 1)
        self._greeted = True

    def _on_small(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.OPEN:
                self._on_open(frame)
            case Kind.CLOSE:
                if not self._outbox.close(frame.route, self.loop.now):
                    raise LinkError(f"route {frame.route} was closed without being open")
                self._expire_later()
            case Kind.ACK:
                sequence = payloads.sequence(frame)
                if sequence > self._outbox.sent:
                    raise LinkError(f"{sequence} was acknowledged, only {self._outbox.sent} were sent")
                self._outbox.acknowledge(frame.route, sequence)
            case Kind.CONTROL:
                self._on_control(payloads.load(frame))
            case Kind.PING:
                self._tell(Kind.PONG, framing.SEQUENCE.pack(payloads.sequence(frame)))
            case Kind.PONG:
                pass  # answers nothing: this relay notices the gateway's end by the end of the stream
            case _:
                raise LinkError(f"a {frame.kind.name} frame, which only a relay sends, or only once")

    def _on_open(self, frame: Frame) -> None:
        opening = payloads.load(frame)
        name = opening.get("session_id")
        after = payloads.integer({"after": 0, **opening}, "after")
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise LinkError("OPEN without a session_id")
        if frame.route == framing.BROADCAST or self._outbox.session_of(frame.route) is not None:
            raise LinkError(f"route {frame.route} was opened, which is in use")
        if self._outbox.routes() >= _MAX_ROUTES:
            raise LinkError(f"more than {_MAX_ROUTES} routes are open")
        if after > self._outbox.sent:
            raise LinkError(f"a route was opened after {after}, only {self._outbox.sent} were sent")
        session, lost = self._outbox.open(frame.route, name, after)
        if lost:
            self._voice.lost(session, lost)

    def _on_control(self, command: dict[str, Any]) -> None:
        number = payloads.integer(command, "id")
        if number in self._commands:
            # A gateway that resumes asks again what was not answered.
            if (answer := self._commands.answer(number)) is not None:
                self._tell_answer(number, answer)
            return
        self._commands.begin(number)
        match command.get("op"):
            case "start":
                self._life.start(number, command)
            case "prove":
                self._life.prove(number, command)
            case "ready":
                self._life.ready(number)
            case "interrupt":
                self._life.interrupt(number)
            case "restart":
                self._life.restart(number)
            case "shutdown":
                grace = command.get("grace", DEFAULT_GRACE)
                if not isinstance(grace, int | float) or not 0 <= grace <= 3600:
                    self.answer(number, "'grace' must be a number of seconds from 0 to 3600.")
                else:
                    self._life.shutdown(number, grace)
            case _:
                self.answer(number, f"This relay knows no command {str(command.get('op'))[:40]!r}.")

    def _expire_later(self) -> None:
        if not self.loop.is_set("expire"):
            self.loop.at("expire", self.loop.now + SESSION_TTL, self._expire)

    def _expire(self) -> None:
        self._outbox.expire(self.loop.now)
        detached = [session.detached_at for session in self._outbox.sessions() if not session.attached]
        if detached:
            self.loop.at("expire", min(detached) + SESSION_TTL, self._expire)

    # -- to the gateway -----------------------------------------------------------------------------

    def answer(self, number: int, error: str = "") -> None:
        """See `life.Gateway`."""
        self._commands.end(number, error)
        self._tell_answer(number, error)

    def _tell_answer(self, number: int, error: str) -> None:
        value = {"id": number, "ok": False, "error": error} if error else {"id": number, "ok": True}
        self._tell(Kind.CONTROL, payloads.dump(value))

    def state(self, state: str) -> None:
        """See `life.Gateway`. Told before the message that changed it, so that it has come with that."""
        if state == self._state:
            return
        self._state = state
        if state != "dead":
            self._died = None
        self._tell(Kind.STATE, bytes([STATES.index(state)]))

    def died(self, reason: str, exit_code: int | None, number: int | None, asked: str | None) -> None:
        """See `life.Gateway`."""
        value = {"reason": reason, "exit_code": exit_code, "signal": number, "asked": asked}
        self._died = payloads.dump(value)
        self._tell(Kind.DIED, self._died)

    def log(self, text: str) -> None:
        """See `life.Gateway`. Not kept for a transport that is behind: nothing stops who writes the lines."""
        if self._writer.unsent <= MAX_UNSENT:
            self._tell(Kind.LOG, text.encode(errors="replace"))

    def _note(self, line: str) -> None:
        """A line of the relay's own in the gateway's log, of which a hostile kernel may cause many."""
        if text := self._notes.limit([line], self.loop.now):
            self.log(text)

    def _tell(self, kind: Kind, payload: bytes) -> None:
        self._writer.write(encode(kind, payload=payload))

    def _tell_outstanding(self, request: Request) -> None:
        session = self._outbox.session(request.session)
        if session is not None:
            value = {
                "sequence": request.sequence,
                "session_id": session.name,
                "channel": request.channel,
                "header": request.header.decode(),
            }
            self._tell(Kind.OUTSTANDING, payloads.dump(value))

    def _settle(self) -> None:
        if self._reading is None:
            # HELLO tells all of this to the next gateway.
            self._requests.take_done()
            self._taps.settle()
            return
        if done := self._requests.take_done():
            limit = framing.MAX_SMALL_PAYLOAD // framing.SEQUENCE.size
            for first in range(0, len(done), limit):
                self._tell(Kind.DONE, b"".join(map(framing.SEQUENCE.pack, done[first : first + limit])))
        acknowledged = self._inbound.acknowledged()
        if acknowledged != self._acknowledged:
            if self._writer.unsent or acknowledged - self._acknowledged >= _ACK_COUNT:
                self._acknowledge()
            elif not self.loop.is_set("ack"):
                self.loop.at("ack", self.loop.now + _ACK_DELAY, self._acknowledge)
        if self._writer.unsent:
            if done or self._state != "busy" or self._writer.unsent >= MUCH:
                self._write()
            elif not self.loop.is_set("write"):
                self.loop.at("write", self.loop.now + GATHER, self._write)
        self._taps.settle()

    def _acknowledge(self) -> None:
        self.loop.cancel("ack")
        acknowledged = self._inbound.acknowledged()
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._tell(Kind.ACK, framing.SEQUENCE.pack(acknowledged))

    def _write(self) -> None:
        descriptor = self._writer.descriptor
        assert descriptor is not None  # without one nothing is unsent
        self.loop.cancel("write")
        try:
            is_blocked = self._writer.flush()
        except OSError:
            self.end_link()  # the other end is gone, and its end of stream may be on the way
            return
        if is_blocked:
            self.loop.watch(descriptor, self._write, zmq.POLLOUT)
        else:
            self.loop.ignore(descriptor)


def _complain(error: Exception) -> None:
    print(f"relay: the gateway broke the protocol: {error}", file=sys.stderr, flush=True)


def run_pipe(reading: int, writing: int, run_dir: str, boot: Boot) -> None:
    """Serve this link until it ends, and end the process with everything in its sandbox."""
    relay = Relay(run_dir, boot)
    relay.take(reading, writing)
    _run(relay)


def run_server(run_dir: str, patience: float) -> None:
    """Serve one link after the other, until there is none for `patience` seconds; then as `run_pipe`."""
    # Its socket module costs some ms, which a relay with one link has no use for.
    from .door import Door

    relay = Relay(run_dir, Boot(), patience, _own_environment())
    Door(run_dir, relay.loop, relay.take, relay.end_link)
    _run(relay)


def _own_environment() -> dict[str, str]:
    """What the image of this sandbox says, such as PATH; the kubelet adds where the API server is."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}


def _run(relay: Relay) -> None:
    signals_reading, signals_writing = os.pipe()
    os.set_blocking(signals_reading, False)
    os.set_blocking(signals_writing, False)

    def on_signals() -> None:
        for number in set(os.read(signals_reading, 4096)):
            relay.on_signal(number)

    relay.loop.watch(signals_reading, on_signals)
    signal.set_wakeup_fd(signals_writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # A child that ended before there was a handler.
    os.write(signals_writing, bytes([signal.SIGCHLD]))
    # The kernel runs already, but none of its user's code does before the first request.
    hide()
    # What is loaded by now stays; there is no need to look through it again and again.
    gc.freeze()
    try:
        relay.run()
    except (LinkError, FramingError) as error:
        _complain(error)
        relay.status = 1
    finally:
        relay.kill_all()
    sys.stderr.flush()
    # Not by way of the interpreter's end, which would wait for ZMQ's threads.
    os._exit(relay.status)
