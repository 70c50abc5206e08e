"""The codecs of kernel messages, under one name.

`v1` is the layout in which messages travel on a link and to modern clients, `legacy` is what a websocket
without a subprotocol carries, `builders` makes the messages that we say ourselves. All raise only what
derives from `MessageError` for what a peer sent, and `ValueError` for what our own caller got wrong.
"""

from __future__ import annotations

from .builders import ending, session_of, status, stream
from .legacy import (
    BuffersInTextError,
    Legacy,
    ShapeError,
    TooLargeError,
    from_legacy,
    is_v1,
    to_legacy,
    to_legacy_text,
)
from .strict_json import NotJsonError
from .v1 import (
    CHANNELS,
    MAX_PARTS,
    Message,
    MessageError,
    OffsetError,
    PartCountError,
    TruncatedMessageError,
    UnknownChannelError,
    check,
    join,
    pack,
    unpack,
)

__all__ = [
    "CHANNELS",
    "MAX_PARTS",
    "BuffersInTextError",
    "Legacy",
    "Message",
    "MessageError",
    "NotJsonError",
    "OffsetError",
    "PartCountError",
    "ShapeError",
    "TooLargeError",
    "TruncatedMessageError",
    "UnknownChannelError",
    "check",
    "ending",
    "from_legacy",
    "is_v1",
    "join",
    "pack",
    "session_of",
    "status",
    "stream",
    "to_legacy",
    "to_legacy_text",
    "unpack",
]
