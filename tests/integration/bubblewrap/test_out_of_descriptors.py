"""A gateway that is out of descriptors ends what it has, and leaves nothing of what it cannot make."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from gateway.backends.base import BackendError, CapacityError
from tests.conformance.backend import traces
from tests.conformance.backend.visit import Visit, request
from tests.integration.bubblewrap.conftest import Started

pytestmark = pytest.mark.gen_test(timeout=120)


@contextlib.contextmanager
def only(count: int) -> Iterator[None]:
    """No descriptor with a number from `count` on can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def there_is() -> tuple[int, set[str]]:
    return traces.descriptors(), traces.descendants(os.getpid())


async def test_a_sandbox_can_be_destroyed_without_any(started: Started) -> None:
    async with started() as backend:
        await (await backend.create(request(backend))).destroy()
        before = there_is()
        sandbox = await backend.create(request(backend))
        visit = await Visit.start(sandbox, request(backend).argv)
        await visit.until(lambda: "here" in visit.lines)
        below = traces.descendants(os.getpid()) - before[1]
        with only(3):
            async with asyncio.timeout(traces.SOON):
                await sandbox.destroy()
                ending = await sandbox.wait()
        assert ending.reason == "it was deleted"
        assert not traces.alive(below)
        assert await backend.list() == []
        await visit.close()
        assert there_is() == before


async def test_a_life_ends_without_any(started: Started) -> None:
    async with started() as backend:
        before = traces.descendants(os.getpid())
        sandbox = await backend.create(request(backend, settings={"life": 1}))
        with only(3):
            assert (await sandbox.wait()).expired
        assert traces.descendants(os.getpid()) == before


@pytest.mark.parametrize(
    ("function", "calls_before"),
    [
        ("os.pipe", 0),
        ("os.pipe", 1),
        ("os.pipe", 2),
        ("os.memfd_create", 0),
        ("os.pidfd_open", 0),
        ("os.pidfd_open", 1),
        ("socket.socketpair", 0),
        ("socket.socketpair", 1),
    ],
)
async def test_a_create_that_fails_midway_says_so_and_leaves_nothing(
    started: Started, monkeypatch: pytest.MonkeyPatch, function: str, calls_before: int
) -> None:
    module, _, name = function.partition(".")
    where = {"os": os, "socket": socket}[module]
    real = getattr(where, name)
    left = calls_before

    def fails(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments, **named)

    async with started() as backend:
        await (await backend.create(request(backend))).destroy()
        before = there_is()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, fails)
            with pytest.raises(CapacityError, match="Too many open files"):
                await backend.create(request(backend))
        assert left < 0
        assert await backend.list() == []
        assert there_is() == before
        await (await backend.create(request(backend))).destroy()


async def test_however_few_there_are_a_create_succeeds_or_leaves_nothing(started: Started) -> None:
    async with started() as backend:
        await (await backend.create(request(backend))).destroy()
        before = there_is()
        outcomes = set()
        for count in range(before[0] - 2, before[0] + 24):
            sandbox = None
            with only(count):
                try:
                    sandbox = await backend.create(request(backend))
                except BackendError as error:
                    outcomes.add(type(error))
            if sandbox is not None:
                outcomes.add(None)
                await sandbox.destroy()
            assert there_is() == before
        assert outcomes == {CapacityError, None}
