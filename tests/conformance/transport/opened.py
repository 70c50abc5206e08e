"""A stream for one test, which has to leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from gateway.transport.base import Transport
from tests.conformance.transport.ends import Ends, Peer
from tests.support import schedstat

#: Seconds that show that something waits rather than is slow.
WHILE = 0.1


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def opened(ends: Ends) -> AsyncIterator[tuple[Transport, Peer]]:
    """Both ends of a stream. Closing the transport must give back all descriptors and tasks, whatever the
    test has done with it, and no error may have gone unseen."""
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    tasks = asyncio.all_tasks()
    fds = descriptors()
    transport, peer = await ends.open()
    try:
        yield transport, peer
    finally:
        await transport.close()
        await peer.close()
    # A task that close has woken up needs its turn to end.
    if left := asyncio.all_tasks() - tasks:
        await asyncio.wait(left, timeout=5)
    assert asyncio.all_tasks() == tasks
    gc.collect()
    assert descriptors() == fds
    assert unseen == []


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that has begun and that ends with the block."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def waits(task: asyncio.Task[Any]) -> bool:
    """Whether the task is stuck rather than slow: it has not ended, and this thread has nothing to do."""
    for _ in range(100):
        before = sum(schedstat.seconds())
        done, _ = await asyncio.wait({task}, timeout=WHILE)
        if done or sum(schedstat.seconds()) - before < WHILE / 4:
            break
    return not done


async def is_quiet() -> bool:
    """Whether this process leaves the processor alone while nobody asks it for anything."""
    before = time.process_time()
    await asyncio.sleep(3 * WHILE)
    return time.process_time() - before < WHILE / 2


async def receive_exactly(transport: Transport, size: int) -> bytes:
    """The next `size` bytes, however they are cut; fewer at the end of the stream."""
    parts = []
    while size > 0:
        part = await transport.receive()
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
