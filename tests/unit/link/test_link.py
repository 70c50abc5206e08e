"""The gateway's end of a link against a scripted relay (docs/protocol.md, section 1)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.link import REQUEST_SLACK, ControlError, Inbox, InboxFullError, Link, LinkClosedError
from gateway.link.stream import PIECE
from gateway.wire import allowance, framing, v1
from gateway.wire.framing import Kind
from gateway.wire.window import COST, reach
from tests.support.relay_double import RelayDouble

WINDOW = 1000
MAX_MESSAGE = 5000
#: What may wait for one client of an honest relay.
REACH = reach(WINDOW, MAX_MESSAGE)


def message(text: bytes, size: int = v1.MIN_SIZE) -> bytes:
    """What is as long as a kernel message, which is all that a link looks at."""
    return text.ljust(size, b".")


class Listener:
    def __init__(self) -> None:
        self.states: list[str] = []
        self.died: list[str] = []
        self.done: list[int] = []
        self.logged: list[str] = []
        self.activity = 0
        self.placed: list[int] = []
        self.outstanding: list[tuple[int, str, str, bytes]] = []
        self.streams: list[str] = []

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

    def on_place(self, received: int) -> None:
        self.placed.append(received)

    def on_outstanding(self, sequence: int, session_id: str, channel: str, header: bytes) -> None:
        self.outstanding.append((sequence, session_id, channel, header))

    def on_stream(self, text: str) -> None:
        self.streams.append(text)


@asynccontextmanager
async def linked(greet: bool = True, **options: Any) -> AsyncIterator[tuple[Link, RelayDouble, Listener]]:
    relay, listener = RelayDouble(), Listener()
    link = Link(relay.transport, listener, window=WINDOW, max_message=MAX_MESSAGE, **options)
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
        relay.say_message(message(b"to all"))
        relay.say_message(message(b"to the second"), two)
        assert one != two
        assert await first.take() == [(1, message(b"to all"))]
        messages = await second.take()
        while len(messages) < 2:
            messages += await second.take()
        assert messages == [(1, message(b"to all")), (2, message(b"to the second"))]
        assert listener.activity


@pytest.mark.gen_test
async def test_a_route_hears_no_broadcast_before_it_is_opened_but_what_is_replayed_to_it():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        link.open_route("a session", inbox)
        number = (await relay.hear(Kind.OPEN)).route
        relay.say_message(message(b"1: before"))
        relay.say_json(Kind.OPENED, {"sequence": 0, "lost": 0}, number)
        relay.say(Kind.MESSAGE, number, message(b"1: replayed"), 1)
        relay.say_message(message(b"2: after"))
        messages = await inbox.take()
        while len(messages) < 2:
            messages += await inbox.take()
        assert messages == [(1, message(b"1: replayed")), (2, message(b"2: after"))]


@pytest.mark.gen_test
async def test_a_closed_route_gets_nothing_more_and_its_acknowledgement_goes_before_its_close():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        route = link.open_route("a session", inbox)
        number = (await relay.hear(Kind.OPEN)).route
        relay.say_opened(number)
        relay.say_message(message(b"x"))
        await inbox.take()
        route.acknowledge(1)
        route.close()
        route.close()
        assert framing.SEQUENCE.unpack((await relay.hear(Kind.ACK)).payload) == (1,)
        assert (await relay.hear(Kind.CLOSE)).route == number
        relay.say_message(message(b"late"), number)
        relay.say_message(message(b"late too"))
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


# -- clients that do not read -----------------------------------------------------------------------


def fill(relay: RelayDouble, size: int, route: int = 0) -> None:
    """Messages that count at least `size` bytes together."""
    for _ in range(size // (MAX_MESSAGE + COST) + 1):
        relay.say_message(bytes(MAX_MESSAGE), route)


@pytest.mark.gen_test
async def test_as_much_as_an_honest_relay_may_send_waits_for_a_client_and_the_link_is_read_all_the_while():
    async with linked() as (link, relay, listener):
        slow, other = Inbox(), Inbox()
        number = await opened_route(link, relay, slow)
        await opened_route(link, relay, other)
        fill(relay, REACH - 2 * (MAX_MESSAGE + COST), number)
        await settle(relay)
        assert WINDOW < slow.size <= REACH
        asked = asyncio.ensure_future(link.control("interrupt", within=2))
        relay.say(Kind.STATE, payload=b"\x02")
        relay.say_message(message(b"for the other"))
        relay.answer(await relay.hear_control("interrupt"))
        await asked
        assert listener.states == ["busy"]
        assert (await other.take())[-1][1] == message(b"for the other")
        assert (await slow.take())[-1][1] == message(b"for the other")


@pytest.mark.gen_test
async def test_a_route_beyond_what_an_honest_relay_may_send_gets_what_waits_and_then_nothing_more():
    async with linked() as (link, relay, _):
        slow, other = Inbox(), Inbox()
        number = await opened_route(link, relay, slow)
        await opened_route(link, relay, other)
        fill(relay, REACH, number)
        await settle(relay)
        before = slow.size
        assert REACH < before < REACH + framing.MAX_SMALL_PAYLOAD + MAX_MESSAGE
        fill(relay, WINDOW, number)
        relay.say_message(message(b"to all"))
        await settle(relay)
        assert slow.size == before
        assert await other.take() == [(relay.sequence, message(b"to all"))]
        taken = await slow.take()
        assert [each for each, _ in taken] == list(range(1, len(taken) + 1)), "what is not told is at the end"
        with pytest.raises(InboxFullError):
            await slow.take()


@pytest.mark.gen_test
async def test_the_smallest_messages_are_counted_with_what_it_costs_to_keep_them():
    async with linked() as (link, relay, _):
        inbox = Inbox()
        await opened_route(link, relay, inbox)
        for _ in range(10):
            relay.say_message(message(b""))
        await settle(relay)
        assert inbox.size == 10 * (v1.MIN_SIZE + COST)


# -- silence ----------------------------------------------------------------------------------------


async def answer_pings(relay: RelayDouble) -> None:
    while True:
        ping = await relay.hear(Kind.PING, within=60)
        relay.say(Kind.PONG, payload=ping.payload)


@pytest.mark.gen_test
async def test_a_relay_that_answers_nothing_ends_its_link_after_a_while():
    async with linked(ping_interval=0.05, ping_timeout=0.3) as (link, _, _):
        began = time.monotonic()
        assert await asyncio.wait_for(link.closed(), 5) == "the relay did not answer for 0.3 s"
        assert time.monotonic() - began > 0.3


@pytest.mark.gen_test
async def test_a_relay_that_answers_pings_and_nothing_else_keeps_its_link():
    async with linked(ping_interval=0.05, ping_timeout=0.3) as (link, relay, _):
        answering = asyncio.ensure_future(answer_pings(relay))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.closed(), 1)
        answering.cancel()
        assert await asyncio.wait_for(link.closed(), 5) == "the relay did not answer for 0.3 s"


@pytest.mark.gen_test
async def test_a_gateway_that_stood_still_asks_again_before_it_gives_its_relay_up():
    """As with Ctrl-Z and fg: nothing was read meanwhile, and the pongs may wait behind the timer."""
    async with linked(ping_interval=0.05, ping_timeout=0.3) as (link, relay, _):
        await relay.hear(Kind.PING)
        time.sleep(0.5)  # noqa: ASYNC251  # the whole process stands still
        answering = asyncio.ensure_future(answer_pings(relay))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.closed(), 0.5)
        answering.cancel()


@pytest.mark.gen_test
async def test_a_relay_that_takes_nothing_more_ends_its_link_though_a_write_still_waits():
    async with linked(ping_interval=0.05, ping_timeout=0.3) as (link, relay, _):
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def blocked(data: bytes) -> None:
            await taken

        relay.transport.send = blocked
        route = link.open_route("s", Inbox())
        await route.send(message(b"never gone"))
        assert await asyncio.wait_for(link.closed(), 5) == "the relay did not answer for 0.3 s"
        with pytest.raises(LinkClosedError):
            await route.send(message(b"x"))


@pytest.mark.gen_test
async def test_a_chunk_of_the_smallest_frames_leaves_the_others_their_turns():
    async with linked() as (_, relay, listener):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        await settle(relay)
        counting = asyncio.ensure_future(count())
        frame = framing.encode(Kind.STATE, payload=b"\x01")
        frames = 8 * PIECE // len(frame)
        relay.say_bytes(frame * frames)
        while len(listener.states) < frames:  # noqa: ASYNC110  # each turn is what is counted
            await asyncio.sleep(0)
        counting.cancel()
        assert turns >= 8


@pytest.mark.gen_test
async def test_a_link_that_has_used_up_its_routes_ends_and_says_so():
    async with linked() as (link, relay, _):
        link._next_route = framing.MAX_ROUTE
        last = link.open_route("s", Inbox())
        assert (await relay.hear(Kind.OPEN)).route == last.number == framing.MAX_ROUTE
        with pytest.raises(LinkClosedError, match="used up its routes"):
            link.open_route("s", Inbox())
        assert "used up its routes" in await link.closed()


@pytest.mark.gen_test
async def test_numbers_of_a_client_go_on_rising_over_a_second_link():
    inbox = Inbox()
    async with linked() as (link, relay, _):
        await opened_route(link, relay, inbox)
        relay.say_message(message(b"a"))
        relay.say_message(message(b"b"))
        await settle(relay)
    inbox.put_local(b"of the gateway's own")
    inbox.offset = inbox.last
    async with linked() as (link, relay, _):
        await opened_route(link, relay, inbox)
        relay.say_message(message(b"c"))
        await settle(relay)
    taken = [(number, text.rstrip(b".")) for number, text in await inbox.take()]
    assert taken == [(1, b"a"), (2, b"b"), (2, b"of the gateway's own"), (3, b"c")]


def _small(kind: Kind, payload: bytes) -> bytes:
    return framing.encode(kind, payload=payload)


HELLO = _small(
    Kind.HELLO,
    b'{"version": 1, "max_message": 5000, "stream": "s", "received": 0, "sent": 0, "state": "starting"}',
)
ONE = framing.encode(Kind.MESSAGE, 0, message(b"1"), 1)


def _opened(payload: bytes, route: int = 1) -> bytes:
    return framing.encode(Kind.OPENED, route, payload)


BROKEN = {
    "a first frame that is no HELLO": (b"", _small(Kind.STATE, b"\x01"), "first frame"),
    "a HELLO of version 0": (b"", _small(Kind.HELLO, b'{"version": 0}'), "version 0"),
    "a HELLO without a version": (b"", _small(Kind.HELLO, b"{}"), "version"),
    "a HELLO that is no object": (b"", _small(Kind.HELLO, b"[]"), "not an object"),
    "a HELLO that is no JSON": (b"", _small(Kind.HELLO, b"\xff"), "not JSON"),
    "a HELLO nested too deeply": (b"", _small(Kind.HELLO, b"[" * 100_000), "not JSON"),
    "a HELLO without its bound": (b"", _small(Kind.HELLO, b'{"version": 1}'), "max_message"),
    "a relay that takes less than may be sent": (
        b"",
        _small(Kind.HELLO, b'{"version": 1, "max_message": 4999}'),
        "messages of 4999 bytes, and Kernels.max_message_size is 5000",
    ),
    "a second HELLO": (HELLO, HELLO, "HELLO"),
    "an OPEN, which only a gateway sends": (HELLO, framing.encode(Kind.OPEN, 1, b"{}"), "OPEN"),
    "an unknown kind": (HELLO, framing.HEADER.pack(0, 99), "kind 99"),
    "a frame that is too large": (HELLO, framing.HEADER.pack(1 << 31, Kind.LOG), "exceeds"),
    "a message that is too large": (HELLO, framing.HEADER.pack(MAX_MESSAGE + 9, Kind.MESSAGE), "exceeds"),
    "a gap in the numbers": (
        HELLO,
        framing.encode(Kind.MESSAGE, 0, message(b"2"), 2),
        "message 2 came after 0",
    ),
    "a number of zero": (
        HELLO,
        framing.encode(Kind.MESSAGE, 0, message(b"1"), 1)[:8] + bytes(8) + message(b"1"),
        "message 0 came after 0",
    ),
    "a number of zero for one route": (
        HELLO + ONE,
        framing.HEADER.pack(8 + v1.MIN_SIZE, Kind.MESSAGE | 1 << 8) + bytes(8) + message(b""),
        "message 0 came after 1",
    ),
    "a second message of a number for everyone": (HELLO + ONE, ONE, "message 1 came after 1"),
    "a message shorter than any": (
        HELLO,
        framing.encode(Kind.MESSAGE, 0, bytes(v1.MIN_SIZE - 1), 1),
        "message 1 has 60 bytes",
    ),
    "an OPENED that is no JSON": (HELLO, _opened(b"1,"), "not JSON"),
    "an OPENED without a number": (HELLO, _opened(b'{"lost": 0}'), "sequence"),
    "an OPENED that does not say what was lost": (HELLO, _opened(b'{"sequence": 0}'), "lost"),
    "an OPENED at a number to come": (HELLO, _opened(b'{"sequence": 1, "lost": 0}'), "at 1, which"),
    "an OPENED of a route that never was": (HELLO, _opened(b'{"sequence": 0, "lost": 0}', 2), "route 2 was"),
    "an OPENED of route 0": (HELLO, _opened(b'{"sequence": 0, "lost": 0}', 0), "route 0 was opened"),
    "a second OPENED": (HELLO, 2 * _opened(b'{"sequence": 0, "lost": 0}'), "opened twice"),
    "a state that is none": (HELLO, _small(Kind.STATE, b"\x09"), "STATE"),
    "a state of two bytes": (HELLO, _small(Kind.STATE, b"\x01\x01"), "STATE"),
    "an empty DONE": (HELLO, _small(Kind.DONE, b""), "DONE"),
    "a DONE of three bytes": (HELLO, _small(Kind.DONE, b"123"), "DONE"),
    "an ACK of three bytes": (HELLO, _small(Kind.ACK, b"123"), "ACK"),
    "an ACK of what was never sent": (HELLO, _small(Kind.ACK, framing.SEQUENCE.pack(5)), "acknowledged 5"),
    "a CONTROL without id": (HELLO, _small(Kind.CONTROL, b"{}"), "id"),
    "a CONTROL whose id is true": (HELLO, _small(Kind.CONTROL, b'{"id": true}'), "id"),
    "a DIED without a reason": (HELLO, _small(Kind.DIED, b'{"reason": 1}'), "reason"),
    "a HELLO without its stream's name": (
        b"",
        _small(Kind.HELLO, b'{"version": 1, "max_message": 5000}'),
        "stream",
    ),
    "a HELLO of a relay that has served others": (
        b"",
        HELLO.replace(b'"sent": 0', b'"sent": 1'),
        "has had 0 messages and sent 1",
    ),
    "an OUTSTANDING of what was never sent": (
        HELLO,
        _small(Kind.OUTSTANDING, b'{"sequence": 1, "session_id": "s", "channel": "shell", "header": "{}"}'),
        "request 1 is outstanding",
    ),
    "an OUTSTANDING without a header": (
        HELLO,
        _small(Kind.OUTSTANDING, b'{"sequence": 0, "session_id": "s", "channel": "shell"}'),
        "header",
    ),
    "an end inside a frame": (HELLO, HELLO[:5], "into a frame"),
}


@pytest.mark.parametrize(("before", "fault", "named"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.gen_test
async def test_a_broken_rule_ends_the_link_with_a_reason(before, fault, named):
    async with linked(greet=False) as (link, relay, _):
        link.open_route("s", Inbox())
        relay.say_bytes(before + fault)
        relay.end()
        reason = await asyncio.wait_for(link.closed(), 2)
        assert named in reason
        assert "protocol" in reason


@pytest.mark.parametrize("repeated", [1, 2])
@pytest.mark.gen_test
async def test_a_number_that_a_route_has_had_ends_the_link(repeated):
    async with linked() as (link, relay, _):
        inbox = Inbox()
        number = await opened_route(link, relay, inbox)
        relay.say_message(message(b"1"))
        relay.say_message(message(b"2"), number)
        relay.say(Kind.MESSAGE, number, message(b"again"), repeated)
        assert f"message {repeated} came to route {number} again" in await asyncio.wait_for(link.closed(), 2)
        assert inbox.last == 2


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
