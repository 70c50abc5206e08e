"""The payloads of the small frames, written and read; whatever a relay sends is checked here.

Each reader returns what it says or raises `ProtocolError`; any other exception is a bug.
"""

from __future__ import annotations

import json
from typing import Any

from ..wire import framing
from ..wire.framing import Frame


class ProtocolError(Exception):
    """The relay broke a rule of docs/protocol.md. It never leaves the link, which it ends."""


def dump(value: dict[str, Any]) -> bytes:
    """A JSON object as it goes on the wire."""
    return json.dumps(value, separators=(",", ":")).encode()


def load(frame: Frame) -> dict[str, Any]:
    """The JSON object that a frame carries."""
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a {frame.kind.name} frame that is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a {frame.kind.name} frame that is not an object")
    return value


def integer(value: dict[str, Any], name: str) -> int:
    """A member that is a whole number from 0."""
    number = value.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ProtocolError(f"a member {name!r} that is not a number from 0")
    return number


def text(value: dict[str, Any], name: str, limit: int = 4096) -> str:
    """A member that is text, its first `limit` characters, which can be encoded."""
    found = value.get(name)
    if not isinstance(found, str):
        raise ProtocolError(f"a member {name!r} that is not text")
    # Lone surrogates from JSON escapes could be neither logged nor sent on.
    return found[:limit].encode("utf-8", "replace").decode()


def sequence(frame: Frame) -> int:
    """The one u64 that a frame carries."""
    if len(frame.payload) != framing.SEQUENCE.size:
        raise ProtocolError(f"a {frame.kind.name} frame of {len(frame.payload)} bytes")
    (number,) = framing.SEQUENCE.unpack(frame.payload)
    return int(number)
