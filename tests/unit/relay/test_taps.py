"""Which of the kernel's sockets are served when (docs/protocol.md 1.4, `gateway.relay.pace`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from gateway.relay import pace
from gateway.relay.inbound import Inbound
from gateway.relay.loop import Loop
from gateway.relay.outbound import Outbound
from gateway.relay.outbox import Outbox
from gateway.relay.taps import Taps
from gateway.relay.writer import Writer

CHANNELS = ("control", "shell", "stdin", "iopub")


class Double:
    """All that taps ask of the parts around them; `served` tells which channels are watched."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watched: dict[Any, Callable[[], None]] = {}
        self.deadlines: dict[str, tuple[float, Callable[[], None]]] = {}
        #: How many messages the next taking brings.
        self.count = 1
        self.waiting = 0
        self.window = 1000
        self.unsent = 0
        self.sockets: Any = None

    # the loop
    def watch(self, source: object, handler: Callable[[], None]) -> None:
        self.watched[source] = handler

    def ignore(self, source: object) -> None:
        self.watched.pop(source, None)

    def at(self, name: str, deadline: float, handler: Callable[[], None]) -> None:
        self.deadlines[name] = (deadline, handler)

    def cancel(self, name: str) -> None:
        self.deadlines.pop(name, None)

    # the rest
    def take(self, channel: str, socket: object) -> int:
        return self.count

    def backlog(self) -> int:
        return self.waiting

    def flush(self) -> bool:
        return False

    def served(self) -> set[str]:
        return {name for name, socket in self.sockets.by_channel.items() if socket in self.watched}

    def bring(self, count: int) -> None:
        """Something comes on iopub."""
        self.count = count
        self.watched[self.sockets.by_channel["iopub"]]()


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def taps(double: Double, tmp_path: Path) -> Iterator[Taps]:
    taps = Taps(
        cast(Loop, double),
        cast(Inbound, double),
        cast(Outbound, double),
        cast(Outbox, double),
        cast(Writer, double),
    )
    taps.connect({name: f"ipc://{tmp_path}/{name}" for name in CHANNELS}, "")
    taps.serving = True
    yield taps
    taps.disconnect()
    cast("zmq.Context[Any]", taps._context).destroy(linger=0)


def test_a_stream_gathers_for_5_ms_and_is_served_again(double: Double, taps: Taps) -> None:
    double.bring(pace.HOT - 1)
    assert double.served() == set(CHANNELS)
    double.bring(1)
    assert double.served() == {"control", "shell", "stdin"}
    until, gathered = double.deadlines["gather"]
    assert until == double.now + 0.005
    gathered()
    assert double.served() == set(CHANNELS)


def test_a_kernel_that_boots_or_has_ended_is_served_at_once(double: Double, taps: Taps) -> None:
    taps.serving = False
    double.bring(pace.HOT)
    assert double.served() == set(CHANNELS)
    assert "gather" not in double.deadlines


def test_for_a_slow_client_only_control_is_served_also_after_a_stream_has_gathered(
    double: Double, taps: Taps
) -> None:
    double.bring(pace.HOT)
    double.waiting = double.window + 1
    taps.settle()
    assert double.served() == {"control"}
    double.deadlines["gather"][1]()
    assert double.served() == {"control"}
    double.waiting = double.window // 2
    taps.settle()
    assert double.served() == set(CHANNELS)


def test_what_a_kernel_that_has_ended_sent_before_is_taken_however_slow_the_clients_are(
    double: Double, taps: Taps
) -> None:
    double.waiting = double.window + 1
    taps.settle()
    taps.drain()
    assert double.served() == set(CHANNELS)
    taps.settle()
    double.bring(pace.HOT)
    assert double.served() == set(CHANNELS)
