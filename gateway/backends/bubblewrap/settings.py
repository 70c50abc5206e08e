"""`metadata.sandbox` of a kernelspec: what it may say, and that it can only tighten.

    {"metadata": {"sandbox": {
        "memory": "512MiB", "processes": 64, "cpus": 0.5, "file_size": "10MiB", "open_files": 256,
        "tmp_size": "64MiB", "home_size": "64MiB", "life": 600,
        "read_only": [{"source": "/srv/data/course", "target": "course"}],
        "transport": "tcp", "sign": true}}}

`source` lies below one of the configured `data_roots` once its symbolic links are resolved; it is shown
read-only as /data/<target>, and `target` is the last part of `source` where it is left out. Nobody but root
and the gateway's user may be able to exchange it, and nothing but files may be in it. `transport` and `sign`
are for kernels that know only TCP or need a key; the kernel layer acts on them.

Everything else is a `SpecError` that names the member, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..base import SpecError
from . import endpoints
from .chain import loose_folder
from .limits import MIB, Limits, format_size, parse_size

DATA = "/data"

_SIZES = ("memory", "file_size", "tmp_size", "home_size")
_COUNTS = ("processes", "open_files")
_TRANSPORTS = ("ipc", "tcp")

#: Below these no kernel starts; a value that cannot work is refused here, in words.
_LEAST: Mapping[str, float] = {
    "memory": 64 * MIB,
    "processes": 16,
    "cpus": 0.01,
    "file_size": 64 * 1024,
    "open_files": 64,
    "tmp_size": MIB,
    "home_size": MIB,
    "life": 1,
}


class Bind(NamedTuple):
    """A path of the host and where the sandbox sees it, read-only."""

    source: str
    target: str


class Settings(NamedTuple):
    """What a kernelspec's settings come to."""

    limits: Limits
    data: Sequence[Bind]


def check_least(name: str, value: float | None) -> None:
    """Raise `ValueError` for a limit with which no kernel starts."""
    if value is not None and value < _LEAST[name]:
        raise ValueError(f"must be at least {_text(name, _LEAST[name])}")


def read(settings: Mapping[str, object], bounds: Limits, data_roots: Sequence[str]) -> Settings:
    """The limits of a sandbox with these settings, and the data it is shown. Raises `SpecError`."""
    tightened: dict[str, float] = {}
    data: Sequence[Bind] = ()
    for name, value in settings.items():
        if name in _LEAST:
            tightened[name] = _limit(name, value, getattr(bounds, name))
        elif name == "read_only":
            data = _data(value, data_roots)
        elif name == "transport":
            if value not in _TRANSPORTS:
                raise _error(name, value, "must be 'ipc' or 'tcp'")
        elif name == "sign":
            if not isinstance(value, bool):
                raise _error(name, value, "must be true or false")
        else:
            known = ", ".join(sorted((*_LEAST, "read_only", "transport", "sign")))
            raise SpecError(f"metadata.sandbox has no member {name!r}; it may have: {known}.")
    return Settings(dataclasses.replace(bounds, **tightened), data)  # type: ignore[arg-type]


def _error(name: str, value: object, rule: str) -> SpecError:
    return SpecError(f"metadata.sandbox.{name} is {_shown(value)} and {rule}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _text(name: str, value: float) -> str:
    return format_size(int(value)) if name in _SIZES else f"{value:g}"


def _limit(name: str, value: object, bound: float | None) -> float:
    try:
        number = _READERS[name](value)
        check_least(name, number)
    except ValueError as error:
        raise _error(name, value, str(error)) from None
    if bound is not None and number > bound:
        raise _error(name, value, f"may be at most {_text(name, bound)} here, as configured")
    return number


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
    **dict.fromkeys(_SIZES, parse_size),
    **dict.fromkeys(_COUNTS, _count),
    "cpus": _number,
    "life": _number,
}


def _data(value: object, roots: Sequence[str]) -> list[Bind]:
    if not isinstance(value, list):
        raise _error("read_only", value, 'must be a list of {"source": ..., "target": ...}')
    binds: list[Bind] = []
    for position, entry in enumerate(value):
        bind = _datum(f"read_only[{position}]", entry, roots)
        for other in binds:
            if is_below(bind.target, other.target) or is_below(other.target, bind.target):
                raise _error(f"read_only[{position}]", entry, f"its target meets that of {other.source}")
        binds.append(bind)
    return binds


def _datum(name: str, entry: object, roots: Sequence[str]) -> Bind:
    if not isinstance(entry, dict) or not {"source"} <= set(entry) <= {"source", "target"}:
        raise _error(name, entry, 'must be an object with "source" and, if need be, "target"')
    source, target = entry["source"], entry.get("target", "")
    if not isinstance(source, str) or not os.path.isabs(source) or "\0" in source:
        raise _error(f"{name}.source", source, "must be an absolute path")
    resolved = os.path.realpath(source)
    root = next((root for root in roots if is_below(resolved, os.path.realpath(root))), None)
    if root is None:
        where = ", ".join(roots) or "none, as BubblewrapBackend.data_roots is empty"
        raise _error(f"{name}.source", source, f"is not below a configured data root ({where})")
    if not os.path.exists(resolved):
        raise _error(f"{name}.source", source, "does not exist")
    problem = _why_not_shown(resolved, os.path.abspath(root))
    if problem:
        raise _error(f"{name}.source", source, problem)
    if not isinstance(target, str) or "\0" in target:
        raise _error(f"{name}.target", target, "must be a text")
    shown = posixpath.normpath(posixpath.join(DATA, target or os.path.basename(resolved)))
    if not is_below(shown, DATA) or shown == DATA:
        raise _error(f"{name}.target", target, f"must stay below {DATA}")
    return Bind(resolved, shown)


def _why_not_shown(resolved: str, root: str) -> str | None:
    """What is wrong with data, as the end of a sentence."""
    try:
        for path in (root, resolved):
            loose = loose_folder(path)
            if loose:
                return (
                    f"is reached through {loose}, where others than root and the gateway's user could put "
                    f"something else in its place. Name {loose} itself if it lies below a data root, or "
                    "have only those two write there"
                )
        for path in endpoints.find(resolved):
            return (
                f"holds {path}, which is no file: through sockets and pipes a kernel could talk to programs "
                "of this machine. Move it elsewhere"
            )
    except endpoints.TooManyError:
        return (
            f"holds more than {endpoints.MOST} files, too many to look for sockets and pipes among them. "
            "Name the folders in it that are needed, or pack it into an archive"
        )
    except OSError as error:
        return f"cannot be looked through ({error})"
    return None


def is_below(path: str, root: str) -> bool:
    """Whether an absolute path is another or lies below it."""
    return os.path.commonpath([path, root]) == root
