"""JSON as the standard has it, for what comes from outside.

Python's json also reads NaN and Infinity, guesses encodings and ends in a RecursionError where brackets nest
deep. Here each of these is a `NotJsonError`.
"""

from __future__ import annotations

import json
from typing import Any

from .v1 import MessageError


class NotJsonError(MessageError):
    """What should be JSON is not, or holds what Python would take and nobody else, or nests too deep."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
# ASCII only, so that a lone surrogate, which JSON can write and UTF-8 cannot, passes as it came.
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"))


def parse(text: str | bytes) -> Any:
    """The value that `text` writes; bytes have to be UTF-8. Raises `NotJsonError`."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise NotJsonError("the JSON nests too deep") from None
    except ValueError as error:
        raise NotJsonError(f"this is not JSON: {error}") from None


def dump(value: Any) -> bytes:
    """What `parse` read, as ASCII. Raises `NotJsonError`: a number such as 1e999 is infinite once read."""
    try:
        return _ENCODER.encode(value).encode("ascii")
    except RecursionError:
        raise NotJsonError("the JSON nests too deep") from None
    except ValueError as error:
        raise NotJsonError(f"this cannot be written as JSON: {error}") from None
