"""The relay's half of the proof of isolation: an answer is noticed, and silence is waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.relay.loop import Loop
from gateway.relay.proof import QUIET, Proof


def prove(canary: object) -> tuple[str, float]:
    """What the proof came to, and how many seconds it took."""
    loop = Loop(lambda: None)
    said: list[str] = []

    def done(error: str) -> None:
        said.append(error)
        loop.stop()

    began = time.monotonic()
    Proof(loop, canary, done)
    loop.run()
    assert len(said) == 1
    return said[0], time.monotonic() - began


@contextlib.contextmanager
def listener(family: socket.AddressFamily = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.create_server(
        ("::1" if family is socket.AF_INET6 else "127.0.0.1", 0), family=family
    ) as server:
        yield server


def test_a_canary_that_answers_is_no_isolation() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        said, _ = prove({"addresses": ["127.0.0.1"], "port": port, "within": 0.3})
    assert f"it could reach the canary at 127.0.0.1, port {port}" in said


def test_one_family_that_answers_is_enough() -> None:
    with listener(socket.AF_INET6) as server:
        port = server.getsockname()[1]
        said, _ = prove({"addresses": ["127.0.0.1", "::1"], "port": port, "within": 0.3})
    assert "::1" in said


def test_silence_is_isolation_and_takes_as_long_as_it_has_to() -> None:
    with listener() as server:
        port = server.getsockname()[1]
    said, took = prove({"addresses": ["127.0.0.1"], "port": port, "within": 5})
    assert said == ""
    assert QUIET <= took < QUIET + 2


def test_a_policy_that_binds_late_is_waited_for_within_its_time() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        threading.Timer(0.7, server.close).start()
        said, took = prove({"addresses": ["127.0.0.1"], "port": port, "within": 5})
    assert said == ""
    # The last attempt that got through was one or two before the end of the listener.
    assert took >= 0.5 + QUIET


def test_an_address_that_drops_everything_is_silent() -> None:
    """One that nothing answers for: a full backlog takes no connection."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        with contextlib.ExitStack() as fillers:
            for _ in range(3):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            time.sleep(0.1)
            said, took = prove({"addresses": ["127.0.0.1"], "port": port, "within": 5})
    assert said == ""
    assert took < QUIET + 2


@pytest.mark.parametrize(
    "canary",
    [
        None,
        {},
        {"addresses": [], "port": 1, "within": 1},
        {"addresses": "127.0.0.1", "port": 1, "within": 1},
        {"addresses": ["127.0.0.1"], "port": 0, "within": 1},
        {"addresses": ["127.0.0.1"], "port": 1},
    ],
)
def test_a_canary_that_is_none_is_an_error(canary: object) -> None:
    with pytest.raises(ValueError, match="'canary' must have"):
        Proof(Loop(lambda: None), canary, lambda _: None)


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with listener() as server:
        prove({"addresses": ["127.0.0.1"], "port": server.getsockname()[1], "within": 0.2})
    assert len(os.listdir("/proc/self/fd")) == before
