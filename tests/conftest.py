"""Loads pytest-tornado behind the shim that its last release (0.8.1) needs today.

Its plugin imports `pkg_resources`, which setuptools no longer has from 82 on, only to compare versions;
and its `io_loop` fixture calls `IOLoop.make_current`, which Tornado has deprecated. The entry point
is therefore switched off (`-p no:tornado`), a stand-in for `pkg_resources` with the one name it uses is
put in its place, and `io_loop` is replaced. The rest of the plugin is used as it is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import types
from collections.abc import Iterator

import pytest
import tornado.ioloop
from packaging.version import Version

if "pkg_resources" not in sys.modules:
    stand_in = types.ModuleType("pkg_resources")
    stand_in.parse_version = Version  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in

# Seconds that a test may take which says nothing of it: its own 5 are little where all processors are busy.
os.environ.setdefault("ASYNC_TEST_TIMEOUT", "60")

pytest_plugins = ["pytest_tornado.plugin", "tests.support.platforms"]


def pytest_configure() -> None:
    """Have SIGTERM end a run as Ctrl-C does, which takes down what tests share: gateways, browsers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture
def io_loop() -> Iterator[tornado.ioloop.IOLoop]:
    """A Tornado loop of the test's own; a task that does not end within a second after the test fails it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    io = tornado.ioloop.IOLoop.current()
    yield io
    left = asyncio.all_tasks(loop)
    if left:
        _, left = loop.run_until_complete(asyncio.wait(left, timeout=1))
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    asyncio.set_event_loop(None)
    io.close(all_fds=True)
    assert not left, "the test left tasks running"
