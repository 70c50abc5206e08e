"""The framing of a link (docs/protocol.md, 1.1): whole, cut at every byte, and broken."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import framing
from gateway.wire.framing import (
    Frame,
    FrameDecoder,
    FrameTooLargeError,
    FrameTooShortError,
    FramingError,
    Kind,
    TruncatedStreamError,
    UnknownKindError,
)

MAX_MESSAGE = 1000


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(Kind))
    route = draw(st.integers(0, framing.MAX_ROUTE))
    sequence = draw(st.integers(1, 2**64 - 1)) if kind in framing.SEQUENCED else 0
    return Frame(kind, route, draw(st.binary(max_size=MAX_MESSAGE)), sequence)


def encoded(frame: Frame) -> bytes:
    return framing.encode(frame.kind, frame.route, frame.payload, frame.sequence)


def raw(code: int, length: int, route: int = 0) -> bytes:
    """A header that says what it likes."""
    return struct.pack("<II", length, code | route << 8)


@given(st.lists(frames(), max_size=5))
def test_what_is_encoded_is_decoded(sent: list[Frame]) -> None:
    decoder = FrameDecoder(MAX_MESSAGE)
    assert decoder.feed(b"".join(map(encoded, sent))) == sent
    decoder.end()


@given(frames(), frames())
def test_a_stream_may_be_cut_anywhere(first: Frame, second: Frame) -> None:
    stream = encoded(first) + encoded(second)
    for cut in range(len(stream) + 1):
        decoder = FrameDecoder(MAX_MESSAGE)
        assert [*decoder.feed(stream[:cut]), *decoder.feed(stream[cut:])] == [first, second]
        decoder.end()


@given(st.lists(frames(), max_size=5))
def test_a_stream_may_come_byte_by_byte(sent: list[Frame]) -> None:
    decoder = FrameDecoder(MAX_MESSAGE)
    stream = b"".join(map(encoded, sent))
    assert [frame for i in range(len(stream)) for frame in decoder.feed(stream[i : i + 1])] == sent


@given(frames(), st.data())
def test_a_stream_that_ends_within_a_frame_is_truncated(frame: Frame, data: st.DataObject) -> None:
    stream = encoded(frame)
    decoder = FrameDecoder(MAX_MESSAGE)
    assert decoder.feed(stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    with pytest.raises(TruncatedStreamError):
        decoder.end()


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes_are_frames_or_a_named_error(chunks: list[bytes]) -> None:
    decoder = FrameDecoder(MAX_MESSAGE)
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert isinstance(frame.kind, Kind)
                assert 0 <= frame.route <= framing.MAX_ROUTE
        decoder.end()
    except FramingError:
        pass


@pytest.mark.parametrize(
    ("code", "length", "error"),
    [
        pytest.param(0, 0, UnknownKindError, id="the kind below the first"),
        pytest.param(max(Kind) + 1, 0, UnknownKindError, id="the kind above the last"),
        pytest.param(0xFF, 0xFFFFFFFF, UnknownKindError, id="the largest of everything"),
        pytest.param(Kind.MESSAGE, MAX_MESSAGE + 9, FrameTooLargeError, id="a message one byte too large"),
        pytest.param(Kind.MESSAGE, 7, FrameTooShortError, id="no room for a sequence number"),
        pytest.param(
            Kind.LOG, framing.MAX_SMALL_PAYLOAD + 1, FrameTooLargeError, id="another, one too large"
        ),
        pytest.param(Kind.HELLO, 0xFFFFFFFF, FrameTooLargeError, id="the largest length"),
    ],
)
def test_a_header_is_judged_before_its_payload_comes(
    code: int, length: int, error: type[FramingError]
) -> None:
    decoder = FrameDecoder(MAX_MESSAGE)
    assert decoder.feed(raw(code, length)[:-1]) == []
    with pytest.raises(error):
        decoder.feed(raw(code, length)[-1:])


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Kind.MESSAGE, MAX_MESSAGE), (Kind.MESSAGE, 0), (Kind.LOG, framing.MAX_SMALL_PAYLOAD), (Kind.CLOSE, 0)],
)
def test_a_payload_may_be_as_large_as_its_bound(kind: Kind, size: int) -> None:
    sequence = 1 if kind in framing.SEQUENCED else 0
    frame = Frame(kind, 0, bytes(size), sequence)
    assert FrameDecoder(MAX_MESSAGE).feed(encoded(frame)) == [frame]


def test_a_decoder_that_has_failed_stays_failed() -> None:
    decoder = FrameDecoder()
    with pytest.raises(UnknownKindError):
        decoder.feed(framing.encode(Kind.CLOSE, 1) + raw(0, 0))
    with pytest.raises(FramingError):
        decoder.feed(framing.encode(Kind.CLOSE, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((Kind.OPEN, -1, 0), id="a negative route"),
        pytest.param((Kind.OPEN, framing.MAX_ROUTE + 1, 0), id="a route of 25 bits"),
        pytest.param((Kind.MESSAGE, 0, 0, 0), id="a message without a number"),
        pytest.param((Kind.CLOSE, 0, 0, 1), id="a number where none belongs"),
        pytest.param((Kind.MESSAGE, 0, 2**32 - 8, 1), id="a message of 4 GiB"),
    ],
)
def test_our_own_mistakes_are_value_errors(arguments: tuple[Kind, int, int]) -> None:
    with pytest.raises(ValueError, match=r"route|sequence|length"):
        framing.encode_header(*arguments)
