"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

MIB = 1024 * 1024
_UNITS = {"": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
_SIZE = re.compile(r"(\d{1,15})\s?(KiB|MiB|GiB)?")


def parse_size(value: object) -> int:
    """Bytes from a number or a text such as `512MiB`; raises `ValueError` with what is allowed."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number of bytes or a text such as '512MiB' (KiB, MiB, GiB)")
    return int(match[1]) * _UNITS[match[2] or ""]


def format_size(size: int) -> str:
    """The shortest exact text: `1 GiB`, `1536 MiB`, `1000 bytes`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size >= _UNITS[unit] and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}"
    return f"{size} bytes"
