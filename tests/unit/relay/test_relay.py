"""The relay's end of a link in one process, without a kernel: its bounds, and what it forgets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from gateway.relay import inbound
from gateway.relay import relay as module
from gateway.relay.boot import Boot
from gateway.relay.brake import MAX_UNSENT
from gateway.relay.errors import LinkError
from gateway.relay.outbox import SESSION_TTL
from gateway.relay.pace import GATHER, MUCH
from gateway.relay.relay import Relay
from gateway.relay.requests import Request
from gateway.wire import framing, v1
from gateway.wire.framing import Frame, FrameDecoder, Kind, encode

HELLO = encode(Kind.HELLO, payload=b'{"version": 1, "window": 1000000, "max_message": 1000000}')


class Linked:
    """A relay, and the gateway's end of its pipes."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.now = 1000.0
        self.relay = Relay("/nowhere", Boot())
        self.relay.loop.clock = lambda: self.now
        os.set_blocking(reading, False)
        self.relay.take(reading, writing)
        self._descriptors = (reading, self.writing, self.reading, writing)
        self._decoder = FrameDecoder()
        self.say(HELLO)

    def say(self, data: bytes) -> list[Frame]:
        """What the gateway says, and what it hears in answer."""
        os.write(self.writing, data)
        return self.turn()

    def turn(self) -> list[Frame]:
        self.relay.loop.turn()
        try:
            return self._decoder.feed(os.read(self.reading, 1 << 20))
        except BlockingIOError:
            return []

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self.relay._taps._context.destroy(linger=0)


@pytest.fixture
def linked() -> Iterator[Linked]:
    linked = Linked()
    yield linked
    linked.close()


def opening(route: int, session: str = "one") -> bytes:
    return encode(Kind.OPEN, route, json.dumps({"session_id": session}).encode())


def opened(frames: list[Frame]) -> dict[str, int]:
    (value,) = (json.loads(frame.payload) for frame in frames if frame.kind is Kind.OPENED)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(("seconds", "is_kept"), [(SESSION_TTL - 1, True), (SESSION_TTL, False)])
def test_a_session_without_a_route_is_kept_for_its_time(
    linked: Linked, seconds: float, is_kept: bool
) -> None:
    linked.say(opening(1))
    linked.relay._outbox.publish(b"missed")
    linked.say(encode(Kind.CLOSE, 1))
    linked.now += seconds
    linked.say(encode(Kind.PING, payload=bytes(8)))
    again = linked.say(opening(2))
    assert [frame.payload for frame in again if frame.kind is Kind.MESSAGE] == [b"missed"] * is_kept
    assert opened(again) == {"sequence": 0 if is_kept else 1, "lost": 0}


def test_a_session_that_left_later_is_kept_longer(linked: Linked) -> None:
    linked.say(opening(1, "first") + opening(2, "second"))
    linked.say(encode(Kind.CLOSE, 1))
    linked.now += 100
    linked.say(encode(Kind.CLOSE, 2))
    for seconds, left in ((SESSION_TTL - 100, ["second"]), (100, [])):
        linked.now += seconds
        linked.turn()
        assert [session.name for session in linked.relay._outbox.sessions()] == left


