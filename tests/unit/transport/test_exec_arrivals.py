"""When a server is read on, message by message."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.transport.base import TransportBrokenError
from gateway.transport.exec_arrivals import BUFFER, MOST, STATUS, STDERR, STDOUT, Arrivals
from tests.conformance.transport.opened import running, waits
from tests.support.exec_server import exit_status

pytestmark = pytest.mark.gen_test(timeout=30)


async def fill(arrivals: Arrivals, message: bytes, most: int = 100_000) -> int:
    """Messages that are taken before the next has to wait."""
    for count in range(most):
        if (pause := arrivals.take(message)) is not None and not pause.done():
            return count + 1
    raise AssertionError(f"{most} messages were taken")


KINDS = {
    "stdout": bytes([STDOUT]),
    "stderr": bytes([STDERR]),
    "a channel of nobody": b"\x09",
}


@pytest.mark.parametrize("size", [0, 1, 100, 32 * 1024])
@pytest.mark.parametrize("channel", KINDS.values(), ids=KINDS.keys())
async def test_what_nobody_receives_stops_the_server(channel: bytes, size: int) -> None:
    count = await fill(Arrivals(), channel + bytes(size))
    # With what the objects take: 1,000 of the smallest.
    assert 8 <= count <= 1_100
    assert count * (size + 1) <= BUFFER + 33 * 1024


async def test_empty_messages_stop_the_server_too() -> None:
    assert await fill(Arrivals(), b"") <= 1_100


async def test_the_server_goes_on_when_what_waited_is_received() -> None:
    arrivals = Arrivals()
    for _ in range(3):
        count = await fill(arrivals, bytes([STDOUT]) + bytes(10_000))
        pause = arrivals.take(bytes([STDOUT, 1]))
        assert pause is not None
        await arrivals.wait()
        assert len(arrivals.next()) == count * 10_000 + 1
        assert pause.done()


async def test_one_receive_returns_a_mebibyte_at_most_and_the_next_the_rest() -> None:
    arrivals = Arrivals()
    arrivals.take(bytes([STDOUT]) + bytes(BUFFER - 1000))
    arrivals.take(bytes([STDOUT]) + bytes(MOST - 1))
    for size in (BUFFER - 1000, MOST - 1):
        await arrivals.wait()
        assert len(arrivals.next()) == size


@pytest.mark.parametrize("message", [bytes([STDERR]) + bytes(1000), b"\x02", b"\x09", b"\x01", b""])
async def test_what_is_not_for_the_receiver_does_not_stop_the_server_while_one_waits(message: bytes) -> None:
    arrivals = Arrivals()
    async with running(arrivals.wait()) as waiting:
        turns = 0
        for _ in range(20_000):
            if (pause := arrivals.take(message)) is not None:
                await pause
                turns += 1
        # And the other tasks had their turns.
        assert turns > 10
        assert await waits(waiting)
        arrivals.take(bytes([STDOUT]) + b"x")
        await waiting
        assert arrivals.next() == b"x"


async def test_closing_lets_the_server_go_on_and_drops_what_comes() -> None:
    arrivals = Arrivals()
    await fill(arrivals, bytes([STDOUT]) + bytes(1000))
    pause = arrivals.take(bytes([STDOUT]) + b"x")
    assert pause is not None
    arrivals.close()
    assert pause.done()
    with pytest.raises(AssertionError, match="were taken"):
        await fill(arrivals, bytes([STDOUT]) + bytes(1000), 5_000)


async def test_what_comes_behind_the_end_is_dropped() -> None:
    arrivals = Arrivals()
    arrivals.take(bytes([STDOUT]) + b"before")
    arrivals.take(bytes([STATUS]) + json.dumps(exit_status(0)).encode())
    arrivals.take(bytes([STDOUT]) + b"behind")
    arrivals.take(bytes([STATUS]) + json.dumps(exit_status(3)).encode())
    arrivals.lost("the connection ended")
    received = []
    for _ in range(3):
        await arrivals.wait()
        received.append(arrivals.next())
    assert received == [b"before", b"", b""]


async def test_the_first_reason_is_the_one_that_counts() -> None:
    arrivals = Arrivals()
    async with running(arrivals.wait()) as waiting:
        arrivals.lost("first")
        arrivals.lost("second")
        await asyncio.wait_for(waiting, 1)
    with pytest.raises(TransportBrokenError, match=r"^first$"):
        arrivals.next()
