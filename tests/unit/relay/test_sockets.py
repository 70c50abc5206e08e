"""The ZMQ sockets towards a kernel, over ipc in one process."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from gateway.relay.sockets import DELIMITER, SEND_QUEUE, Sockets, receive, receive_published
from gateway.wire import v1

#: Seconds after which a test gives up; a busy machine may take a while.
DEADLINE = 30

CHANNELS = ("shell", "control", "stdin", "iopub")
Factory = pytest.TempPathFactory

HONEST = [b"topic", DELIMITER, b"sig", b'{"h":1}', b"{}", b"{}", b'{"c":1}']
BARE = HONEST[1:]
WITH_BUFFERS = [*HONEST, b"b1", b""]


class Kernel:
    """The kernel's end of shell and iopub."""

    def __init__(self, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        endpoints = {name: f"ipc://{folder}/{name}" for name in CHANNELS}
        self.iopub = self.context.socket(zmq.XPUB)
        # Where a kernel's would drop what its reader does not take, this one waits, and fails in the end.
        self.iopub.setsockopt(zmq.XPUB_NODROP, 1)
        self.iopub.setsockopt(zmq.SNDTIMEO, DEADLINE * 1000)
        self.iopub.bind(endpoints["iopub"])
        self.shell = self.context.socket(zmq.ROUTER)
        self.shell.setsockopt(zmq.RCVHWM, 10)
        self.shell.bind(endpoints["shell"])
        self.sockets = Sockets(self.context, endpoints, "")
        assert self.iopub.recv() == b"\x01", "the subscription to everything"

    def published(self, count: int) -> list[list[bytes] | None]:
        """What `receive_published` makes of what comes, until `count` of it are messages."""
        found: list[list[bytes] | None] = []
        socket = self.sockets.by_channel["iopub"]
        while len(found) - found.count(None) < count:
            assert socket.poll(DEADLINE * 1000), f"nothing comes behind {found[-3:]}"
            found.append(receive_published(socket))
        return found

    def has_published(self) -> None:
        """Wait until ZMQ's thread, which does one thing after the other, has brought what was published."""
        assert self.sockets.send("shell", b"1", [b"h", b"p", b"m", b"c"])
        self.shell.recv_multipart()

    def close(self) -> None:
        self.sockets.close()
        self.context.destroy(linger=0)


@pytest.fixture
def kernel(tmp_path_factory: Factory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("k"))
    yield kernel
    kernel.close()


def test_a_flood_waits_in_full_for_a_relay_that_is_busy(kernel: Kernel) -> None:
    """Either end has a bound of 1000 messages by default; a reader that kept to its own would stop this."""
    count = 20_000
    for number in range(count):
        kernel.iopub.send_multipart([*HONEST[:-1], b"%d" % number])
    found = [message[3] for message in kernel.published(count) if message is not None]
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
    kernel.has_published()
    parts = honest[honest.index(DELIMITER) + 2 :]
    assert [found for found in kernel.published(2) if found is not None] == [parts, parts]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(SHORT[:8], repeat=2)))
def test_what_is_no_message_never_becomes_one_with_too_few_parts(
    kernel: Kernel, first: list[bytes], second: list[bytes]
) -> None:
    for frames in (first, second, HONEST):
        kernel.iopub.send_multipart(frames)
    kernel.has_published()
    found = kernel.published(1)
    while found[-1] != HONEST[3:]:
        found += kernel.published(1)
    assert all(each is None or len(each) >= v1.JSON_PARTS for each in found)


def test_what_is_published_has_its_buffers(kernel: Kernel) -> None:
    kernel.iopub.send_multipart(WITH_BUFFERS)
    assert kernel.published(1) == [WITH_BUFFERS[3:]]


def test_a_kernel_that_is_gone_is_known_to_be_once_all_that_it_sent_has_come(kernel: Kernel) -> None:
    assert kernel.sockets.is_connected()
    count = 5000
    for number in range(count):
        kernel.iopub.send_multipart([*HONEST[:-1], b"%d" % number])
    kernel.iopub.close(linger=DEADLINE * 1000)
    kernel.shell.close(linger=0)
    deadline = time.monotonic() + DEADLINE
    while kernel.sockets.is_connected():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    iopub = kernel.sockets.by_channel["iopub"]
    for _ in range(count):
        assert receive(iopub), "something was still on the way"
    assert not iopub.poll(0)


def test_one_kernel_after_the_other_is_heard_whenever_the_last_one_ends(tmp_path_factory: Factory) -> None:
    """ZMQ tells of a connection's end just when the sockets are closed that it tells of."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for _ in range(100):
        folder = tmp_path_factory.mktemp("k")
        theirs: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        endpoints = {name: f"ipc://{folder}/{name}" for name in CHANNELS}
        bound = {name: theirs.socket(zmq.XPUB if name == "iopub" else zmq.ROUTER) for name in CHANNELS}
        for name in CHANNELS:
            bound[name].bind(endpoints[name])
        sockets = Sockets(context, endpoints, "")
        assert bound["iopub"].poll(DEADLINE * 1000), "the subscription does not come"
        theirs.destroy(linger=0)
        sockets.close()
    context.destroy(linger=0)


def test_a_kernel_that_hangs_up_again_and_again_holds_nobody_up(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "shell"))
        listener.listen()
        listener.settimeout(DEADLINE)
        sockets = Sockets(context, {name: f"ipc://{tmp_path}/{name}" for name in CHANNELS}, "")
        # A monitor's queue has room for 2000 events by default, and each time makes two.
        for _ in range(1500):
            listener.accept()[0].close()
    assert isinstance(sockets.is_connected(), bool)
    sockets.close()
    context.destroy(linger=0)


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
