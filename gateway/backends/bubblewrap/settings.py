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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .. import members
from . import endpoints
from .chain import loose_folder
from .limits import Limits

_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))
_KNOWN = _LIMITS | {"read_only", "transport", "sign"}


class Bind(NamedTuple):
    """A path of the host and where the sandbox sees it, read-only."""

    source: str
    target: str


class Settings(NamedTuple):
    """What a kernelspec's settings come to."""

    limits: Limits
    data: Sequence[Bind]


def read(settings: Mapping[str, object], bounds: Limits, data_roots: Sequence[str]) -> Settings:
    """The limits of a sandbox with these settings, and the data it is shown. Raises `SpecError`."""
    members.check_known(settings, _KNOWN)
    members.check_link(settings)
    tightened = {
        name: members.tighten(name, value, getattr(bounds, name))
        for name, value in settings.items()
        if name in _LIMITS
    }
    data = _data(settings.get("read_only", []), data_roots)
    return Settings(dataclasses.replace(bounds, **tightened), data)  # type: ignore[arg-type]


def _data(value: object, roots: Sequence[str]) -> list[Bind]:
    if not isinstance(value, list):
        raise members.error("read_only", value, 'must be a list of {"source": ..., "target": ...}')
    binds: list[Bind] = []
    for position, entry in enumerate(value):
        bind = _datum(f"read_only[{position}]", entry, roots)
        for other in binds:
            if members.meet(bind.target, other.target):
                raise members.error(f"read_only[{position}]", entry, f"meets the target of {other.source}")
        binds.append(bind)
    return binds


def _datum(name: str, entry: object, roots: Sequence[str]) -> Bind:
    if not isinstance(entry, dict) or not {"source"} <= set(entry) <= {"source", "target"}:
        raise members.error(name, entry, 'must be an object with "source" and, if need be, "target"')
    source, target = entry["source"], entry.get("target", "")
    if not isinstance(source, str) or not os.path.isabs(source) or "\0" in source:
        raise members.error(f"{name}.source", source, "must be an absolute path")
    resolved = os.path.realpath(source)
    root = next((root for root in roots if members.is_below(resolved, os.path.realpath(root))), None)
    if root is None:
        where = ", ".join(roots) or "none, as BubblewrapBackend.data_roots is empty"
        raise members.error(f"{name}.source", source, f"is not below a configured data root ({where})")
    if not os.path.exists(resolved):
        raise members.error(f"{name}.source", source, "does not exist")
    problem = _why_not_shown(resolved, os.path.abspath(root))
    if problem:
        raise members.error(f"{name}.source", source, problem)
    if not isinstance(target, str) or "\0" in target:
        raise members.error(f"{name}.target", target, "must be a text")
    return Bind(resolved, members.shown_at(name, target, os.path.basename(resolved)))


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
