"""Sequence numbers, sessions, retention and replay (docs/protocol.md 1.3)."""

from __future__ import annotations

import json
import random

import pytest

from gateway.relay import outbox as module
from gateway.relay.outbox import SESSION_TTL, Outbox
from gateway.wire.framing import Frame, FrameDecoder, Kind, encode_header
from gateway.wire.window import COST


class Wire:
    """An outbox, and the frames that it writes."""

    def __init__(self, window: int = 1000) -> None:
        self.data = bytearray()
        self.outbox = Outbox(self._write, window)

    def _write(self, data: bytes) -> None:
        self.data += data

    def frames(self) -> list[Frame]:
        data, self.data = self.data, bytearray()
        return FrameDecoder().feed(data)

    def messages(self) -> list[tuple[int, int, bytes]]:
        """(route, sequence, payload) of the MESSAGE frames written since the last call."""
        return [(f.route, f.sequence, f.payload) for f in self.frames() if f.kind is Kind.MESSAGE]


def test_a_message_frame_is_what_framing_makes() -> None:
    wire = Wire()
    wire.outbox.open(0xABCDEF, "one")
    wire.frames()
    session = wire.outbox.sessions()[0]
    wire.outbox.send(session, b"payload")
    assert wire.data == encode_header(Kind.MESSAGE, 0xABCDEF, 7, 1) + b"payload"


def test_numbers_have_no_gaps_whoever_a_message_is_for() -> None:
    wire = Wire()
    wire.outbox.publish(b"nobody is there")
    session, _ = wire.outbox.open(1, "one")
    wire.outbox.publish(b"everyone")
    wire.outbox.send(session, b"one")
    wire.outbox.close(1, now=0)
    wire.outbox.publish(b"nobody listens")
    wire.outbox.send(session, b"one is away")
    assert wire.messages() == [
        (0, 1, b"nobody is there"),
        (0, 2, b"everyone"),
        (1, 3, b"one"),
        (0, 4, b"nobody listens"),
        (1, 5, b"one is away"),
    ]


def test_a_new_session_hears_nothing_of_before() -> None:
    wire = Wire()
    wire.outbox.publish(b"before")
    wire.frames()
    wire.outbox.open(1, "one")
    (opened,) = wire.frames()
    assert (opened.kind, opened.route) == (Kind.OPENED, 1)
    assert json.loads(opened.payload) == {"sequence": 1, "lost": 0}


def test_a_session_that_comes_back_gets_what_it_has_not_acknowledged_and_is_its_own() -> None:
    wire = Wire()
    one, _ = wire.outbox.open(1, "one")
    two, _ = wire.outbox.open(2, "two")
    wire.outbox.publish(b"a")
    wire.outbox.send(one, b"for one")
    wire.outbox.send(two, b"for two")
    wire.outbox.acknowledge(1, 1)
    wire.outbox.close(1, now=0)
    wire.outbox.publish(b"b")
    wire.frames()
    wire.outbox.open(3, "one")
    opened, *again = wire.frames()
    assert json.loads(opened.payload) == {"sequence": 1, "lost": 0}
    assert [(f.route, f.sequence, f.payload) for f in again] == [(3, 2, b"for one"), (3, 4, b"b")]


def test_a_second_route_takes_the_session_over() -> None:
    wire = Wire()
    session, _ = wire.outbox.open(1, "one")
    wire.outbox.publish(b"a")
    assert wire.outbox.open(2, "one")[0] is session
    wire.frames()
    wire.outbox.send(session, b"reply")
    assert wire.messages() == [(2, 2, b"reply")]
    wire.outbox.acknowledge(1, 2)
    assert wire.outbox.backlog() == len(b"areply") + 2 * COST, (
        "the older route acknowledged for the newer one"
    )
    wire.outbox.close(1, now=0)
    assert session.attached
    wire.outbox.acknowledge(2, 2)
    assert wire.outbox.backlog() == 0


def test_the_backlog_is_that_of_the_slowest_session_with_a_route() -> None:
    wire = Wire()
    wire.outbox.open(1, "one")
    wire.outbox.open(2, "two")
    three, _ = wire.outbox.open(3, "three")
    wire.outbox.publish(b"12345")
    wire.outbox.send(three, b"123")
    assert wire.outbox.backlog() == 8 + 2 * COST
    wire.outbox.close(3, now=0)
    assert wire.outbox.backlog() == 5 + COST
    wire.outbox.acknowledge(1, 1)
    assert wire.outbox.backlog() == 5 + COST
    wire.outbox.acknowledge(2, 1)
    assert wire.outbox.backlog() == 0


def test_nothing_is_kept_that_everyone_has_acknowledged() -> None:
    wire = Wire(window=10**9)
    wire.outbox.open(1, "one")
    wire.outbox.open(2, "two")
    for _ in range(5000):
        wire.outbox.publish(b"x" * 100)
    assert wire.outbox.kept_bytes() == 5000 * (100 + COST)
    wire.outbox.acknowledge(1, 5000)
    assert wire.outbox.kept_bytes() == 5000 * (100 + COST)
    wire.outbox.acknowledge(2, 4000)
    assert wire.outbox.kept_bytes() == 1000 * (100 + COST)
    wire.outbox.acknowledge(2, 5000)
    assert wire.outbox.kept_bytes() == 0
    assert len(wire.outbox._kept) < 2000


