"""What a peer that means harm can do: at most end its own stream."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.transport.base import Transport, TransportBrokenError, TransportClosedError, TransportError
from tests.conformance.transport.ends import Ends, Peer
from tests.conformance.transport.opened import is_quiet, opened, running, waits

pytestmark = pytest.mark.gen_test(timeout=30)

FLOOD = bytes(256 * 1024)


async def flood(peer: Peer) -> None:
    while True:
        await peer.write(FLOOD)


async def receive_to_the_end(transport: Transport) -> int:
    """Bytes up to the end; raises what `receive` raises."""
    size = 0
    while part := await transport.receive():
        size += len(part)
    return size


async def test_a_flood_does_not_keep_other_tasks_from_running(ends: Ends) -> None:
    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turns = 0
    async with opened(ends) as (transport, peer), running(flood(peer)), running(count()):
        for _ in range(200):
            await transport.receive()
        assert turns >= 200


async def test_a_flood_that_is_not_received_does_not_keep_the_loop_busy(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(flood(peer)) as flooding:
        await transport.receive()
        assert await waits(flooding)
        assert await is_quiet()


async def test_a_flood_ends_with_close(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(flood(peer)) as flooding:
        await transport.receive()
        await transport.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await flooding


async def test_a_peer_that_never_reads_holds_up_nothing_but_send(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.send(bytes(64 * 1024 * 1024))) as sending:
        assert await waits(sending)
        for _ in range(100):
            await peer.write(b"x")
            assert await transport.receive() == b"x"
        assert not sending.done()


@pytest.mark.parametrize("taken", [0, 1, 100_000, 1_000_000])
async def test_a_peer_that_vanishes_within_a_send_breaks_it(ends: Ends, taken: int) -> None:
    async with opened(ends) as (transport, peer), running(transport.send(bytes(64 * 1024 * 1024))) as sending:
        await peer.read(taken)
        await peer.vanish()
        with pytest.raises(TransportBrokenError):
            await sending
        with pytest.raises(TransportBrokenError):
            await transport.send(b"x")


@pytest.mark.parametrize("sent", [0, 1, 100_000, 1_000_000])
async def test_a_peer_that_closes_midway_ends_the_stream_behind_what_it_wrote(ends: Ends, sent: int) -> None:
    async with opened(ends) as (transport, peer), running(receive_to_the_end(transport)) as receiving:
        await peer.write(bytes(sent))
        await peer.close()
        assert await receiving == sent


async def test_a_peer_that_vanishes_under_both_calls_ends_both(ends: Ends) -> None:
    async with (
        opened(ends) as (transport, peer),
        running(transport.send(bytes(64 * 1024 * 1024))) as sending,
        running(transport.receive()) as receiving,
    ):
        assert await waits(sending)
        await peer.vanish()
        for call in (sending, receiving):
            with pytest.raises(TransportBrokenError):
                await call


async def test_a_peer_that_ends_its_side_and_never_reads_does_not_keep_the_loop_busy(ends: Ends) -> None:
    async with opened(ends) as (transport, peer), running(transport.send(bytes(64 * 1024 * 1024))) as sending:
        await peer.end()
        if not ends.peer_half_close:
            with pytest.raises(TransportBrokenError):
                await sending
            assert await is_quiet()
            return
        assert await transport.receive() == b""
        assert await waits(sending)
        assert await is_quiet()
        await transport.close()
        with pytest.raises(TransportClosedError):
            await sending


async def test_whatever_a_peer_does_is_bytes_an_end_or_a_named_error(ends: Ends) -> None:
    for turns in range(12):
        async with opened(ends) as (transport, peer):
            async with running(flood(peer)), running(transport.send(bytes(4 * 1024 * 1024))) as sending:
                for _ in range(turns):
                    await transport.receive()
            await peer.vanish()
            with contextlib.suppress(TransportError):
                await receive_to_the_end(transport)
            with pytest.raises(TransportError):
                await transport.send(b"x")
            with pytest.raises((TransportError, asyncio.CancelledError)):
                await sending
