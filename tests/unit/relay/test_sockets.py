"""The ZMQ sockets towards a kernel, over ipc in one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from gateway.relay.sockets import DELIMITER, SEND_QUEUE, Sockets, receive, receive_published
from gateway.wire import v1

HONEST = [b"topic", DELIMITER, b"sig", b'{"h":1}', b"{}", b"{}", b'{"c":1}']
BARE = HONEST[1:]
WITH_BUFFERS = [*HONEST, b"b1", b""]


class Kernel:
    """The kernel's end of shell and iopub."""

    def __init__(self, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        endpoints = {name: f"ipc://{folder}/{name}" for name in ("shell", "control", "stdin", "iopub")}
        self.iopub = self.context.socket(zmq.XPUB)
        self.iopub.bind(endpoints["iopub"])
        self.shell = self.context.socket(zmq.ROUTER)
        self.shell.setsockopt(zmq.RCVHWM, 10)
        self.shell.bind(endpoints["shell"])
        self.sockets = Sockets(self.context, endpoints, "")
        assert self.iopub.recv() == b"\x01", "the subscription to everything"

    def published(self) -> list[list[bytes] | None]:
        """What `receive_published` makes of what comes, until nothing more does."""
        found: list[list[bytes] | None] = []
        socket = self.sockets.by_channel["iopub"]
        while socket.poll(100):
            found.append(receive_published(socket))
        return found

    def close(self) -> None:
        self.sockets.close()
        self.context.destroy(linger=0)


@pytest.fixture
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("k"))
    yield kernel
    kernel.close()


def test_a_flood_waits_in_full_for_a_relay_that_is_busy(kernel: Kernel) -> None:
    """The publisher has ZMQ's default bound of 1000, beyond which it drops what its reader does not take."""
    count = 20_000
    for number in range(count):
        kernel.iopub.send_multipart([*HONEST[:-1], b"%d" % number])
        if number % 200 == 0:
            time.sleep(0.002)  # a kernel is never so fast that the reader's thread gets no turn
    found = [message[3] for message in kernel.published() if message is not None]
    assert found == [b"%d" % number for number in range(count)]


SHORT = [
    [b"x"],
    [DELIMITER],
    [b"topic", DELIMITER],
    [DELIMITER, DELIMITER, DELIMITER],
    [b"topic", DELIMITER, b"sig"],
    HONEST[:4],
    HONEST[:5],
    HONEST[:6],
    [b"a", b"b", b"c", DELIMITER],
    [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"],
]


@pytest.mark.parametrize("honest", [HONEST, BARE, WITH_BUFFERS], ids=["plain", "without topic", "buffers"])
@pytest.mark.parametrize("short", SHORT)
def test_a_message_behind_one_that_is_none_is_found(
    kernel: Kernel, short: list[bytes], honest: list[bytes]
) -> None:
    for frames in (short, honest, honest):
        kernel.iopub.send_multipart(frames)
    # All three are there before the first is read.
    time.sleep(0.05)
    parts = honest[honest.index(DELIMITER) + 2 :]
    assert [found for found in kernel.published() if found is not None] == [parts, parts]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(SHORT[:8], repeat=2)))
def test_what_is_no_message_never_becomes_one_with_too_few_parts(
    kernel: Kernel, first: list[bytes], second: list[bytes]
) -> None:
    for frames in (first, second):
        kernel.iopub.send_multipart(frames)
    assert all(found is None or len(found) >= v1.JSON_PARTS for found in kernel.published())


def test_what_is_published_has_its_buffers(kernel: Kernel) -> None:
    kernel.iopub.send_multipart(WITH_BUFFERS)
    assert kernel.published() == [WITH_BUFFERS[3:]]


def test_a_request_is_sent_with_its_identity_and_a_reply_comes_back_with_it(kernel: Kernel) -> None:
    assert kernel.sockets.send("shell", b"7", [b"h", b"p", b"m", b"c", b"buffer"])
    peer, *frames = kernel.shell.recv_multipart()
    assert frames == [b"7", DELIMITER, b"", b"h", b"p", b"m", b"c", b"buffer"]
    kernel.shell.send_multipart([peer, b"7", DELIMITER, b"sig", b"h", b"p", b"m", b"c"])
    socket = kernel.sockets.by_channel["shell"]
    assert socket.poll(5000)
    assert receive(socket) == ([b"7"], [b"h", b"p", b"m", b"c"])


def test_a_kernel_that_takes_nothing_is_sent_a_bounded_number(kernel: Kernel) -> None:
    sent = 0
    deadline = time.monotonic() + 5
    large = b"x" * 100_000
    while time.monotonic() < deadline and sent < 1000:
        if kernel.sockets.send("shell", b"1", [b"h", b"p", b"m", large]):
            sent += 1
            deadline = time.monotonic() + 0.3
    assert SEND_QUEUE <= sent < 200
