"""What is particular to the socket pair; the contract is held in tests/conformance/transport."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from asyncio.subprocess import DEVNULL, PIPE, create_subprocess_exec
from collections.abc import AsyncIterator

import pytest

from gateway.transport.guarded import MOST
from gateway.transport.pipe import SMALL_CHUNK, PipeTransport

pytestmark = pytest.mark.gen_test(timeout=30)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.asynccontextmanager
async def paired() -> AsyncIterator[tuple[PipeTransport, socket.socket]]:
    """A transport and the child's end of it, both closed with the block."""
    transport, child = PipeTransport.pair()
    try:
        yield transport, child
    finally:
        child.close()
        await transport.close()


async def test_one_descriptor_carries_both_directions() -> None:
    before = descriptors()
    async with paired() as (_, child):
        child.close()
        assert len(descriptors() - before) == 1


async def test_the_other_end_is_a_childs_stdin_and_stdout() -> None:
    async with paired() as (transport, child):
        process = await create_subprocess_exec("cat", stdin=child, stdout=child)
        child.close()
        await transport.send(b"through the child")
        await transport.send_eof()
        received = b""
        while part := await transport.receive():
            received += part
        assert received == b"through the child"
        assert await process.wait() == 0


async def test_neither_end_is_inherited_by_a_child_that_is_not_given_it() -> None:
    async with paired() as (_, child):
        # With `close_fds`, which is the default, nothing is; so without it.
        script = "for f in /proc/self/fd/*; do readlink $f; done"
        process = await create_subprocess_exec(
            "sh", "-c", script, stdin=DEVNULL, stdout=PIPE, close_fds=False
        )
        listing, _ = await process.communicate()
        ours = os.readlink(f"/proc/self/fd/{child.fileno()}")
        assert ours.encode() not in listing
        assert b"/dev/null" in listing


async def test_the_childs_end_blocks_as_a_program_expects() -> None:
    async with paired() as (_, child):
        assert os.get_blocking(child.fileno())


async def test_a_transport_that_cannot_be_made_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_loop() -> asyncio.AbstractEventLoop:
        raise RuntimeError("no running event loop")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", no_loop)
        with pytest.raises(RuntimeError):
            PipeTransport.pair()
    assert descriptors() == before


async def test_a_byte_out_of_band_does_not_end_the_stream() -> None:
    async with paired() as (transport, child):
        child.send(b"!", socket.MSG_OOB)
        child.send(b"next")
        received = await transport.receive()
        while not received.endswith(b"next"):
            received += await transport.receive()


async def test_a_peer_that_sends_much_is_read_in_large_chunks() -> None:
    async with paired() as (transport, child):
        child.setblocking(False)
        waiting = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting += child.send(bytes(SMALL_CHUNK))
        sizes = []
        while waiting:
            sizes.append(len(await transport.receive()))
            waiting -= sizes[-1]
        assert sizes[0] == SMALL_CHUNK
        assert SMALL_CHUNK < sizes[1] <= MOST
