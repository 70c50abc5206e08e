"""The link's frames, and the parts of the relay put together.

Each turn of the loop handles what is ready and then settles: state, DONE and ACK are told, what waits
is written, and the taps are turned by how much waits. An ACK alone is not worth a wake-up of the
gateway, so it waits a moment for something to travel with.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Any

import zmq

from ..wire import framing, payloads
from ..wire.allowance import Allowance
from ..wire.framing import Frame, FrameDecoder, FramingError, Kind, encode
from ..wire.payloads import STATES
from .boot import Boot
from .brake import MAX_UNSENT
from .errors import LinkError
from .inbound import Inbound
from .life import DEFAULT_GRACE, Gateway, Life
from .loop import Loop
from .outbound import Outbound
from .outbox import SESSION_TTL, Outbox
from .requests import Requests
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

#: prctl(2)
_PR_SET_DUMPABLE = 4


class Relay(Gateway):
    """One relay on one link. `gateway` in the other modules' terms: it implements `life.Gateway`."""

    def __init__(self, reading: int, writing: int, run_dir: str, boot: Boot) -> None:
        self._reading = reading
        self._stream = os.urandom(16).hex()
        self._state = self._told_state = "starting"
        self._acknowledged = 0
        self._greeted = False
        self._boot = boot
        self._decoder = FrameDecoder()
        self.loop = Loop(self._settle)
        self._notes = Allowance(self.loop.now)
        self._writer = Writer(writing)
        self._requests = Requests()
        self._outbox = Outbox(self._writer.write, window=framing.DEFAULT_MAX_MESSAGE)
        self._voice = Voice(self._outbox)
        self._inbound = Inbound(self._outbox, self._requests, self._voice, self._note)
        self._outbound = Outbound(self._outbox, self._requests, self._inbound, self._voice, self._note)
        self._taps = Taps(self.loop, self._inbound, self._outbound, self._outbox, self._writer)
        self._life = Life(self.loop, self, self._taps, self._inbound, run_dir)
        self._outbound.listener = self._life

    # -- life of the link ---------------------------------------------------------------------------

    def run(self) -> None:
        """Say HELLO and serve until the link ends. Raises `LinkError` or `FramingError`."""
        self.loop.watch(self._reading, self._read)
        hello = {
            "version": framing.VERSION,
            "capabilities": [],
            "stream": self._stream,
            "max_message": framing.DEFAULT_MAX_MESSAGE,
            "received": 0,
            "sent": 0,
            "state": self._state,
        }
        self._tell(Kind.HELLO, payloads.dump(hello))
        self._life.adopt(self._boot)
        self._feed(self._boot.pending)
        self.loop.run()

    def on_signal(self, number: int) -> None:
        """A signal came to the relay: a child has ended, or it is to end itself."""
        if number == signal.SIGCHLD:
            self._life.on_child()
        elif number == signal.SIGTERM:
            self.loop.stop()

    def kill_all(self) -> None:
        """End every process of the sandbox."""
        if self._life.process is not None:
            self._life.process.kill_all()

    # -- from the gateway ---------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = os.read(self._reading, _READ)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data:
            self._feed(data)
        else:
            self.loop.stop()

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
                if not self.loop.is_set("expire"):
                    self.loop.at("expire", self.loop.now + SESSION_TTL, self._expire)
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
        name = payloads.load(frame).get("session_id")
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise LinkError("OPEN without a session_id")
        if frame.route == framing.BROADCAST or self._outbox.session_of(frame.route) is not None:
            raise LinkError(f"route {frame.route} was opened, which is in use")
        if self._outbox.routes() >= _MAX_ROUTES:
            raise LinkError(f"more than {_MAX_ROUTES} routes are open")
        session, lost = self._outbox.open(frame.route, name)
        if lost:
            self._voice.lost(session, lost)

    def _on_control(self, command: dict[str, Any]) -> None:
        number = payloads.integer(command, "id")
        match command.get("op"):
            case "start":
                self._life.start(number, command)
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

    def _expire(self) -> None:
        self._outbox.expire(self.loop.now)
        detached = [session.detached_at for session in self._outbox.sessions() if not session.attached]
        if detached:
            self.loop.at("expire", min(detached) + SESSION_TTL, self._expire)

    # -- to the gateway -----------------------------------------------------------------------------

    def answer(self, number: int, error: str = "") -> None:
        """See `life.Gateway`."""
        value = {"id": number, "ok": False, "error": error} if error else {"id": number, "ok": True}
        self._tell(Kind.CONTROL, payloads.dump(value))

    def state(self, state: str) -> None:
        """See `life.Gateway`. Told when the turn settles, unless it has changed back."""
        self._state = state

    def died(self, reason: str, exit_code: int | None, number: int | None, asked: str | None) -> None:
        """See `life.Gateway`."""
        self._tell_state()
        value = {"reason": reason, "exit_code": exit_code, "signal": number, "asked": asked}
        self._tell(Kind.DIED, payloads.dump(value))

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

    def _tell_state(self) -> None:
        if self._state != self._told_state:
            self._told_state = self._state
            self._tell(Kind.STATE, bytes([STATES.index(self._state)]))

    def _settle(self) -> None:
        self._tell_state()
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
            self._write()
        self._taps.settle()

    def _acknowledge(self) -> None:
        self.loop.cancel("ack")
        acknowledged = self._inbound.acknowledged()
        if acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._tell(Kind.ACK, framing.SEQUENCE.pack(acknowledged))

    def _write(self) -> None:
        try:
            is_blocked = self._writer.flush()
        except OSError:
            self.loop.stop()  # the other end is gone, and its end of stream may be on the way
            return
        if is_blocked:
            self.loop.watch(self._writer.descriptor, self._write, zmq.POLLOUT)
        else:
            self.loop.ignore(self._writer.descriptor)


def _hide() -> None:
    """See that the kernel, which has the same user, can neither trace this process nor read its memory.

    It runs already, but none of its user's code does before the first request.
    """
    import ctypes  # there is no other way to prctl(2); all else is loaded by now

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def run(reading: int, writing: int, run_dir: str, boot: Boot) -> None:
    """Serve the link until it ends, and end the process with everything in its sandbox."""
    relay = Relay(reading, writing, run_dir, boot)
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
    _hide()
    # What is loaded by now stays; there is no need to look through it again and again.
    gc.freeze()
    status = 0
    try:
        relay.run()
    except (LinkError, FramingError) as error:
        print(f"relay: the gateway broke the protocol: {error}", file=sys.stderr)
        status = 1
    finally:
        relay.kill_all()
    sys.stderr.flush()
    # Not by way of the interpreter's end, which would wait for ZMQ's threads.
    os._exit(status)
