"""A link that goes on over another stream, and one to a relay that another gateway left (protocol.md 1.9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.link import ControlError, Inbox, Link, LinkClosedError
from gateway.transport.base import Transport, TransportBrokenError
from gateway.wire import framing
from gateway.wire.framing import Kind
from tests.support.patience import PATIENCE
from tests.support.relay_double import RelayDouble
from tests.unit.link.test_link import Listener, message

WINDOW = 100_000
MAX_MESSAGE = 5000


class Relays:
    """The ends of one relay's streams, one after the other."""

    def __init__(self) -> None:
        self.first = RelayDouble()
        self.waiting: asyncio.Queue[RelayDouble] = asyncio.Queue()
        self.attempts = 0
        self.refusal: str | None = None

    async def reconnect(self) -> Transport:
        self.attempts += 1
        if self.refusal is not None:
            raise TransportBrokenError(self.refusal)
        relay = await self.waiting.get()
        return relay.transport

    def next(self, **hello: Any) -> RelayDouble:
        """A stream that can be had from now on, on which the relay says HELLO."""
        relay = RelayDouble()
        relay.sequence = hello.get("sent", 0)
        relay.say_hello(**hello)
        self.waiting.put_nowait(relay)
        return relay


@asynccontextmanager
async def linked(
    adopt: bool = False, relays: Relays | None = None, **options: Any
) -> AsyncIterator[tuple[Link, Relays, Listener]]:
    relays, listener = relays or Relays(), Listener()
    link = Link(
        None if adopt else relays.first.transport,
        listener,
        window=WINDOW,
        max_message=MAX_MESSAGE,
        reconnect=relays.reconnect,
        **options,
    )
    link.start()
    try:
        yield link, relays, listener
    finally:
        await link.close()
        assert adopt or relays.first.transport.closed


async def opened(link: Link, relay: RelayDouble, session: str = "a session") -> tuple[Any, Inbox]:
    inbox = Inbox()
    route = link.open_route(session, inbox)
    await relay.hear(Kind.OPEN)
    relay.say_opened(route.number)
    return route, inbox


async def take_two(inbox: Inbox) -> list[tuple[int, bytes]]:
    heard = await inbox.take()
    while len(heard) < 2:
        heard += await inbox.take()
    return heard


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0)


async def told(relay: RelayDouble) -> list[tuple[str, int, Any]]:
    """What the gateway says on a new stream up to the answer to a PING, as (kind, route, what it carries)."""
    relay.say(Kind.PING, payload=framing.SEQUENCE.pack(99))
    heard = []
    while True:
        frame = await relay.hear(*Kind)
        if frame.kind is Kind.PONG:
            return heard
        if frame.kind is Kind.MESSAGE:
            heard.append(("MESSAGE", frame.route, (frame.sequence, bytes(frame.payload).rstrip(b"."))))
        elif frame.kind is Kind.ACK:
            heard.append(("ACK", frame.route, framing.SEQUENCE.unpack(frame.payload)[0]))
        elif frame.kind is Kind.CLOSE:
            heard.append(("CLOSE", frame.route, None))
        elif frame.kind is not Kind.HELLO:
            heard.append((frame.kind.name, frame.route, json.loads(frame.payload)))


@pytest.mark.gen_test
@pytest.mark.parametrize("had", [0, 1], ids=["nothing had arrived", "a message had"])
async def test_a_stream_that_ends_before_the_relays_first_word_has_lost_nothing(had: int):
    async with linked() as (link, relays, _):
        starting = asyncio.create_task(link.control("start", {"argv": ["k"]}, within=2))
        route = link.open_route("a session", Inbox())
        await route.send(message(b"a"))
        relays.first.end()
        relay = relays.next(received=had)
        heard = await told(relay)
        messages = [("MESSAGE", 1, (1, message(b"a").rstrip(b".")))]
        assert heard == [
            ("OPEN", 1, {"session_id": "a session"}),
            *messages[had:],
            ("CONTROL", 0, {"id": 1, "op": "start", "argv": ["k"]}),
        ]
        relay.say_json(Kind.CONTROL, {"id": 1, "ok": True})
        await starting


@pytest.mark.gen_test
async def test_what_has_not_arrived_goes_again_over_the_next_stream_and_nothing_else():
    async with linked() as (link, relays, listener):
        relays.first.say_hello()
        route, inbox = await opened(link, relays.first)
        relays.first.say_message(message(b"one"))
        relays.first.say_message(message(b"two"))
        assert [number for number, _ in await inbox.take()] == [1, 2]
        route.acknowledge(1)
        for text in (b"a", b"b", b"c"):
            await route.send(message(text))
        relays.first.end()
        second = relays.next(received=2, sent=5)
        assert await told(second) == [
            ("OPEN", 1, {"session_id": "a session", "after": 2}),
            ("ACK", 1, 1),
            ("MESSAGE", 1, (3, b"c")),
        ]
        assert listener.placed == [2]
        # What the relay has kept, and then what is new.
        second.say(Kind.MESSAGE, 1, message(b"kept"), 4)
        second.say_opened(1)
        second.say_message(message(b"new"))
        heard = await take_two(inbox)
        assert heard == [(4, message(b"kept")), (6, message(b"new"))]
        assert await route.send(message(b"d")) == 4


