"""The payloads of the small frames, as both ends of a link write and read them.

Whatever the other end sends is checked here. Each reader returns what it says or raises `PayloadError`; any
other exception is a bug.
"""

from __future__ import annotations

import json
from typing import Any

from . import framing
from .framing import Frame, FramingError

#: The code in a STATE frame -> the word that clients know.
STATES = ("starting", "idle", "busy", "restarting", "dead")

#: What no honest number comes near; numbers of JSON have no bound of their own.
_MAX_NUMBER = 1 << 40


class PayloadError(FramingError):
    """A frame whose payload is not what its kind carries."""


def dump(value: dict[str, Any]) -> bytes:
    """A JSON object as it goes on the wire."""
    return json.dumps(value, separators=(",", ":")).encode()


def load(frame: Frame) -> dict[str, Any]:
    """The JSON object that a frame carries."""
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"a {frame.kind.name} frame that is not JSON") from error
    if not isinstance(value, dict):
        raise PayloadError(f"a {frame.kind.name} frame that is not an object")
    return value


def integer(value: dict[str, Any], name: str, least: int = 0) -> int:
    """A member that is a whole number from `least`."""
    number = value.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= _MAX_NUMBER:
        raise PayloadError(f"a member {name!r} that is not a number from {least}")
    return number


def text(value: dict[str, Any], name: str, limit: int = 4096) -> str:
    """A member that is text, its first `limit` characters, which can be encoded."""
    found = value.get(name)
    if not isinstance(found, str):
        raise PayloadError(f"a member {name!r} that is not text")
    # Lone surrogates from JSON escapes could be neither logged nor sent on.
    return found[:limit].encode("utf-8", "replace").decode()


def sequence(frame: Frame) -> int:
    """The one u64 that a frame carries."""
    if len(frame.payload) != framing.SEQUENCE.size:
        raise PayloadError(f"a {frame.kind.name} frame of {len(frame.payload)} bytes")
    (number,) = framing.SEQUENCE.unpack(frame.payload)
    return int(number)
