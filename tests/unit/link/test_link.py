"""The gateway's end of a link against a scripted relay (docs/protocol.md, section 1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.link import REQUEST_SLACK, ControlError, Inbox, Link, LinkClosedError
from gateway.wire import allowance, framing
from gateway.wire.framing import Kind
from tests.support.relay_double import RelayDouble

WINDOW = 1000
MAX_MESSAGE = 5000


class Listener:
    def __init__(self) -> None:
        self.states: list[str] = []
        self.died: list[str] = []
        self.done: list[int] = []
        self.logged: list[str] = []
        self.activity = 0

    def on_state(self, state: str) -> None:
        self.states.append(state)

    def on_died(self, reason: str, asked: str | None) -> None:
        self.died.append(reason if asked is None else f"{reason} ({asked})")

    def on_done(self, sequences: Sequence[int]) -> None:
        self.done += sequences

    def on_log(self, text: str) -> None:
        self.logged.append(text)

    def on_activity(self) -> None:
        self.activity += 1


@asynccontextmanager
async def linked(greet: bool = True) -> AsyncIterator[tuple[Link, RelayDouble, Listener]]:
    relay, listener = RelayDouble(), Listener()
    link = Link(relay.transport, listener, window=WINDOW, max_message=MAX_MESSAGE)
    link.start()
    if greet:
        relay.say_hello()
    try:
        yield link, relay, listener
    finally:
        await link.close()
        assert relay.transport.closed


async def opened_route(link: Link, relay: RelayDouble, inbox: Inbox) -> int:
    link.open_route("a session", inbox)
    number = (await relay.hear(Kind.OPEN)).route
    relay.say_opened(number)
    return number


@pytest.mark.gen_test
async def test_it_says_hello_first_with_its_bounds():
    async with linked() as (_, relay, _):
        hello = json.loads((await relay.hear(Kind.HELLO)).payload)
    assert hello == {
        "version": 1,
        "capabilities": [],
        "window": WINDOW,
        "max_message": MAX_MESSAGE,
        "received": None,
    }


@pytest.mark.gen_test
async def test_what_the_relay_tells_of_its_kernel_reaches_the_listener():
    async with linked() as (link, relay, listener):
        relay.say(Kind.STATE, payload=b"\x02")
        relay.say(Kind.DONE, payload=framing.SEQUENCE.pack(7) + framing.SEQUENCE.pack(9))
        relay.say(Kind.LOG, payload=b"line\xff\n")
        relay.say_json(Kind.DIED, {"reason": "gone", "exit_code": 1, "signal": None})
        relay.end()
        assert await link.closed() == "the relay ended the link"
        assert listener.states == ["busy"]
        assert listener.done == [7, 9]
        assert listener.logged == ["line�\n"]
        assert listener.died == ["gone"]


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        ("shutdown", "gone (shutdown)"),
        ("restart", "gone (restart)"),
        ("x", "gone"),
        ([], "gone"),
        (None, "gone"),
    ],
)
@pytest.mark.gen_test
async def test_what_a_client_asked_of_a_kernel_that_died_is_told_if_it_is_known(asked, heard):
    async with linked() as (_link, relay, listener):
        relay.say_json(Kind.DIED, {"reason": "gone", "asked": asked})
        await settle(relay)
        assert listener.died == [heard]


@pytest.mark.gen_test
async def test_a_broadcast_goes_to_every_opened_route_and_a_reply_to_its_own():
    async with linked() as (link, relay, listener):
        first, second = Inbox(), Inbox()
        one, two = await opened_route(link, relay, first), await opened_route(link, relay, second)
        relay.say_message(b"to all")
        relay.say_message(b"to the second", two)
        assert one != two
        assert await first.take() == [(1, b"to all")]
        messages = await second.take()
        while len(messages) < 2:
            messages += await second.take()
        assert messages == [(1, b"to all"), (2, b"to the second")]
        assert listener.activity


@pytest.mark.gen_test
async def test_a_route_hears_no_broadcast_before_it_is_opened_but_what_is_replayed_to_it():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        link.open_route("a session", inbox)
        number = (await relay.hear(Kind.OPEN)).route
        relay.say_message(b"1: before")
        relay.say_json(Kind.OPENED, {"sequence": 0, "lost": 0}, number)
        relay.say(Kind.MESSAGE, number, b"1: replayed", 1)
        relay.say_message(b"2: after")
        messages = await inbox.take()
        while len(messages) < 2:
            messages += await inbox.take()
        assert messages == [(1, b"1: replayed"), (2, b"2: after")]


@pytest.mark.gen_test
async def test_a_closed_route_gets_nothing_more_and_its_acknowledgement_goes_before_its_close():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        route = link.open_route("a session", inbox)
        number = (await relay.hear(Kind.OPEN)).route
        relay.say_opened(number)
        relay.say_message(b"x")
        await inbox.take()
        route.acknowledge(1)
        route.close()
        route.close()
        assert framing.SEQUENCE.unpack((await relay.hear(Kind.ACK)).payload) == (1,)
        assert (await relay.hear(Kind.CLOSE)).route == number
        relay.say_message(b"late", number)
        relay.say_message(b"late too")
        relay.say(Kind.STATE, payload=b"\x01")
        await settle(relay)
        assert inbox.size == 0


async def settle(relay: RelayDouble) -> None:
    """Wait until the link has handled all that the relay has said: it answers a PING in order."""
    relay.say(Kind.PING, payload=framing.SEQUENCE.pack(42))
    assert framing.SEQUENCE.unpack((await relay.hear(Kind.PONG)).payload) == (42,)


@pytest.mark.gen_test
async def test_control_returns_with_the_relays_answer_or_its_error():
    async with linked() as (link, relay, _):
        asked = asyncio.ensure_future(link.control("start", {"argv": ["x"]}, within=2))
        control = await relay.hear_control("start")
        assert control["argv"] == ["x"]
        relay.answer(control)
        await asked
        asked = asyncio.ensure_future(link.control("restart", within=2))
        relay.answer(await relay.hear_control("restart"), "no such interpreter")
        with pytest.raises(ControlError, match="no such interpreter"):
            await asked


@pytest.mark.gen_test
async def test_control_gives_up_after_its_time_and_a_late_answer_harms_nothing():
    async with linked() as (link, relay, _):
        with pytest.raises(ControlError, match=r"no answer to interrupt within 0\.01 s"):
            await link.control("interrupt", within=0.01)
        relay.answer(await relay.hear_control("interrupt"))
        await settle(relay)


@pytest.mark.gen_test
async def test_control_fails_with_the_reason_when_the_link_ends():
    async with linked() as (link, relay, _):
        asked = asyncio.ensure_future(link.control("start", within=2))
        await relay.hear_control("start")
        relay.end()
        with pytest.raises(LinkClosedError, match="the relay ended the link"):
            await asked
        with pytest.raises(LinkClosedError):
            await link.control("start", within=2)
        with pytest.raises(LinkClosedError):
            link.open_route("s", Inbox())


@pytest.mark.gen_test
async def test_requests_are_numbered_and_wait_while_too_much_is_unacknowledged():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        route = link.open_route("s", inbox)
        big = bytes(MAX_MESSAGE + REQUEST_SLACK + 1)
        assert await route.send(big) == 1
        waiting = asyncio.ensure_future(route.send(b"next"))
        assert (await relay.hear(Kind.MESSAGE)).sequence == 1
        await settle(relay)
        assert not waiting.done()
        relay.say(Kind.ACK, payload=framing.SEQUENCE.pack(1))
        assert await waiting == 2
        assert (await relay.hear(Kind.MESSAGE)).payload == b"next"


@pytest.mark.gen_test
async def test_a_send_that_waits_ends_with_the_link():
    async with linked() as (link, relay, _):
        route = link.open_route("s", Inbox())
        await route.send(bytes(MAX_MESSAGE + REQUEST_SLACK + 1))
        waiting = asyncio.ensure_future(route.send(b"next"))
        await settle(relay)
        relay.end()
        with pytest.raises(LinkClosedError):
            await waiting


@pytest.mark.gen_test
async def test_a_relay_that_disregards_the_window_is_not_read_until_the_client_takes():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        await opened_route(link, relay, inbox)
        for _ in range(10):
            relay.say_message(bytes(WINDOW + 1))
        await relay_is_stuck(relay)
        assert inbox.size == WINDOW + 1
        taken: list[tuple[int, bytes]] = []
        while len(taken) < 10:
            taken += await inbox.take()
        await relay.hear(Kind.PONG)
        assert [number for number, _ in taken] == list(range(1, 11))


@pytest.mark.gen_test
async def test_a_client_that_leaves_lets_a_link_go_on_that_waited_for_it():
    async with linked() as (link, relay, _):
        slow, other = Inbox(), Inbox()
        route = link.open_route("slow", slow)
        relay.say_opened((await relay.hear(Kind.OPEN)).route)
        await opened_route(link, relay, other)
        relay.say_message(bytes(WINDOW + 1), route.number)
        relay.say_message(b"for the other")
        await relay_is_stuck(relay)
        route.close()
        await relay.hear(Kind.PONG)
        assert (await other.take())[-1] == (2, b"for the other")


async def relay_is_stuck(relay: RelayDouble) -> None:
    relay.say(Kind.PING, payload=framing.SEQUENCE.pack(1))
    with pytest.raises(TimeoutError):
        await relay.hear(Kind.PONG, within=0.2)


@pytest.mark.gen_test
async def test_numbers_of_a_client_go_on_rising_over_a_second_link():
    inbox = Inbox()
    async with linked() as (link, relay, _):
        await opened_route(link, relay, inbox)
        relay.say_message(b"a")
        relay.say_message(b"b")
        await settle(relay)
    inbox.put_local(b"of the gateway's own")
    inbox.offset = inbox.last
    async with linked() as (link, relay, _):
        await opened_route(link, relay, inbox)
        relay.say_message(b"c")
        await settle(relay)
    assert await inbox.take() == [(1, b"a"), (2, b"b"), (2, b"of the gateway's own"), (3, b"c")]


def _small(kind: Kind, payload: bytes) -> bytes:
    return framing.encode(kind, payload=payload)


HELLO = framing.encode(Kind.HELLO, payload=b'{"version": 1}')

BROKEN = {
    "a first frame that is no HELLO": (b"", _small(Kind.STATE, b"\x01"), "first frame"),
    "a HELLO of version 0": (b"", _small(Kind.HELLO, b'{"version": 0}'), "version 0"),
    "a HELLO without a version": (b"", _small(Kind.HELLO, b"{}"), "version"),
    "a HELLO that is no object": (b"", _small(Kind.HELLO, b"[]"), "not an object"),
    "a HELLO that is no JSON": (b"", _small(Kind.HELLO, b"\xff"), "not JSON"),
    "a HELLO nested too deeply": (b"", _small(Kind.HELLO, b"[" * 100_000), "not JSON"),
    "a second HELLO": (HELLO, HELLO, "HELLO"),
    "an OPEN, which only a gateway sends": (HELLO, framing.encode(Kind.OPEN, 1, b"{}"), "OPEN"),
    "an unknown kind": (HELLO, framing.HEADER.pack(0, 99), "kind 99"),
    "a frame that is too large": (HELLO, framing.HEADER.pack(1 << 31, Kind.LOG), "exceeds"),
    "a message that is too large": (HELLO, framing.HEADER.pack(MAX_MESSAGE + 9, Kind.MESSAGE), "exceeds"),
    "a gap in the numbers": (HELLO, framing.encode(Kind.MESSAGE, 0, b"x", 2), "message 2 came after 0"),
    "a state that is none": (HELLO, _small(Kind.STATE, b"\x09"), "STATE"),
    "a state of two bytes": (HELLO, _small(Kind.STATE, b"\x01\x01"), "STATE"),
    "an empty DONE": (HELLO, _small(Kind.DONE, b""), "DONE"),
    "a DONE of three bytes": (HELLO, _small(Kind.DONE, b"123"), "DONE"),
    "an ACK of three bytes": (HELLO, _small(Kind.ACK, b"123"), "ACK"),
    "an ACK of what was never sent": (HELLO, _small(Kind.ACK, framing.SEQUENCE.pack(5)), "acknowledged 5"),
    "a CONTROL without id": (HELLO, _small(Kind.CONTROL, b"{}"), "id"),
    "a CONTROL whose id is true": (HELLO, _small(Kind.CONTROL, b'{"id": true}'), "id"),
    "a DIED without a reason": (HELLO, _small(Kind.DIED, b'{"reason": 1}'), "reason"),
    "an end inside a frame": (HELLO, HELLO[:5], "into a frame"),
}


@pytest.mark.parametrize(("before", "fault", "named"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.gen_test
async def test_a_broken_rule_ends_the_link_with_a_reason(before, fault, named):
    async with linked(greet=False) as (link, relay, _):
        relay.say_bytes(before + fault)
        relay.end()
        reason = await asyncio.wait_for(link.closed(), 2)
        assert named in reason
        assert "protocol" in reason


@pytest.mark.gen_test
async def test_text_from_the_relay_is_bounded_and_can_be_encoded():
    async with linked() as (_link, relay, listener):
        relay.say(Kind.DIED, payload=b'{"reason": "\\ud800' + b"x" * 10_000 + b'"}')
        await settle(relay)
        assert len(listener.died[0]) == 4096
        listener.died[0].encode()


@pytest.mark.gen_test
async def test_a_second_close_does_nothing_and_no_task_is_left():
    async with linked() as (link, _relay, _):
        await link.close()
        await link.close()
        assert await link.closed() == "the gateway closed the link"
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.gen_test
async def test_a_relay_that_logs_without_end_is_held_to_its_allowance():
    async with linked() as (_, relay, listener):
        for _ in range(20):
            relay.say(Kind.LOG, payload=b"line\n" * 50_000)
        relay.say(Kind.PING, payload=framing.SEQUENCE.pack(1))
        await relay.hear(Kind.PONG)
        assert 0 < len("".join(listener.logged)) <= allowance.BURST + 20 * allowance.RATE
