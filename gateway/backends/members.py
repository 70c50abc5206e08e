"""The members of `metadata.sandbox` that every backend reads alike: limits, and how a wrong one is refused.

A limit is bytes, a count, processors or seconds, and a kernelspec can only tighten it.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Callable, Mapping

from .base import SpecError
from .sizes import MIB, format_size, parse_size

#: Where a sandbox shows the data of its kernelspec.
DATA = "/data"

SIZES = ("memory", "memory_request", "file_size", "tmp_size", "home_size")
_COUNTS = ("processes", "open_files")
_TRANSPORTS = ("ipc", "tcp")

#: Below these no kernel starts; a value that cannot work is refused here, in words.
LEAST: Mapping[str, float] = {
    "memory": 64 * MIB,
    "memory_request": MIB,
    "processes": 16,
    "cpus": 0.01,
    "cpu_request": 0.001,
    "file_size": 64 * 1024,
    "open_files": 64,
    "tmp_size": MIB,
    "home_size": MIB,
    "life": 1,
}


def error(name: str, value: object, rule: str) -> SpecError:
    """What is wrong with a member; `rule` completes "it is VALUE and ..."."""
    return SpecError(f"metadata.sandbox.{name} is {shown(value)} and {rule}.")


def shown(value: object) -> str:
    """A value in a sentence, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def check_known(settings: Mapping[str, object], known: frozenset[str]) -> None:
    """Raises `SpecError` for a member that is not among `known`."""
    for name in settings:
        if name not in known:
            may = ", ".join(sorted(known))
            raise SpecError(f"metadata.sandbox has no member {name!r} here; it may have: {may}.")


def check_least(name: str, value: float | None) -> None:
    """Raise `ValueError` for a limit with which no kernel starts."""
    if value is not None and value < LEAST[name]:
        raise ValueError(f"must be at least {_text(name, LEAST[name])}")


def tighten(name: str, value: object, bound: float | None) -> float:
    """A kernelspec's value of a limit that may be at most `bound`. Raises `SpecError`."""
    try:
        number = _READERS[name](value)
        check_least(name, number)
    except ValueError as wrong:
        raise error(name, value, str(wrong)) from None
    if bound is not None and number > bound:
        raise error(name, value, f"may be at most {_text(name, bound)} here, as configured")
    return number


def check_link(settings: Mapping[str, object]) -> None:
    """`transport` and `sign`, on which the kernel layer acts. Raises `SpecError`."""
    if (transport := settings.get("transport", "ipc")) not in _TRANSPORTS:
        raise error("transport", transport, "must be 'ipc' or 'tcp'")
    if not isinstance(sign := settings.get("sign", False), bool):
        raise error("sign", sign, "must be true or false")


def is_below(path: str, root: str) -> bool:
    """Whether an absolute path is another or lies below it."""
    return os.path.commonpath([path, root]) == root


def meet(one: str, other: str) -> bool:
    """Whether one of two absolute paths is the other or lies below it."""
    return is_below(one, other) or is_below(other, one)


def shown_at(name: str, target: str, default: str = "") -> str:
    """Where data is shown whose `target` this is, or `default` where that is empty. Raises `SpecError`."""
    shown = posixpath.normpath(posixpath.join(DATA, target or default))
    # Not by `is_below`, which takes a second slash in front for none.
    if not shown.startswith(f"{DATA}/"):
        raise error(f"{name}.target", target, f"must stay below {DATA}")
    return shown


def _text(name: str, value: float) -> str:
    return format_size(int(value)) if name in SIZES else f"{value:g}"


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _number(value: object) -> float:
    # JSON as Python reads it knows NaN, which compares false with every bound, Infinity, and whole numbers
    # beyond any float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError("must be a number")
    return value


_READERS: Mapping[str, Callable[[object], float]] = {
    **dict.fromkeys(SIZES, parse_size),
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(("cpus", "cpu_request", "life"), _number),
}
