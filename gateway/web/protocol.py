"""What a client's channels websocket carries, as bytes: no I/O, no task, no clock.

Out: `gather` turns the messages that wait for a client into websocket frames (RFC 6455, section 5.2; a
server's frames are not masked and ours are never fragmented) and joins the small ones, because one write
per message costs thirty times what the message itself costs. Payloads beyond `LARGE` bytes are handed on
as they are, never copied.

In: `Dialect` says what a client speaks and turns what it sends into v1 messages.

- **v1**, `v1.kernel.websocket.jupyter.org`, where the client offers it
  (https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html). Messages pass
  unread in both directions, but for the channel of what the client sends.
- **legacy**, where nothing is negotiated: JSON text, and a binary frame of its own layout for a
  message with buffers.
- **legacy, text only**: jupyter_server's two gateway clients decode every frame as UTF-8, outside any
  handling of errors, and go silent at the first binary one (ipywidgets issue 3798). They get the
  text form of `gateway.wire.messages` instead.

A client that negotiated nothing and sends v1 frames all the same (a proxy dropped the negotiation;
jupyter-kernel-client up to 0.7 speaks nothing else) expects v1 back, and gets it from its first such
frame on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..wire import messages
from ..wire.messages import MessageError, UnknownChannelError

SUBPROTOCOL = "v1.kernel.websocket.jupyter.org"

#: Opcodes of RFC 6455, section 5.2.
TEXT = 0x1
BINARY = 0x2

#: Bytes of small frames that are joined into one write.
JOINED = 256 * 1024
#: Payloads of more bytes than this are written without being copied.
LARGE = 64 * 1024

#: Close codes, RFC 6455 section 7.4.1.
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
TOO_LARGE = 1009
#: Bytes of a close frame's reason, RFC 6455 section 5.5.
MAX_REASON = 123

#: The channels on which a client may send.
SENDING_CHANNELS = frozenset({"shell", "control", "stdin"})

_FINAL = 0x80
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")

#: One v1 message as a frame's opcode and payload; raises `MessageError` where it cannot be told.
Encode = Callable[[bytes], tuple[int, bytes]]


class RefusedError(Exception):
    """What a client sent ends its websocket with this close code and this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class IgnoredError(Exception):
    """What a client sent leads nowhere and harms nothing; the message says why, for the log."""


class Write(NamedTuple):
    """Whole frames that go out back to back: as many `messages`, of `size` bytes.

    With them all up to `sequence` is told.
    """

    sequence: int
    messages: int
    size: int
    pieces: tuple[bytes, ...]


def frame_header(opcode: int, length: int) -> bytes:
    """The bytes before an unmasked payload of `length` bytes."""
    first = _FINAL | opcode
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return _MEDIUM.pack(first, 126, length)
    return _LONG.pack(first, 127, length)


def gather(
    batch: list[tuple[int, bytes]], encode: Encode, untold: Callable[[MessageError], None]
) -> Iterator[Write]:
    """The writes that carry `batch`, which is emptied on the way.

    They are made one at a time, and what is written is held no longer: a slow client's batch may be its whole
    queue, which fills again as it reads.

    A message that cannot be encoded, which takes a kernel that breaks the protocol, is left out and
    `untold` is called with the error.
    """
    pieces: list[bytes] = []
    count = size = sequence = 0
    batch.reverse()
    while batch:
        sequence, message = batch.pop()
        try:
            opcode, payload = encode(message)
        except MessageError as error:
            untold(error)
            continue
        length = len(payload)
        pieces.append(frame_header(opcode, length))
        count += 1
        size += length
        if length > LARGE:
            yield Write(sequence, count, size, (b"".join(pieces), payload))
        else:
            pieces.append(payload)
            if size < JOINED:
                continue
            yield Write(sequence, count, size, (b"".join(pieces),))
        pieces.clear()
        count = size = 0
    if pieces:
        yield Write(sequence, count, size, (b"".join(pieces),))


class Dialect:
    """What one client speaks; `encode` is how it is spoken to, which may change with what it sends.

    `takes_binary` says whether a client that negotiated nothing can take binary frames. It is to be what
    the handshake shows: an Origin and a session_id. Browsers send both, and so does jupyter-kernel-client,
    which can. Of those that cannot, jupyter_server's own websocket sends no Origin, and the one that
    nbclient and papermill use no session_id.

    `max_message` bounds a message in bytes also where it is larger as v1 than it was as it came.
    """

    def __init__(self, *, negotiated: bool, takes_binary: bool, max_message: int) -> None:
        self._negotiated = negotiated
        self._max_message = max_message
        self.text_only = not negotiated and not takes_binary
        self.encode: Encode = _as_v1 if negotiated else _as_legacy if takes_binary else _as_text

    def decode(self, message: str | bytes) -> bytes:
        """The v1 message in what the client sent. Raises `IgnoredError` or `RefusedError`."""
        try:
            channel, message = self._decode(message)
        except UnknownChannelError as error:
            # As in jupyter_server; a client may know channels that kernels will have one day.
            raise IgnoredError(str(error)) from None
        except MessageError as error:
            raise RefusedError(INVALID_DATA, _clip(f"This is no kernel message: {error}")) from None
        if channel not in SENDING_CHANNELS:
            raise IgnoredError(f"clients do not send on {channel}")
        if len(message) > self._max_message:
            raise RefusedError(TOO_LARGE, f"A message may have at most {self._max_message} bytes.")
        return message

    def _decode(self, message: str | bytes) -> tuple[str, bytes]:
        if self._negotiated:
            if isinstance(message, str):
                raise RefusedError(UNSUPPORTED_DATA, f"Send binary frames: {SUBPROTOCOL} was negotiated.")
        else:
            if isinstance(message, bytes) and messages.is_v1(message):
                self.encode = _as_v1
                self.text_only = False
            message = messages.from_legacy(message)
        return messages.check(message), message


def _as_v1(message: bytes) -> tuple[int, bytes]:
    return BINARY, message


def _as_legacy(message: bytes) -> tuple[int, bytes]:
    payload, binary = messages.to_legacy(message)
    return (BINARY if binary else TEXT), payload


def _as_text(message: bytes) -> tuple[int, bytes]:
    return TEXT, messages.to_legacy_text(message)


def _clip(reason: str) -> str:
    """What of a reason fits into a close frame."""
    return reason.encode()[:MAX_REASON].decode(errors="ignore")
