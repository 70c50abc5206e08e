"""The legacy form of kernel messages, spoken on a websocket that negotiated no subprotocol.

Without buffers a message is one JSON object in a text frame. With buffers it is a binary frame::

    u32 count | u32 offset, count times | that JSON object | buffers...

in big-endian order; `count` is one more than the number of buffers, offsets count from the first byte
of the frame, the last buffer ends with it. Sources: jupyter_server 2.21
(services/kernels/connection/base.py), @jupyterlab/services 7.6 (kernel/serialize.ts).

Kernel to client nothing is parsed: the object is put together from the JSON parts that are already there.
The clients read `header`, `parent_header`, `metadata`, `content`, `channel` and `buffers`, and those written
against jupyter_server's own output also `msg_id` and `msg_type` beside `header`, where they are repeated
(jupyter_server's gateway client and nbclient do). To have these two without parsing, *all* members of the
header come first in the object; what comes after wins should a name be there twice (ECMA-262, Python's
json). The text is always valid UTF-8, as a text frame must be; it is valid JSON if the kernel's parts are.

Client to kernel a message is parsed once and strictly. Reading returns or raises a `MessageError`; any other
exception is a bug in this module.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from . import strict_json, v1
from .strict_json import NotJsonError
from .v1 import MAX_PARTS, MessageError, OffsetError, PartCountError, TruncatedMessageError

_WORD = struct.Struct(">I")
#: What an offset of four bytes can reach.
MAX_BINARY = (1 << 32) - 1

#: Bytes of content that `to_legacy_text` parses to keep a widget working. The largest real ones, the
#: states of all widgets of a notebook, have some hundred thousand; more would let a kernel keep us busy.
MAX_REWRITTEN_CONTENT = 1024 * 1024

#: Bytes of a header, which a message of the legacy form has twice. An honest one has a few hundred.
MAX_HEADER = 64 * 1024
#: Bytes by which a text may grow where what is not UTF-8 in it is replaced. Kernels write valid UTF-8; three
#: bytes for each of a hundred million would fill the gateway's memory.
MAX_GROWTH = 1024 * 1024
#: Bytes of a text that are looked at together: decoded, they may take four times as much.
_PIECE = 1024 * 1024

#: Where a message without `channel` belongs, shell if not here. jupyter_server's GatewayKernelClient
#: (nbclient, papermill) never writes the member. Sources: Jupyter messaging protocol 5.4; JEP 91, subshells.
_CHANNEL_OF_TYPE = {
    "input_reply": "stdin",
    "shutdown_request": "control",
    "interrupt_request": "control",
    "debug_request": "control",
    "create_subshell_request": "control",
    "delete_subshell_request": "control",
    "list_subshell_request": "control",
}


class ShapeError(MessageError):
    """JSON of another shape than a kernel message: a member is missing or of the wrong type."""


class BuffersInTextError(MessageError):
    """Buffers as JSON. No encoding of bytes is agreed for them; a binary frame carries them."""


class TooLargeError(MessageError):
    """A message whose legacy form would be larger than it may be, or than its offsets can describe."""


class Legacy(NamedTuple):
    """One websocket message: the payload of a binary frame, or of a text frame and then valid UTF-8."""

    payload: bytes
    binary: bool


# -- kernel to client ---------------------------------------------------------------------------------


def to_legacy(message: bytes) -> Legacy:
    """A v1 message for a client that reads text and binary frames.

    Raises what `v1.unpack` raises, `ShapeError` for a header that is not written as a JSON object, and
    `TooLargeError` for a header beyond `MAX_HEADER`, more bytes that are not UTF-8 than `MAX_GROWTH` lets be
    replaced, and a binary frame beyond `MAX_BINARY`.
    """
    channel, parts = v1.unpack(message)
    if len(parts) == v1.JSON_PARTS:
        return Legacy(_text(channel, parts, b',"buffers":[]'), False)
    return Legacy(_binary(_text(channel, parts, b""), parts[v1.JSON_PARTS :]), True)


def to_legacy_text(message: bytes) -> bytes:
    """A v1 message as text in any case, for a client to which a binary frame is the end.

    Both gateway clients of jupyter_server decode each frame as UTF-8 where no error is handled, so that
    the first binary one ends their reader (ipywidgets issue 3798). The buffers are therefore left out,
    and `buffers` is an empty list: nbclient base64-encodes each item and fails the cell if one is a
    string, and no JSON value is an ArrayBuffer to a browser behind JupyterLab's server.

    In a comm message of ipywidgets, `content.data.buffer_paths` says where the buffers belong. It is
    emptied as well, because a path without its buffer throws in the browser: the widget is closed if it
    is being opened, and deaf for ever if it is being updated (@jupyter-widgets/base 6, `put_buffers`,
    `_handle_comm_msg`). So the widget lives and takes every later update; it lacks the binary value.

    Raises what `to_legacy` raises.
    """
    channel, parts = v1.unpack(message)
    if len(parts) > v1.JSON_PARTS:
        parts[3] = _without_buffer_paths(parts[3])
    return _text(channel, parts, b',"buffers":[]')


def _text(channel: str, parts: list[bytes], buffers: bytes) -> bytes:
    if len(parts[0]) > MAX_HEADER:
        raise TooLargeError(f"a header of {len(parts[0])} bytes")
    header = parts[0].strip()
    if header[:1] != b"{" or header[-1:] != b"}" or len(header) < 2:
        raise ShapeError("the header is not a JSON object")
    members = header[1:-1]
    text = b'{%b%b"header":%b,"parent_header":%b,"metadata":%b,"content":%b%b,"channel":"%b"}' % (
        members,
        b"," if members.strip() else b"",
        header,
        parts[1],
        parts[2],
        parts[3],
        buffers,
        channel.encode(),
    )
    return text if text.isascii() or _is_utf8(text) else _repaired(text)


def _is_utf8(text: bytes) -> bool:
    try:
        if len(text) <= _PIECE:
            text.decode()
        else:
            for _ in _decoded(text, "strict"):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _repaired(text: bytes) -> bytes:
    """The text with U+FFFD for what is not UTF-8. Raises `TooLargeError`."""
    pieces = []
    bound = len(text) + MAX_GROWTH
    size = 0
    for piece, rest in _decoded(text, "replace"):
        pieces.append(piece.encode())
        size += len(pieces[-1])
        if size + rest > bound:
            raise TooLargeError(f"more than {MAX_GROWTH // 2} bytes are not UTF-8")
    return b"".join(pieces)


def _decoded(text: bytes, errors: str) -> Iterator[tuple[str, int]]:
    """The text piece by piece, each with how many bytes come behind it."""
    view = memoryview(text)
    start = 0
    while start < len(text):
        end = start + _PIECE
        # A character that a piece's end cuts is left to the next piece.
        piece, length = codecs.utf_8_decode(view[start:end], errors, end >= len(text))
        start += length
        yield piece, len(text) - start


def _binary(text: bytes, buffers: list[bytes]) -> bytes:
    count = len(buffers) + 1
    words = [count]
    position = _WORD.size * (count + 1)
    for part in (text, *buffers):
        words.append(position)
        position += len(part)
    if position > MAX_BINARY:
        raise TooLargeError(f"a message of {position} bytes is beyond the {MAX_BINARY} of a legacy frame")
    return b"".join((struct.pack(f">{count + 1}I", *words), text, *buffers))


def _without_buffer_paths(content: bytes) -> bytes:
    """The content with `data.buffer_paths` emptied; unchanged where there is none that could be read."""
    if len(content) > MAX_REWRITTEN_CONTENT or b'"buffer_paths"' not in content:
        return content
    try:
        value = strict_json.parse(content)
        data = value.get("data") if isinstance(value, dict) else None
        if not isinstance(data, dict) or "buffer_paths" not in data:
            return content
        data["buffer_paths"] = []
        return strict_json.dump(value)
    except NotJsonError:
        return content


# -- client to kernel ---------------------------------------------------------------------------------


def is_v1(frame: bytes) -> bool:
    """Whether a binary frame claims the v1 layout rather than the legacy one. Says nothing about the rest.

    The second four bytes decide. In v1 they are the upper half of a count of at most `MAX_PARTS`, so zero; in
    the legacy layout they are the offset of the JSON, at least eight.
    """
    return frame[4:8] == b"\0\0\0\0"


def from_legacy(frame: str | bytes, max_parts: int = MAX_PARTS) -> bytes:
    """The v1 message in a frame of a client that negotiated no subprotocol: text, or a binary one.

    A v1 message in a binary frame is taken too. So is either binary layout in a *text* frame, which is what
    jupyter_server's gateway client makes of its browser's binary frames: JSON never has a NUL, both layouts
    have one in their first eight bytes.

    Raises `NotJsonError`, `ShapeError`, `BuffersInTextError`, and what `v1.unpack` raises.
    """
    if isinstance(frame, str):
        if "\0" not in frame[:8]:
            return _from_json(strict_json.parse(frame), [])
        # What was decoded strictly comes back as the bytes it was; a lone surrogate is no reason to fail.
        frame = frame.encode(errors="surrogatepass")
    if is_v1(frame):
        v1.check(frame, max_parts)
        return frame
    text, *buffers = _split(frame, max_parts)
    return _from_json(strict_json.parse(text), buffers)


def _split(frame: bytes, max_parts: int) -> list[bytes]:
    """The JSON and the buffers of a legacy binary frame."""
    size = len(frame)
    if size < _WORD.size:
        raise TruncatedMessageError(f"a binary frame of {size} bytes has no room for its count")
    (count,) = _WORD.unpack_from(frame)
    if not 1 <= count <= max_parts - v1.JSON_PARTS + 1:
        raise PartCountError(
            f"a binary frame of {count} parts: 1 to {max_parts - v1.JSON_PARTS + 1} are allowed"
        )
    table_end = _WORD.size * (count + 1)
    if size < table_end:
        raise TruncatedMessageError(f"a binary frame of {size} bytes ends within its {count} offsets")
    offsets = [*struct.unpack_from(f">{count}I", frame, _WORD.size), size]
    if offsets[0] != table_end:
        raise OffsetError(f"the JSON starts at {offsets[0]}, not behind the offsets at {table_end}")
    if offsets != sorted(offsets):
        raise OffsetError("a part ends before it starts, or behind the frame")
    return [frame[a:b] for a, b in pairwise(offsets)]


def _from_json(message: Any, buffers: list[bytes]) -> bytes:
    if not isinstance(message, dict):
        raise ShapeError("a message is a JSON object")
    header = message.get("header")
    if not isinstance(header, dict):
        raise ShapeError("`header` is not an object")
    for member in ("msg_id", "msg_type"):
        if not isinstance(header.get(member), str):
            raise ShapeError(f"`header.{member}` is not a string")
    channel = message.get("channel")
    if channel is None:
        channel = _CHANNEL_OF_TYPE.get(header["msg_type"], "shell")
    elif not isinstance(channel, str):
        raise ShapeError("`channel` is not a string")
    elif channel not in v1.CHANNELS:
        raise v1.UnknownChannelError(f"`channel` is none of {', '.join(v1.CHANNELS)}")
    if message.get("buffers"):
        raise BuffersInTextError("`buffers` is not empty: buffers travel in a binary frame")
    parts = [strict_json.dump(header)]
    for member in ("parent_header", "metadata", "content"):
        value = message.get(member)
        if value is None:
            parts.append(b"{}")
        elif isinstance(value, dict):
            parts.append(strict_json.dump(value))
        else:
            raise ShapeError(f"`{member}` is not an object")
    return v1.join(channel, parts + buffers)