@pytest.mark.gen_test
async def test_what_is_sent_without_a_stream_waits_for_the_next_one():
    async with linked() as (link, relays, listener):
        relays.first.say_hello()
        route, _ = await opened(link, relays.first)
        relays.first.end()
        await until(lambda: listener.streams)
        assert await route.send(message(b"a")) == 1
        late = link.open_route("late", Inbox())
        second = relays.next()
        assert await told(second) == [
            ("OPEN", route.number, {"session_id": "a session"}),
            ("OPEN", late.number, {"session_id": "late"}),
            ("MESSAGE", route.number, (1, b"a")),
        ]


@pytest.mark.gen_test
async def test_a_request_of_a_client_that_has_gone_still_arrives_and_its_session_stays_the_new_routes():
    async with linked() as (link, relays, _):
        relays.first.say_hello()
        gone, _ = await opened(link, relays.first)
        await gone.send(message(b"a"))
        gone.close()
        again, _ = await opened(link, relays.first)
        relays.first.end()
        second = relays.next(sent=3)
        assert await told(second) == [
            ("OPEN", gone.number, {"session_id": "a session", "after": 3}),
            ("OPEN", again.number, {"session_id": "a session"}),
            ("MESSAGE", gone.number, (1, b"a")),
            ("CLOSE", gone.number, None),
        ]


@pytest.mark.gen_test
async def test_a_command_that_was_not_answered_is_asked_again_by_its_number():
    async with linked() as (link, relays, _):
        relays.first.say_hello()
        asking = asyncio.create_task(link.control("restart", within=5))
        first = await relays.first.hear_control("restart")
        relays.first.end()
        second = relays.next()
        again = await second.hear_control("restart")
        assert again == first
        second.answer(again, error="no")
        with pytest.raises(ControlError, match="no"):
            await asking
        second.end()
        third = relays.next()
        assert await told(third) == []


@pytest.mark.gen_test
async def test_what_the_relay_tells_at_its_place_is_heard():
    async with linked() as (link, relays, listener):
        relays.first.say_hello()
        route, _ = await opened(link, relays.first)
        await route.send(message(b"a"))
        relays.first.end()
        second = relays.next(received=1, state="busy")
        second.say_json(
            Kind.OUTSTANDING,
            {"sequence": 1, "session_id": "s", "channel": "shell", "header": '{"a": "\u00e9"}'},
        )
        await told(second)
        assert listener.states == ["busy"]
        assert listener.outstanding == [(1, "s", "shell", '{"a": "é"}'.encode())]


@pytest.mark.gen_test
async def test_the_end_of_a_kernel_is_told_behind_what_the_next_stream_brings_of_it():
    async with linked() as (link, relays, listener):
        relays.first.say_hello()
        route, inbox = await opened(link, relays.first)
        await opened(link, relays.first, "another")
        relays.first.end()
        # As a relay begins whose kernel died meanwhile (protocol.md 1.9).
        second = relays.next(sent=1, state="dead")
        second.say_json(Kind.DIED, {"reason": "it fell", "asked": None})
        asked = await second.hear(Kind.PING)
        second.say_opened(route.number)
        second.say(Kind.MESSAGE, route.number, message(b"its last"), 1)
        second.say_opened(2)
        await told(second)
        assert await inbox.take() == [(1, message(b"its last"))]
        assert listener.died == []
        second.say(Kind.PONG, payload=framing.SEQUENCE.pack(0))
        second.say(Kind.PONG, payload=asked.payload)
        await until(lambda: listener.died)
        assert listener.died == ["it fell"]


@pytest.mark.gen_test
async def test_the_end_of_a_kernel_is_told_once_over_two_streams_and_the_next_one_again():
    async with linked() as (link, relays, listener):
        died = {"reason": "it fell", "asked": None}
        relays.first.say_hello()
        relays.first.say_json(Kind.DIED, died)
        await until(lambda: listener.died)
        restarting = asyncio.create_task(link.control("restart", within=5))
        relays.first.end()
        # The restart has not arrived, so this is what was told.
        second = relays.next(state="dead")
        second.say_json(Kind.DIED, died)
        command = await second.hear_control("restart")
        assert listener.died == ["it fell"]
        second.answer(command)
        await restarting
        second.say_json(Kind.DIED, died)
        await until(lambda: len(listener.died) == 2)
        # Another one has arrived, and its answer was lost.
        restarting = asyncio.create_task(link.control("restart", within=5))
        command = await second.hear_control("restart")
        second.end()
        third = relays.next(state="dead", command=command["id"])
        third.say_json(Kind.DIED, died)
        third.answer(await third.hear_control("restart"))
        await restarting
        assert len(listener.died) == 3


