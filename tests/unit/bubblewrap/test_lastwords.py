"""What is logged and kept of a sandbox's stderr, and what that may cost the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import pytest

from gateway.backends.bubblewrap.lastwords import LastWords
from tests.support.patience import until

pytestmark = pytest.mark.gen_test(timeout=30)


@contextlib.asynccontextmanager
async def heard() -> AsyncIterator[tuple[LastWords, socket.socket, list[str]]]:
    """The gateway's end, the sandbox's, and what was logged."""
    ours, theirs = socket.socketpair()
    logged: list[str] = []
    words = LastWords(logged.append, ours)
    with theirs:
        theirs.setblocking(False)
        yield words, theirs, logged
    await words.close()


async def test_lines_are_logged_as_they_come_and_kept() -> None:
    async with heard() as (words, theirs, logged):
        theirs.send(b"one\ntwo\nthr")
        await until(lambda: logged == ["one", "two"])
        theirs.send(b"ee\n\n")
        await until(lambda: logged == ["one", "two", "three"])
        assert list(words.lines) == logged


async def test_what_is_still_there_at_the_end_is_taken() -> None:
    ours, theirs = socket.socketpair()
    logged: list[str] = []
    words = LastWords(logged.append, ours)
    with theirs:
        theirs.send(b"one\nand no end of the line")
    await words.close()
    assert logged == list(words.lines) == ["one", "and no end of the line"]


async def test_what_a_terminal_would_obey_is_not_logged() -> None:
    async with heard() as (_, theirs, logged):
        theirs.send(b"\x1b[2Jgone \xff\xfe\r\n")
        await until(lambda: bool(logged))
        assert logged == ["\N{REPLACEMENT CHARACTER}[2Jgone " + 2 * "\N{REPLACEMENT CHARACTER}"]


async def test_a_long_line_is_cut() -> None:
    async with heard() as (_, theirs, logged):
        theirs.send(b"x" * 10_000 + b"\nnext\n")
        await until(lambda: len(logged) == 2)
        assert logged[0] == "x" * 2000
        assert logged[1] == "next"


async def test_so_many_lines_are_logged_and_the_last_are_kept_however_many_there_were() -> None:
    ours, theirs = socket.socketpair()
    logged: list[str] = []
    words = LastWords(logged.append, ours)
    with theirs:
        for number in range(2000):
            theirs.send(b"%d\n" % number)
            if not number % 100:
                await asyncio.sleep(0)
    await words.close()
    assert logged == [*map(str, range(499)), "499 (no more of its output is logged)"]
    assert list(words.lines) == [str(number) for number in range(1980, 2000)]


async def test_a_flood_costs_the_gateway_little_and_stops_who_writes() -> None:
    async with heard() as (_, theirs, _):
        written, flood = 0, b"a\n" * 32 * 1024
        cpu, end = time.process_time(), time.monotonic() + 1
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                written += theirs.send(flood)
            await asyncio.sleep(0.01)
        # What a socket holds, and what may be read at once and within a second.
        assert written < 512 * 1024
        assert time.process_time() - cpu < 0.3


async def test_a_descriptor_that_is_passed_along_ends_the_listening_and_nothing_else() -> None:
    ours, theirs = socket.socketpair()
    logged: list[str] = []
    words = LastWords(logged.append, ours)
    with theirs, socket.socket() as any_socket:
        theirs.send(b"one\n")
        await until(lambda: logged == ["one"])
        with contextlib.suppress(PermissionError):
            socket.send_fds(theirs, [b"two\n"], [any_socket.fileno()])
        await asyncio.sleep(0)
    await words.close()
    assert logged == ["one"]
