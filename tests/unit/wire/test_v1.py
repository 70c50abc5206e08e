"""The layout of `v1.kernel.websocket.jupyter.org`, against jupyter_server's own codec and hostile senders."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)

from gateway.wire import v1
from gateway.wire.v1 import (
    MessageError,
    OffsetError,
    PartCountError,
    TruncatedMessageError,
    UnknownChannelError,
)

channels = st.sampled_from(v1.CHANNELS)
parts = st.lists(st.binary(max_size=40), min_size=v1.JSON_PARTS, max_size=9)

PLAIN = v1.join("iopub", [b"{}"] * v1.JSON_PARTS)


def words(data: bytes, count: int = 7) -> list[int]:
    return list(struct.unpack_from(f"<{count}Q", data))


def with_word(index: int, value: int) -> bytes:
    """`PLAIN` with one word of its table replaced: 0 is the count, then come the offsets."""
    data = bytearray(PLAIN)
    struct.pack_into("<Q", data, 8 * index, value)
    return bytes(data)


@given(channels, parts)
def test_what_is_packed_is_unpacked(channel: str, sent: list[bytes]) -> None:
    data = v1.join(channel, sent)
    assert v1.unpack(data) == (channel, sent)
    assert v1.check(data) == channel


@given(channels, parts)
def test_the_chunks_are_the_message_and_hold_the_parts_themselves(channel: str, sent: list[bytes]) -> None:
    chunks = v1.pack(channel, sent)
    assert b"".join(chunks) == v1.join(channel, sent)
    assert all(mine is theirs for mine, theirs in zip(chunks[1:], sent, strict=True))


@given(channels, parts)
def test_jupyter_server_reads_and_writes_the_same_bytes(channel: str, sent: list[bytes]) -> None:
    data = v1.join(channel, sent)
    assert data == serialize_msg_to_ws_v1(sent, channel)
    assert deserialize_msg_from_ws_v1(data) == (channel, sent)


@given(channels, parts)
def test_every_truncation_is_a_named_error(channel: str, sent: list[bytes]) -> None:
    data = v1.join(channel, sent)
    for size in range(len(data)):
        with pytest.raises(MessageError):
            v1.unpack(data[:size])


@given(channels, parts, st.binary(min_size=1, max_size=9))
def test_trailing_bytes_are_a_named_error(channel: str, sent: list[bytes], trailing: bytes) -> None:
    with pytest.raises(OffsetError):
        v1.unpack(v1.join(channel, sent) + trailing)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_named_error(data: bytes) -> None:
    outcomes = [_outcome(read, data) for read in (v1.unpack, v1.check)]
    assert outcomes[0] == outcomes[1]


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 120), min_size=7, max_size=20), st.binary())
def test_any_table_is_a_message_or_a_named_error(table: list[int], rest: bytes) -> None:
    table[0] = len(table) - 1
    data = struct.pack(f"<{len(table)}Q", *table) + rest
    if _outcome(v1.unpack, data) is None:
        channel, found = v1.unpack(data)
        assert v1.join(channel, found) == data


def _outcome(read: Callable[[bytes], object], data: bytes) -> type[MessageError] | None:
    try:
        read(data)
    except MessageError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", TruncatedMessageError, id="nothing"),
        pytest.param(b"\6" + bytes(6), TruncatedMessageError, id="seven bytes of the count"),
        pytest.param(bytes(8), PartCountError, id="a count of zero"),
        pytest.param(with_word(0, 5), PartCountError, id="one part too few"),
        pytest.param(with_word(0, 2**64 - 1), PartCountError, id="the largest count"),
        pytest.param(with_word(0, 2**61), PartCountError, id="a count whose table wraps around 64 bits"),
        pytest.param(with_word(0, v1.MAX_PARTS + 2), TruncatedMessageError, id="the largest count allowed"),
        pytest.param(with_word(0, v1.MAX_PARTS + 3), PartCountError, id="one part more than allowed"),
        pytest.param(PLAIN[:55], TruncatedMessageError, id="a table without its last byte"),
        pytest.param(with_word(1, 55), OffsetError, id="a channel that starts within the table"),
        pytest.param(with_word(1, 57), OffsetError, id="a byte between the table and the channel"),
        pytest.param(with_word(3, words(PLAIN)[2] - 1), OffsetError, id="a part that ends before it starts"),
        pytest.param(with_word(3, len(PLAIN) + 1), OffsetError, id="a part that ends outside"),
        pytest.param(with_word(3, 2**64 - 1), OffsetError, id="the largest offset"),
        pytest.param(with_word(6, len(PLAIN) - 1), OffsetError, id="an end before the last byte"),
        pytest.param(with_word(6, len(PLAIN) + 1), OffsetError, id="an end behind the last byte"),
        pytest.param(PLAIN + b"x", OffsetError, id="a byte behind the end"),
        pytest.param(PLAIN.replace(b"iopub", b"iopuB"), UnknownChannelError, id="a channel no kernel has"),
        pytest.param(PLAIN.replace(b"iopub", b"\xff" * 5), UnknownChannelError, id="a channel not in UTF-8"),
        pytest.param(with_word(2, 56), UnknownChannelError, id="a channel without a name"),
    ],
)
def test_each_fault_has_its_name(data: bytes, error: type[MessageError]) -> None:
    for read in (v1.unpack, v1.check):
        with pytest.raises(MessageError) as caught:
            read(data)
        assert type(caught.value) is error


def test_parts_are_counted_on_both_sides_of_the_limit() -> None:
    data = v1.join("shell", [b""] * 10)
    assert len(v1.unpack(data, max_parts=10).parts) == 10
    with pytest.raises(PartCountError):
        v1.unpack(data, max_parts=9)


@pytest.mark.parametrize(
    ("channel", "sent"),
    [
        pytest.param("hb", [b"{}"] * 4, id="the heartbeat is no channel of a client"),
        pytest.param("shell", [b"{}"] * 3, id="a part too few"),
    ],
)
def test_our_own_mistakes_are_value_errors(channel: str, sent: Sequence[bytes]) -> None:
    with pytest.raises(ValueError, match=r"channel|parts"):
        v1.pack(channel, sent)