@pytest.mark.parametrize(
    ("hello", "named"),
    [
        ({"stream": "another"}, "another relay"),
        ({"received": 2}, "has had 2"),
        ({"sent": 0}, "sent 0"),
        ({"state": "asleep"}, "state 'asleep'"),
        ({"received": -1}, "received"),
    ],
)
@pytest.mark.gen_test
async def test_a_relay_that_is_not_where_it_can_be_ends_the_link(hello: dict[str, Any], named: str):
    async with linked() as (link, relays, _):
        relays.first.say_hello()
        route, _ = await opened(link, relays.first)
        await route.send(message(b"a"))
        relays.first.say_message(message(b"one"))
        relays.first.end()
        relays.next(**{"sent": 1, **hello})
        assert named in await asyncio.wait_for(link.closed(), 2)


@pytest.mark.gen_test
async def test_a_link_without_a_stream_ends_after_its_patience_with_the_reason():
    async with linked(patience=0.2) as (link, relays, listener):
        relays.refusal = "the door is shut"
        relays.first.say_hello()
        relays.first.end()
        assert (
            await asyncio.wait_for(link.closed(), 5) == "the relay ended the link, and then: the door is shut"
        )
        assert relays.attempts > 1
        assert listener.streams == ["lost, and another is looked for: the relay ended the link"]
        with pytest.raises(LinkClosedError):
            await link.control("interrupt", within=1)


@pytest.mark.gen_test
async def test_streams_that_end_at_once_are_asked_for_ever_more_slowly_and_then_no_more():
    async with linked(patience=1) as (link, relays, _):
        relays.first.say_hello()
        for _ in range(100):
            relay = RelayDouble()
            relay.end()
            relays.waiting.put_nowait(relay)
        relays.first.end()
        assert await asyncio.wait_for(link.closed(), 5) == "the relay ended the link"
        assert 3 <= relays.attempts <= 8


@pytest.mark.gen_test
async def test_a_link_that_is_abandoned_takes_what_comes_and_looks_for_nothing_more():
    async with linked() as (link, relays, listener):
        relays.first.say_hello()
        _, inbox = await opened(link, relays.first)
        link.abandon("the pod is gone")
        relays.first.say_message(message(b"last"))
        relays.first.end()
        assert await asyncio.wait_for(link.closed(), 2) == "the pod is gone"
        assert await inbox.take() == [(1, message(b"last"))]
        assert relays.attempts == 0
        assert listener.streams[0].startswith("lost")


@pytest.mark.gen_test
async def test_a_link_that_is_abandoned_while_it_connects_ends_at_once():
    async with linked() as (link, relays, _):
        relays.first.say_hello()
        relays.first.end()
        await until(lambda: relays.attempts)
        link.abandon("the pod is gone")
        assert await asyncio.wait_for(link.closed(), 2) == "the pod is gone"


@pytest.mark.gen_test
async def test_a_stream_that_comes_too_late_is_given_back():
    class Late(Relays):
        async def reconnect(self) -> Transport:
            self.attempts += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return self.late.transport
            raise AssertionError

        late = RelayDouble()

    late = Late()
    async with linked(relays=late) as (_, relays, _):
        relays.first.say_hello()
        relays.first.end()
        await until(lambda: relays.attempts)
    assert late.late.transport.closed


@pytest.mark.gen_test
async def test_a_relay_that_is_adopted_goes_on_from_where_its_last_gateway_left_it():
    async with linked(adopt=True) as (link, relays, listener):
        relay, inbox = RelayDouble(), Inbox()
        relays.waiting.put_nowait(relay)
        route = link.open_route("a session", inbox)
        sending = asyncio.create_task(route.send(message(b"a")))
        asking = asyncio.create_task(link.control("ready", within=5))
        await relay.hear(Kind.HELLO)
        await asyncio.sleep(0)
        assert relay.transport.to_relay.empty()
        relay.sequence = 7
        relay.say_hello(received=4, sent=7, command=2, state="idle")
        await link.greeted()
        assert listener.states == ["idle"]
        assert await sending == 5
        heard = await told(relay)
        assert heard[0] == ("OPEN", 1, {"session_id": "a session"})
        assert ("MESSAGE", 1, (5, b"a")) in heard
        (command,) = [carried for kind, _, carried in heard if kind == "CONTROL"]
        assert (command["id"], command["op"]) == (3, "ready")
        relay.answer(command)
        await asking
        relay.say(Kind.MESSAGE, 1, message(b"kept"), 6)
        relay.say_opened(1)
        relay.say_message(message(b"new"))
        heard = await take_two(inbox)
        assert [number for number, _ in heard] == [6, 8]


@pytest.mark.gen_test
async def test_who_waits_for_an_adopted_relay_hears_of_its_end():
    async with linked(adopt=True, patience=0.1) as (link, relays, _):
        relays.refusal = "the door is shut"
        with pytest.raises(LinkClosedError, match="the door is shut"):
            await asyncio.wait_for(link.greeted(), 2)