def test_the_open_routes_of_a_link_are_bounded(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ROUTES", 3)
    linked.say(b"".join(opening(route) for route in (1, 2, 3)))
    linked.say(encode(Kind.CLOSE, 2))
    linked.say(opening(4))
    with pytest.raises(LinkError, match="more than 3 routes are open"):
        linked.say(opening(5))


def test_requests_that_wait_for_a_kernel_are_bounded(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "MAX_HELD", 1000)
    linked.say(opening(1))
    header = b'{"msg_id": "a", "msg_type": "execute_request"}'
    message = v1.join("shell", [header, b"{}", b"{}", b"x" * 300])
    linked.say(encode(Kind.MESSAGE, 1, message, 1) + encode(Kind.MESSAGE, 1, message, 2))
    with pytest.raises(LinkError, match="bytes of requests without waiting"):
        linked.say(encode(Kind.MESSAGE, 1, message, 3))


def test_what_the_kernel_prints_is_not_kept_for_a_gateway_that_is_behind(linked: Linked) -> None:
    """Nothing stops who writes the lines, so they would fill the relay's memory."""
    linked.relay.log("in time\n")
    said = linked.say(encode(Kind.PING, payload=bytes(8)))
    assert [frame.payload for frame in said if frame.kind is Kind.LOG] == [b"in time\n"]
    linked.relay._writer.write(bytes(MAX_UNSENT + 1))
    before = linked.relay._writer.unsent
    linked.relay.log("too late\n")
    assert linked.relay._writer.unsent == before


def test_a_reply_between_two_links_goes_to_no_route_of_the_next(linked: Linked) -> None:
    linked.say(opening(1))
    session = linked.relay._outbox.session_of(1)
    assert session is not None
    linked.relay._outbox.close_all(linked.now)
    linked.relay._outbox.send(session, b"x" * v1.MIN_SIZE)
    frames = linked.say(encode(Kind.PING, payload=bytes(8)))
    (frame,) = [frame for frame in frames if frame.kind is Kind.MESSAGE]
    assert frame.route == framing.MAX_ROUTE


def messages(linked: Linked) -> list[bytes]:
    """What comes in a turn, to which something is said, so that it does not wait."""
    frames = linked.say(encode(Kind.PING, payload=bytes(8)))
    return [frame.payload for frame in frames if frame.kind is Kind.MESSAGE]


def test_what_a_short_cell_brings_goes_in_one_piece_with_its_end(linked: Linked) -> None:
    linked.say(opening(1))
    linked.relay._requests.add("a", Request(1, 1, "shell", b"{}"), wants_reply=True)
    linked.relay.state("busy")
    for name in (b"busy", b"echo"):
        linked.relay._outbox.publish(name)
        assert messages(linked) == []
    linked.relay._requests.replied("a")
    linked.relay._outbox.publish(b"reply")
    assert messages(linked) == []
    # The next cell has begun already, which must not hold back what ends this one.
    linked.relay._requests.idle("a")
    linked.relay._outbox.publish(b"idle")
    assert messages(linked) == [b"busy", b"echo", b"reply", b"idle"]


@pytest.mark.parametrize(
    ("state", "size", "seconds"), [("idle", 1, 0), ("busy", MUCH, 0), ("busy", 1, GATHER)]
)
def test_a_message_waits_5_ms_at_most_and_only_a_small_one_of_a_busy_kernel(
    linked: Linked, state: str, size: int, seconds: float
) -> None:
    assert GATHER == 0.005
    linked.say(opening(1))
    linked.relay.state(state)
    message = b"x" * size
    linked.relay._outbox.publish(message)
    if seconds:
        assert messages(linked) == []
        linked.now += seconds / 2
        linked.relay._outbox.publish(message)
        assert messages(linked) == [], "what comes behind it is no reason to go"
        linked.now += seconds / 2
        assert messages(linked) == [message, message], "and none to wait longer"
    else:
        assert messages(linked) == [message]


def test_what_a_broken_link_still_held_is_not_written_to_the_next(linked: Linked) -> None:
    linked.relay._patience = 60
    linked.say(opening(1))
    linked.relay.state("busy")
    linked.relay._outbox.publish(b"held")
    assert messages(linked) == []
    linked.relay.end_link()
    assert not linked.relay.loop.is_set("write")


@pytest.mark.parametrize("seconds", [0, GATHER])
def test_who_has_read_the_end_of_a_cell_has_been_told_that_the_kernel_is_idle(
    linked: Linked, seconds: float
) -> None:
    linked.say(opening(1))
    linked.relay.state("busy")
    linked.relay._outbox.publish(b"busy")
    assert messages(linked) == []
    # What is held may become due in the turn that brings the end.
    linked.now += seconds
    linked.relay.state("idle")
    linked.relay._outbox.publish(b"idle")
    frames = linked.say(encode(Kind.PING, payload=bytes(8)))
    kinds = [(frame.kind, frame.payload) for frame in frames if frame.kind in (Kind.STATE, Kind.MESSAGE)]
    assert kinds == [
        (Kind.STATE, b"\2"),
        (Kind.MESSAGE, b"busy"),
        (Kind.STATE, b"\1"),
        (Kind.MESSAGE, b"idle"),
    ]
