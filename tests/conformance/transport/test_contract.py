"""The contract of `gateway/transport/base.py`, sentence by sentence, with an honest peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.transport.base import (
    Transport,
    TransportBrokenError,
    TransportBusyError,
    TransportClosedError,
)
from tests.conformance.transport.ends import Ends, Peer
from tests.conformance.transport.opened import opened, receive_exactly, running, waits

pytestmark = pytest.mark.gen_test(timeout=30)

#: Bytes that neither direction may hold while nobody takes them.
BOUND = 8 * 1024 * 1024
MAX_RECEIVE = 1024 * 1024

#: 5 MiB, no four bytes of which are like any others.
LARGE = b"".join(number.to_bytes(4, "big") for number in range(5 * 1024 * 1024 // 4))


async def fill(transport: Transport, step: int = 64 * 1024) -> tuple[int, asyncio.Task[None]]:
    """Send until a `send` waits; the bytes that went before it, and the task that waits."""
    sent = 0
    while sent <= BOUND:
        task = asyncio.create_task(transport.send(bytes(step)))
        if await waits(task):
            return sent, task
        await task
        sent += step
    raise AssertionError(f"{sent} bytes were taken that nobody has read")


@asynccontextmanager
async def stuck(transport: Transport) -> AsyncIterator[asyncio.Task[None]]:
    """A `send` that waits for as long as nobody reads: more is left of it than could still be taken."""
    async with running(transport.send(bytes(2 * BOUND))) as sending:
        assert await waits(sending)
        yield sending


# -- bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 300, 64 * 1024, len(LARGE)])
async def test_all_that_is_sent_arrives_in_order(ends: Ends, size: int) -> None:
    async with opened(ends) as (transport, peer), running(peer.read(size)) as reading:
        await transport.send(LARGE[:size])
        assert await reading == LARGE[:size]


@pytest.mark.parametrize("size", [1, 300, 64 * 1024, len(LARGE)])
async def test_all_that_the_peer_writes_is_received_in_order(ends: Ends, size: int) -> None:
    async with opened(ends) as (transport, peer), running(peer.write(LARGE[:size])):
        assert await receive_exactly(transport, size) == LARGE[:size]


async def test_a_receive_returns_at_least_one_byte_and_at_most_a_mebibyte(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(peer.write(LARGE)):
        left = len(LARGE)
        while left:
            size = len(await transport.receive())
            assert 1 <= size <= MAX_RECEIVE
            left -= size


async def test_sending_nothing_changes_nothing(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await transport.send(b"")
        await transport.send(b"x")
        assert await peer.read(1) == b"x"


async def test_one_task_may_receive_while_another_sends(ends: Ends) -> None:
    async def echo(peer: Peer) -> None:
        for start in range(0, len(LARGE), 50_000):
            await peer.write(await peer.read(len(LARGE[start : start + 50_000])))

    async with (
        opened(ends) as (transport, peer),
        running(echo(peer)),
        running(transport.send(LARGE)) as sending,
    ):
        assert await receive_exactly(transport, len(LARGE)) == LARGE
        await sending


# -- bounds -------------------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_stops_the_one_that_sends(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        sent, sending = await fill(transport)
        await peer.read(sent)
        await peer.read(64 * 1024)
        await sending


async def test_a_transport_that_does_not_receive_stops_the_peer_that_writes(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(peer.write(bytes(2 * BOUND))) as writing:
        await transport.receive()
        assert await waits(writing)
        await receive_exactly(transport, BOUND)
        assert await waits(writing)


async def test_other_tasks_run_before_each_receive_returns(ends: Ends) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        handle[0] = loop.call_soon(turn)

    async with opened(ends) as (transport, peer), running(peer.write(LARGE)):
        loop = asyncio.get_running_loop()
        handle = [loop.call_soon(turn)]
        left = len(LARGE)
        while left:
            before = turns
            left -= len(await transport.receive())
            assert turns > before
        handle[0].cancel()


# -- one task at a time -------------------------------------------------------------------------------


async def test_a_second_receive_is_refused_and_the_first_goes_on(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.receive()) as first:
        with pytest.raises(TransportBusyError):
            await transport.receive()
        await peer.write(b"x")
        assert await first == b"x"


async def test_a_second_send_is_refused_and_the_first_goes_on(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.send(LARGE)) as first:
        assert await waits(first)
        for second in (transport.send(b"x"), transport.send(b""), transport.send_eof()):
            with pytest.raises(TransportBusyError):
                await second
        assert await peer.read(len(LARGE)) == LARGE
        await first


# -- cancellation -------------------------------------------------------------------------------------


async def test_a_cancelled_receive_loses_no_byte(ends: Ends) -> None:
    size = 200_000
    async with opened(ends) as (transport, peer):
        received = b""
        async with running(write_in_steps(peer, LARGE[:size], 500)):
            turns = 0
            while len(received) < size:
                task = asyncio.create_task(transport.receive())
                # At every distance from the arrival of bytes, the wake-up of the task included.
                for _ in range(turns % 7):
                    await asyncio.sleep(0)
                turns += 1
                task.cancel()
                try:
                    received += await task
                except asyncio.CancelledError:
                    continue
        assert received == LARGE[:size]


async def write_in_steps(peer: Peer, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        await peer.write(data[start : start + step])
        for _ in range(start // step % 5):
            await asyncio.sleep(0)


async def test_a_cancelled_send_breaks_sending_and_nothing_else(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), stuck(transport) as sending:
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        for _ in range(2):
            with pytest.raises(TransportBrokenError):
                await transport.send(b"x")
            with pytest.raises(TransportBrokenError):
                await transport.send_eof()
        await peer.write(b"still")
        assert await transport.receive() == b"still"


@pytest.mark.parametrize("turns", range(6))
async def test_a_send_that_is_cancelled_as_it_ends_has_either_ended_or_broken(ends: Ends, turns: int) -> None:
    async with opened(ends) as (transport, peer):
        sent, sending = await fill(transport)
        await peer.read(sent)
        # The room is there. Cancel at every distance from the turn in which the send finds out.
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        try:
            await sending
        except asyncio.CancelledError:
            with pytest.raises(TransportBrokenError):
                await transport.send(b"x")
        else:
            await transport.send(b"x")


# -- the ends of a stream -----------------------------------------------------------------------------


async def test_the_peers_end_is_read_again_and_again_behind_all_that_it_wrote(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await peer.write(b"last")
        await peer.end()
        assert await receive_exactly(transport, 4) == b"last"
        for _ in range(3):
            assert await transport.receive() == b""


async def test_a_receive_that_waits_reads_the_peers_end(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.receive()) as receiving:
        await peer.end()
        assert await receiving == b""


async def test_a_peer_that_vanished_is_a_broken_stream_behind_all_that_it_wrote(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await transport.send(b"never read")
        await peer.write(b"last")
        await peer.vanish()
        assert await receive_exactly(transport, 4) == b"last"
        for _ in range(3):
            with pytest.raises(TransportBrokenError):
                await transport.receive()


async def test_sending_to_a_peer_that_is_gone_is_a_broken_stream(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await peer.close()
        for _ in range(3):
            with pytest.raises(TransportBrokenError):
                await transport.send(LARGE)


async def test_the_half_close_ends_one_direction_behind_all_that_was_sent(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await transport.send(b"last")
        if not ends.half_close:
            with pytest.raises(NotImplementedError):
                await transport.send_eof()
            return
        await transport.send_eof()
        assert await peer.read(5) == b"last"
        await peer.write(b"more")
        assert await receive_exactly(transport, 4) == b"more"
        for call in (transport.send(b"x"), transport.send(b""), transport.send_eof()):
            with pytest.raises(TransportClosedError):
                await call


async def test_a_peer_that_has_ended_can_still_be_sent_to_where_it_has_a_half_close(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await peer.end()
        assert await transport.receive() == b""
        if not ends.peer_half_close:
            for call in (transport.send(b"x"), transport.send(b""), transport.send_eof()):
                with pytest.raises(TransportBrokenError):
                    await call
            return
        await transport.send(b"answer")
        assert await peer.read(6) == b"answer"


# -- close --------------------------------------------------------------------------------------------


async def test_close_ends_pending_calls(ends: Ends) -> None:
    async with (
        opened(ends) as (transport, _),
        stuck(transport) as sending,
        running(transport.receive()) as receiving,
    ):
        await transport.close()
        for call in (receiving, sending):
            with pytest.raises(TransportClosedError):
                await call


@pytest.mark.parametrize("turns", [1, 4, 10, 18])
async def test_close_ends_a_send_for_which_room_has_just_come(ends: Ends, turns: int) -> None:
    async with opened(ends) as (transport, peer):
        sent, sending = await fill(transport)
        async with running(peer.read(sent)):
            # The room is there before the send finds out, at one of these distances in each implementation.
            for _ in range(turns):
                await asyncio.sleep(0)
            has_ended = sending.done()
            await transport.close()
            if has_ended:
                await sending
            else:
                with pytest.raises(TransportClosedError):
                    await sending


async def test_close_ends_a_receive_that_bytes_have_just_reached(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.receive()) as receiving:
        await peer.write(b"x")
        await transport.close()
        with pytest.raises(TransportClosedError):
            await receiving


async def test_calls_after_close_are_refused(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await peer.write(b"never received")
        await transport.close()
        for call in (transport.receive(), transport.send(b"x"), transport.send(b""), transport.send_eof()):
            with pytest.raises(TransportClosedError):
                await call


async def test_a_second_close_does_nothing(ends: Ends) -> None:
    async with opened(ends) as (transport, _):
        await asyncio.gather(transport.close(), transport.close())
        await transport.close()


async def test_close_does_not_wait_for_the_peer(ends: Ends) -> None:
    async with opened(ends) as (transport, _), stuck(transport) as sending:
        await asyncio.wait_for(transport.close(), 1)
        with pytest.raises(TransportClosedError):
            await sending


async def test_the_peer_reads_the_end_once_the_transport_is_closed(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await transport.send(b"last")
        await transport.close()
        assert await peer.read(5) == b"last"


async def test_close_after_the_end_of_either_side_does_not_fail(ends: Ends) -> None:
    async with opened(ends) as (transport, peer):
        await transport.send(b"never read")
        await peer.vanish()
        with pytest.raises(TransportBrokenError):
            await transport.receive()
        await transport.close()