def test_without_a_session_nothing_is_kept() -> None:
    wire = Wire()
    for _ in range(10_000):
        wire.outbox.publish(b"x" * 100)
    assert wire.outbox.kept_bytes() == 0
    assert len(wire.outbox._kept) < 2000


def test_what_a_session_without_a_route_misses_is_dropped_oldest_first_and_counted() -> None:
    wire = Wire(window=10 + 2 * COST)
    session, _ = wire.outbox.open(1, "one")
    wire.outbox.close(1, now=0)
    for number in range(8):
        wire.outbox.publish(b"%04d" % number)
    wire.outbox.send(session, b"reply")
    assert wire.outbox.kept_bytes() == 9 + 2 * COST
    wire.frames()
    _, lost = wire.outbox.open(2, "one")
    opened, *again = wire.frames()
    assert lost == 7
    assert json.loads(opened.payload) == {"sequence": 7, "lost": 7}
    assert [f.payload for f in again] == [b"0007", b"reply"]
    wire.outbox.close(2, now=0)
    assert wire.outbox.open(3, "one")[1] == 0, "what was lost is told once"


def test_a_session_that_leaves_with_more_than_the_window_keeps_no_more_than_that() -> None:
    wire = Wire(window=10 + 2 * COST)
    wire.outbox.open(1, "one")
    for number in range(8):
        wire.outbox.publish(b"%04d" % number)
    wire.outbox.close(1, now=0)
    assert wire.outbox.kept_bytes() == 8 + 2 * COST
    assert wire.outbox.open(2, "one")[1] == 6


def test_nothing_is_dropped_that_a_session_with_a_route_still_wants() -> None:
    wire = Wire(window=10 + 2 * COST)
    wire.outbox.open(1, "here")
    wire.outbox.open(2, "away")
    wire.outbox.close(2, now=0)
    for _ in range(20):
        wire.outbox.publish(b"12345")
    assert wire.outbox.backlog() == 20 * (5 + COST)
    wire.outbox.acknowledge(1, 20)
    wire.outbox.publish(b"12345")
    assert wire.outbox.kept_bytes() == 10 + 2 * COST


def test_a_session_is_forgotten_after_its_time() -> None:
    wire = Wire()
    wire.outbox.open(1, "one")
    wire.outbox.publish(b"a")
    wire.outbox.close(1, now=100)
    wire.outbox.expire(100 + SESSION_TTL - 1)
    assert wire.outbox.kept_bytes() == 1 + COST
    wire.outbox.expire(100 + SESSION_TTL)
    assert wire.outbox.sessions() == []
    assert wire.outbox.kept_bytes() == 0


def test_ever_new_sessions_cost_the_oldest_one_without_a_route() -> None:
    wire = Wire()
    for number in range(module.MAX_DETACHED + 10):
        wire.outbox.open(number + 1, f"s{number}")
        wire.outbox.close(number + 1, now=number)
    assert len(wire.outbox.sessions()) == module.MAX_DETACHED
    assert wire.outbox.sessions()[0].name == "s10"


def test_a_route_that_is_not_open_is_refused() -> None:
    wire = Wire()
    assert not wire.outbox.close(1, now=0)
    assert wire.outbox.session_of(1) is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_session_gets_its_messages_in_order_and_none_is_lost(seed: int) -> None:
    """A model of clients that come, go and acknowledge at random against the outbox, window unlimited."""
    rng = random.Random(seed)  # noqa: S311
    wire = Wire(window=10**9)
    names = ["a", "b", "c"]
    wanted: dict[str, list[int]] = {}  # what the session has to get, in order
    taken: dict[str, int] = {}
    routes: dict[str, int] = {}
    got: dict[str, list[int]] = {name: [] for name in names}
    next_route = 1

    def hear() -> None:
        for route, sequence, _ in wire.messages():
            for name, own in routes.items():
                if (route == own or route == 0) and (not got[name] or sequence > got[name][-1]):
                    got[name].append(sequence)

    for _ in range(400):
        action = rng.randrange(5)
        name = rng.choice(names)
        session = next((s for s in wire.outbox.sessions() if s.name == name), None)
        if action == 0 and name not in routes:
            routes[name] = next_route
            wanted.setdefault(name, [])
            wire.outbox.open(next_route, name)
            next_route += 1
        elif action == 1 and name in routes:
            wire.outbox.close(routes.pop(name), now=0)
        elif action == 2 and name in routes and got[name]:
            taken[name] = rng.choice(got[name][-20:])
            wire.outbox.acknowledge(routes[name], taken[name])
        elif action == 3 and session is not None:
            wire.outbox.send(session, b"own")
            wanted[name].append(wire.outbox.sent)
        elif action == 4:
            wire.outbox.publish(b"all")
            for other in wanted:
                wanted[other].append(wire.outbox.sent)
        hear()
    for name in wanted:
        if name in routes:
            wire.outbox.close(routes.pop(name), now=0)
        routes[name] = next_route
        wire.outbox.open(next_route, name)
        next_route += 1
        hear()
    assert got == {name: wanted.get(name, []) for name in names}
    for name in wanted:
        wire.outbox.acknowledge(routes[name], wire.outbox.sent)
    assert wire.outbox.backlog() == 0
    assert wire.outbox.kept_bytes() == 0
