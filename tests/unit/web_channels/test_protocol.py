"""Frames for a client: joined where they are small, uncopied where they are large, and always whole."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.protocol import (
    BINARY,
    JOINED,
    LARGE,
    SUBPROTOCOL,
    TEXT,
    Dialect,
    IgnoredError,
    RefusedError,
    Write,
    frame_header,
    gather,
)
from gateway.wire.messages import MessageError
from tests.unit.web_channels.serving import message

#: Payload's length -> its header, on both sides of each change of form (RFC 6455, 5.2).
HEADERS = {
    0: b"\x82\x00",
    125: b"\x82\x7d",
    126: b"\x82\x7e\x00\x7e",
    65_535: b"\x82\x7e\xff\xff",
    65_536: b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    1 << 32: b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00",
}


@pytest.mark.parametrize("length", HEADERS)
def test_a_header_has_the_shortest_form_that_holds_its_length(length: int):
    assert frame_header(BINARY, length) == HEADERS[length]


def test_a_header_says_whether_its_payload_is_text():
    assert frame_header(TEXT, 1) == b"\x81\x01"


def whole(payload: bytes) -> tuple[int, bytes]:
    return BINARY, payload


def fail(error: MessageError) -> None:
    raise AssertionError(error)


def payloads(data: bytes) -> list[bytes]:
    """What a client reads of a stream of frames."""
    found = []
    position = 0
    while position < len(data):
        length = data[position + 1]
        position += 2
        if length >= 126:
            form = "!H" if length == 126 else "!Q"
            (length,) = struct.unpack_from(form, data, position)
            position += struct.calcsize(form)
        found.append(data[position : position + length])
        position += length
    return found


SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from([125, 126, LARGE - 1, LARGE, LARGE + 1, 65_535, 65_536, JOINED])
)


@given(st.lists(SIZES, max_size=30))
def test_every_message_is_in_one_write_and_each_write_is_whole_frames(sizes: list[int]):
    batch = [(number, bytes([number]) * size) for number, size in enumerate(sizes, 1)]
    writes = list(gather(batch.copy(), whole, fail))
    seen: list[bytes] = []
    for write in writes:
        told = payloads(b"".join(write.pieces))
        seen += told
        assert len(told) == write.messages
        assert sum(map(len, told)) == write.size
        assert write.sequence == len(seen)
        assert len(write.pieces[0]) < JOINED + LARGE + 100
    assert seen == [payload for _, payload in batch]


def test_a_large_payload_is_handed_on_as_it_is():
    small, large = b"s" * LARGE, b"l" * (LARGE + 1)
    (write,) = gather([(1, small), (2, large)], whole, fail)
    assert write.pieces[1] is large
    assert write == Write(2, 2, len(small + large), (write.pieces[0], large))


def test_small_messages_are_joined_up_to_a_bound():
    batch = [(number, b"x" * 1024) for number in range(1, 1001)]
    writes = list(gather(batch, whole, fail))
    assert [write.messages for write in writes] == [256, 256, 256, 232]


def test_what_has_been_written_is_not_held_while_the_rest_waits():
    batch = [(number, b"x" * 1024) for number in range(1, 1001)]
    writes = gather(batch, whole, fail)
    for left in (744, 488, 232, 0):
        next(writes)
        assert len(batch) == left


def test_a_message_that_cannot_be_told_is_left_out_and_the_others_are_not():
    def encode(payload: bytes) -> tuple[int, bytes]:
        if payload == b"bad":
            raise MessageError("no message")
        return TEXT, payload

    errors: list[MessageError] = []
    writes = list(gather([(1, b"a"), (2, b"bad"), (3, b"c"), (4, b"bad")], encode, errors.append))
    assert writes == [Write(4, 2, 2, (b"\x81\x01a\x81\x01c",))]
    assert [str(error) for error in errors] == ["no message", "no message"]
    assert list(gather([(1, b"bad")], encode, errors.append)) == []


def dialect(negotiated: bool = True) -> Dialect:
    return Dialect(negotiated=negotiated, takes_binary=False, max_message=1000)


@pytest.mark.parametrize("negotiated", [True, False])
@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_a_client_may_send_v1_on_three_channels(channel: str, negotiated: bool):
    assert dialect(negotiated).decode(message(channel)) == message(channel)


def test_a_message_may_have_the_largest_size_and_no_byte_more():
    largest = message("shell", "m-1", b"x" * (1000 - len(message("shell", "m-1", b""))))
    assert len(largest) == 1000
    assert dialect().decode(largest) == largest
    with pytest.raises(RefusedError) as refused:
        dialect().decode(message("shell", "m-1", b"x" * 1000))
    assert refused.value.code == 1009


def test_a_refusal_fits_into_a_close_frame_whatever_the_codec_says(monkeypatch):
    def check(message: bytes) -> str:
        raise MessageError("é" * 1000)

    monkeypatch.setattr("gateway.wire.messages.check", check)
    with pytest.raises(RefusedError) as refused:
        dialect().decode(message())
    assert 100 < len(refused.value.reason.encode()) <= 123


@given(st.binary(max_size=200), st.booleans())
def test_whatever_a_client_sends_is_a_message_or_ignored_or_refused_with_a_code(data: bytes, v1: bool):
    for sent in (data, data.decode("latin-1")):
        assert outcome(dialect(v1), sent) in ("message", "ignored", 1003, 1007, 1009)


def outcome(client: Dialect, sent: str | bytes) -> str | int:
    try:
        client.decode(sent)
    except IgnoredError:
        return "ignored"
    except RefusedError as refused:
        return refused.code
    return "message"


def test_the_subprotocol_has_the_name_that_clients_offer():
    assert SUBPROTOCOL == "v1.kernel.websocket.jupyter.org"
