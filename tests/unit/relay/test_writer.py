"""Nonblocking writing of what waits."""

from __future__ import annotations

import os
import socket

import pytest

from gateway.relay.writer import Writer


def test_what_the_transport_does_not_take_waits_and_arrives_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = Writer()
        writer.attach(ours.fileno())
        chunks = [os.urandom(size) for size in (0, 1, 3_000_000, 17, 100_000)] + [
            b"%d," % n for n in range(2000)
        ]
        for chunk in chunks:
            writer.write(chunk)
        expected = b"".join(chunks)
        assert writer.unsent == len(expected)
        assert writer.flush(), "more than a socket's buffer cannot go at once"
        received = bytearray()
        while len(received) < len(expected):
            received += theirs.recv(65536)
            writer.flush()
        assert bytes(received) == expected
        assert writer.unsent == 0
        assert not writer.flush()


def test_a_reader_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        writer = Writer()
        writer.attach(ours.fileno())
        writer.write(b"x")
        with pytest.raises(OSError, match="Broken pipe"):
            writer.flush()
