"""The link's framing: bytes in, frames out, no I/O (the wire's version is `VERSION`).

A frame is::

    u32 length | u8 kind | u24 route | payload (length bytes)

in little-endian order. Kinds in `SEQUENCED` start their payload with a u64 sequence number. It
counts those frames per direction from 1, without gaps, over the whole life of the relay: a link
that reconnects goes on where the last one ended, which is what makes resuming possible.

The theory of reading: a peer is hostile. A header is judged the moment its eight bytes are there,
so that nothing is buffered for a frame that will be refused, and no number from the wire sizes a
loop or an allocation. `FrameDecoder.feed` returns frames or raises a `FramingError`; any other
exception is a bug in this module. After an error the decoder is spent: framing cannot be found
again in a broken stream.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

VERSION = 1

HEADER = struct.Struct("<II")
SEQUENCE = struct.Struct("<Q")

MAX_ROUTE = (1 << 24) - 1
_MAX_LENGTH = (1 << 32) - 1
#: Route 0 belongs to the link: control frames, and messages that go to every open route.
BROADCAST = 0

#: Bytes that a frame other than MESSAGE may carry. They are small and some are parsed as JSON.
MAX_SMALL_PAYLOAD = 256 * 1024
#: Default for the bytes of one MESSAGE, sequence number excluded.
DEFAULT_MAX_MESSAGE = 256 * 1024 * 1024


class Kind(enum.IntEnum):
    """What a frame is. `docs/protocol.md` gives each payload and who sends it."""

    HELLO = 1
    MESSAGE = 2
    OPEN = 3
    OPENED = 4
    CLOSE = 5
    ACK = 6
    STATE = 7
    CONTROL = 8
    DIED = 9
    DONE = 10
    LOG = 11
    PING = 12
    PONG = 13
    OUTSTANDING = 14


#: Kinds that must not be lost. They carry a sequence number and are acknowledged.
SEQUENCED = frozenset({Kind.MESSAGE})


class FramingError(Exception):
    """The stream broke the framing; the link that carried it must end."""


class UnknownKindError(FramingError):
    """A frame of a kind that this version does not define."""


class FrameTooLargeError(FramingError):
    """A header that announces more bytes than its kind may carry."""


class FrameTooShortError(FramingError):
    """A sequenced frame without room for its sequence number."""


class TruncatedStreamError(FramingError):
    """The stream ended inside a frame."""


class Frame(NamedTuple):
    """One frame. `sequence` is 0 for the kinds that carry none."""

    kind: Kind
    route: int
    payload: bytes
    sequence: int = 0


def encode_header(kind: Kind, route: int, length: int, sequence: int = 0) -> bytes:
    """The bytes that precede a payload of `length` bytes.

    Raises `ValueError` for a route, length or sequence that the wire cannot carry: the caller is
    ours, so that is a bug and not a peer's doing.
    """
    if not 0 <= route <= MAX_ROUTE:
        raise ValueError(f"route {route} does not fit into 24 bits")
    if not 0 <= length <= _MAX_LENGTH - SEQUENCE.size:
        raise ValueError(f"a payload of length {length} does not fit into one frame")
    if kind in SEQUENCED:
        if sequence < 1:
            raise ValueError(f"a {kind.name} frame needs a sequence number from 1")
        return HEADER.pack(length + SEQUENCE.size, kind | route << 8) + SEQUENCE.pack(sequence)
    if sequence:
        raise ValueError(f"a {kind.name} frame carries no sequence number")
    return HEADER.pack(length, kind | route << 8)


def encode(kind: Kind, route: int = BROADCAST, payload: bytes = b"", sequence: int = 0) -> bytes:
    """One whole frame as bytes."""
    return encode_header(kind, route, len(payload), sequence) + payload


class FrameDecoder:
    """Splits a stream into frames, however the stream is cut.

    `max_message` bounds the payload of a MESSAGE in bytes; other kinds are bound by
    `MAX_SMALL_PAYLOAD`. What is buffered never exceeds one such frame and its header plus the
    longest chunk that was fed.
    """

    def __init__(self, max_message: int = DEFAULT_MAX_MESSAGE) -> None:
        # By code, so that a frame costs one look-up: the kind, its largest length, and the bytes of its
        # sequence number.
        self._rules = {
            int(kind): (kind, max_message + SEQUENCE.size, SEQUENCE.size)
            if kind in SEQUENCED
            else (kind, MAX_SMALL_PAYLOAD, 0)
            for kind in Kind
        }
        self._buffer = bytearray()
        self._failed = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes, in order.

        Raises a `FramingError`; the frames that the same chunk had completed before the fault are
        dropped with it, because a peer that breaks the framing is not to be trusted.
        """
        if self._failed:
            raise FramingError("this stream has already failed")
        try:
            return self._decode(data)
        except FramingError:
            self._failed = True
            self._buffer.clear()
            raise

    def end(self) -> None:
        """Say that the stream has ended; raises `TruncatedStreamError` inside a frame."""
        if self._buffer:
            raise TruncatedStreamError(f"the stream ended {len(self._buffer)} bytes into a frame")

    def _decode(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        position, end = 0, len(buffer)
        view = memoryview(buffer)
        try:
            while end - position >= HEADER.size:
                length, tag = HEADER.unpack_from(buffer, position)
                rule = self._rules.get(tag & 0xFF)
                if rule is None:
                    raise UnknownKindError(f"frame kind {tag & 0xFF} is not known to version {VERSION}")
                kind, limit, numbered = rule
                if length > limit:
                    raise FrameTooLargeError(f"a {kind.name} frame of {length} bytes exceeds {limit}")
                if length < numbered:
                    raise FrameTooShortError(f"a {kind.name} frame of {length} bytes")
                start = position + HEADER.size
                stop = start + length
                if stop > end:
                    break
                sequence = SEQUENCE.unpack_from(buffer, start)[0] if numbered else 0
                frames.append(Frame(kind, tag >> 8, bytes(view[start + numbered : stop]), sequence))
                position = stop
        finally:
            view.release()
        if position:
            del buffer[:position]
        return frames
