"""Kernel messages in the layout of `v1.kernel.websocket.jupyter.org`: bytes in, parts out, no I/O.

A message is::

    u64 count | u64 offset, count times | channel | header | parent_header | metadata | content | buffers...

in little-endian order. Offsets count from the first byte of the message; the first one is where the channel's
name starts, the last one is the end of the message, and each part ends where the next one starts. So
`count` is two more than the number of parts. Source:
https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html

The theory of reading: the sender is hostile. A count is held against the limit and against the length of the
data before anything is sized by it; offsets must not step back, must start right behind themselves and
must end exactly where the data ends. What the parts contain is nobody's business here. Reading returns or
raises a `MessageError`; any other exception is a bug in this module.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

#: The kernel's sockets that a client hears of. The heartbeat stays inside the sandbox.
CHANNELS = ("shell", "control", "stdin", "iopub")

#: Parts that every message has: header, parent_header, metadata, content.
JSON_PARTS = 4
#: Parts of one message, buffers included. A widget library sends some thousands in its largest messages.
MAX_PARTS = 65_536

_WORD = struct.Struct("<Q")
#: Behind the count, one word for each part's start, and the channel's start and the end.
_EXTRA_OFFSETS = 2

#: Bytes of the smallest message: its table, a channel, and parts that are empty.
MIN_SIZE = _WORD.size * (1 + JSON_PARTS + _EXTRA_OFFSETS) + min(map(len, CHANNELS))

_NAMES = {channel: channel.encode() for channel in CHANNELS}
_CHANNELS = {name: channel for channel, name in _NAMES.items()}


class MessageError(Exception):
    """Bytes that are no kernel message in the layout they claim. The message says what is wrong."""


class TruncatedMessageError(MessageError):
    """The data ends before its table of offsets does."""


class PartCountError(MessageError):
    """Fewer parts than every message has, or more than are allowed."""


class OffsetError(MessageError):
    """An offset that steps back, lies outside or leaves bytes that belong to no part."""


class UnknownChannelError(MessageError):
    """A channel that no kernel has."""


class Message(NamedTuple):
    """One message: `parts` are header, parent_header, metadata, content and then the buffers."""

    channel: str
    parts: list[bytes]


def pack(channel: str, parts: Sequence[bytes]) -> list[bytes]:
    """The chunks that make up one message, the given parts among them uncopied, to be written in order.

    Raises `ValueError` for a channel or a number of parts that no message has: the caller is ours.
    """
    name = _NAMES.get(channel)
    if name is None:
        raise ValueError(f"there is no channel {channel!r}")
    if len(parts) < JSON_PARTS:
        raise ValueError(f"a message has at least {JSON_PARTS} parts, not {len(parts)}")
    count = len(parts) + _EXTRA_OFFSETS
    position = _WORD.size * (count + 1)
    words = [count, position]
    position += len(name)
    words.append(position)
    for part in parts:
        position += len(part)
        words.append(position)
    return [struct.pack(f"<{count + 1}Q", *words) + name, *parts]


def join(channel: str, parts: Sequence[bytes]) -> bytes:
    """As `pack`, in one piece."""
    return b"".join(pack(channel, parts))


def unpack(data: bytes, max_parts: int = MAX_PARTS) -> Message:
    """The channel and the parts of one message.

    Raises `TruncatedMessageError`, `PartCountError`, `OffsetError` or `UnknownChannelError`.
    """
    offsets = _offsets(data, max_parts)
    channel = _channel(data, offsets)
    parts = []
    start = offsets[1]
    for end in offsets[2:]:
        parts.append(data[start:end])
        start = end
    return Message(channel, parts)


def check(data: bytes, max_parts: int = MAX_PARTS) -> str:
    """The channel of one message, all of which is checked and none of which is copied. Raises as `unpack`."""
    return _channel(data, _offsets(data, max_parts))


def _offsets(data: bytes, max_parts: int) -> tuple[int, ...]:
    size = len(data)
    if size < _WORD.size:
        raise TruncatedMessageError(f"a message of {size} bytes has no room for its count of offsets")
    (count,) = _WORD.unpack_from(data)
    if not JSON_PARTS <= count - _EXTRA_OFFSETS <= max_parts:
        raise PartCountError(
            f"a message of {count - _EXTRA_OFFSETS} parts: {JSON_PARTS} to {max_parts} are allowed"
        )
    table_end = _WORD.size * (count + 1)
    if size < table_end:
        raise TruncatedMessageError(f"a message of {size} bytes ends within its {count} offsets")
    offsets = struct.unpack_from(f"<{count}Q", data, _WORD.size)
    if offsets[0] != table_end:
        raise OffsetError(f"the channel starts at {offsets[0]}, not behind the offsets at {table_end}")
    if offsets[-1] != size:
        raise OffsetError(f"the last part ends at {offsets[-1]}, the message at {size}")
    # In one pass of C where the order is right, as `sorted` leaves what is in order.
    if list(offsets) != sorted(offsets):
        raise OffsetError("a part ends before it starts")
    return offsets


def _channel(data: bytes, offsets: tuple[int, ...]) -> str:
    channel = _CHANNELS.get(data[offsets[0] : offsets[1]])
    if channel is None:
        # The name is not repeated: it may be as long as the message.
        raise UnknownChannelError(f"the channel is none of {', '.join(CHANNELS)}")
    return channel
