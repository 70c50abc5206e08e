"""Reading a request's JSON strictly, with a sentence for each way in which it can be wrong.

Members that nobody here knows are ignored: jupyter_server and others send some. Known members of a wrong
type are refused. Every function raises `HttpError` 400 and nothing else.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import HttpError, quoted

#: Characters of a string in a request, far above any path or name that clients send.
MAX_TEXT = 4096

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body; `{}` for an empty body, which several clients send."""
    if not data.strip():
        return {}
    try:
        # The surrogates that JSON can escape have no UTF-8; `text` refuses them where they are used.
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "The body is not JSON. Send a JSON object in UTF-8, or no body.") from error
    if not isinstance(value, dict):
        raise HttpError(400, f"The body is {_kind(value)}. Send a JSON object, or no body.")
    return value


def text(members: dict[str, Any], name: str, limit: int = MAX_TEXT) -> str | None:
    """The string `name` of at most `limit` characters, or None where it is missing or null."""
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise HttpError(400, f"{quoted(name)} is {_kind(value)}. Send a string.")
    if len(value) > limit:
        raise HttpError(400, f"{quoted(name)} has {len(value)} characters. Send at most {limit}.")
    if "\0" in value or not has_utf8(value):
        raise HttpError(400, f"{quoted(name)} holds characters that have no place in it. Leave them out.")
    return value


def required_text(members: dict[str, Any], name: str) -> str:
    """The string `name`, which has to be there."""
    value = text(members, name)
    if value is None:
        raise HttpError(400, f"{quoted(name)} is missing from the body. Send it as a string.")
    return value


def nested(members: dict[str, Any], name: str) -> dict[str, Any]:
    """The object `name`, or `{}` where it is missing or null."""
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HttpError(400, f"{quoted(name)} is {_kind(value)}. Send an object.")
    return value


def has_utf8(value: str) -> bool:
    """Whether a string can be written in UTF-8, which half a surrogate pair cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
