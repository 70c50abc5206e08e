"""Nothing that the other end of a socket does makes the event loop wait, on Linux from 6.16 on and before."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from gateway.transport.base import TransportBrokenError
from gateway.transport.guarded import DescriptorPassedError, GuardedSocket
from gateway.transport.pipe import PipeTransport

pytestmark = pytest.mark.gen_test(timeout=30)

#: Seconds that closing the trap takes, and seconds that nothing here may take.
LINGER, SOON = 3, 1.0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is in the block does not take longer."""
    before = time.monotonic()
    yield
    assert time.monotonic() - before < seconds


@contextlib.contextmanager
def trap() -> Iterator[socket.socket]:
    """A socket the last close of which waits: its peer does not take what was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lingers = socket.create_connection(server.getsockname())
        with server.accept()[0] as peer:
            lingers.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    lingers.send(bytes(64 * 1024))
            lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
            yield lingers
            # Ends the wait of whoever fell for it.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        lingers.close()


def pass_along(child: socket.socket, passed: socket.socket, flags: int = 0) -> bool:
    """Send a descriptor and keep none; whether the system let it through."""
    rights = array.array("i", [passed.fileno()])
    try:
        child.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], flags)
    except PermissionError:
        return False
    passed.close()
    return True


@pytest.fixture(params=[True, False], ids=["refused", "looked for"])
def refuse(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest.fixture(params=[0, socket.MSG_OOB], ids=["in line", "out of band"])
def flags(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


async def test_receiving_does_not_wait_for_what_was_passed_along(refuse: bool, flags: int) -> None:
    with trap() as lingers:
        transport, child = PipeTransport.pair(refuse=refuse)
        with child:
            child.send(b"before")
            passed = pass_along(child, lingers, flags)
            child.send(b"behind")
            with within(SOON):
                received = b""
                with contextlib.suppress(TransportBrokenError):
                    while not received.endswith(b"behind"):
                        received += await transport.receive()
                assert received in ((b"", b"before") if passed else (b"beforebehind",))
                await transport.close()


async def test_closing_does_not_wait_for_what_was_passed_along(refuse: bool, flags: int) -> None:
    with trap() as lingers:
        transport, child = PipeTransport.pair(refuse=refuse)
        with child:
            child.send(b"before")
            pass_along(child, lingers, flags)
            with within(SOON):
                await transport.close()


async def test_closing_gives_back_what_was_passed_along() -> None:
    with trap() as lingers:
        before = descriptors()
        transport, child = PipeTransport.pair(refuse=False)
        with child:
            assert pass_along(child, lingers)
            await transport.close()
        assert descriptors() == before - 1


async def test_where_no_process_can_be_started_only_a_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with trap() as lingers:
        transport, child = PipeTransport.pair(refuse=False)
        with child:
            assert pass_along(child, lingers)
            monkeypatch.setattr("subprocess.Popen", none_left)
            closing = asyncio.create_task(transport.close())
            with within(SOON):
                for _ in range(20):
                    await asyncio.sleep(0.01)
    await closing


async def test_a_descriptor_is_refused_to_its_sender_or_told_of_again_and_again(refuse: bool) -> None:
    ours, theirs = socket.socketpair()
    guarded = GuardedSocket(ours, refuse=refuse)
    with theirs, socket.socket() as any_socket:
        if pass_along(theirs, any_socket):
            for _ in range(3):
                with pytest.raises(DescriptorPassedError):
                    guarded.receive(100)
        else:
            theirs.send(b"y")
            assert guarded.receive(100) == b"y"
    await guarded.close()


async def test_what_comes_before_a_descriptor_can_be_received(refuse: bool) -> None:
    ours, theirs = socket.socketpair()
    guarded = GuardedSocket(ours, refuse=refuse)
    with theirs, socket.socket() as any_socket:
        theirs.send(b"before")
        assert guarded.receive(100) == b"before"
        pass_along(theirs, any_socket)
    await guarded.close()


async def test_what_was_sent_is_received_as_it_was(refuse: bool) -> None:
    ours, theirs = socket.socketpair()
    guarded = GuardedSocket(ours, refuse=refuse)
    with theirs:
        with pytest.raises(BlockingIOError):
            guarded.receive(3)
        theirs.send(b"abc")
        theirs.send(b"def")
        theirs.send(b"!", socket.MSG_OOB)
        assert guarded.receive(2) == b"ab"
        received = b""
        while len(received) < 5:
            received += guarded.receive(100)
        assert received == b"cdef!"
        theirs.close()
        assert guarded.receive(3) == guarded.receive(3) == b""
    await guarded.close()
