"""What of the shown paths is not to be seen, and how it is kept so: by a cover, or by refusing.

A folder is covered by an empty one. A file is not: who replaces it by renaming another to its name, as
one rotates a token, takes the cover away with the old file, in sandboxes that run too; and one that is not
there yet cannot be covered. So a kernel that would be shown the folder of a hidden file is refused, unless a
cover lies over that. And what lies within something hidden is shown to nobody, whoever asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .. import members
from ..base import SpecError
from . import endpoints
from .settings import Bind


class Cover(NamedTuple):
    """A path, as seen inside, that is covered up: by an empty folder or an empty file."""

    target: str
    is_folder: bool


def place(path: str, bind: Bind) -> str | None:
    """Where a bind shows a path of the host, or None."""
    if path == bind.source:
        return bind.target
    if path.startswith(bind.source.rstrip("/") + "/"):
        return bind.target.rstrip("/") + path[len(bind.source.rstrip("/")) :]
    return None


def cover(binds: Sequence[Bind], hidden: Sequence[str]) -> list[Cover]:
    """The covers over what is hidden and over Jupyter's configuration. Raises `SpecError`."""
    # Compared by what stands behind links. A link within what is shown leads to the covered place.
    resolved = [Bind(os.path.realpath(bind.source), bind.target) for bind in binds]
    _refuse_what_lies_within(resolved, hidden)
    folders = [path for path in hidden if _is_folder(path)] + _configuration(resolved)
    covers = {Cover(shown, True) for path in folders for _, shown in _shown(os.path.realpath(path), resolved)}
    _refuse_files(resolved, [path for path in hidden if not _is_folder(path)], covers)
    return sorted(covers)


def cover_endpoints(binds: Sequence[Bind], folders: Iterable[str]) -> list[Cover]:
    """The covers over sockets of programs that run, and over every socket and pipe in `folders`.

    Raises `SpecError` for a folder of more than can be looked at.
    """
    resolved = [Bind(os.path.realpath(bind.source), bind.target) for bind in binds]
    found = {path for path in endpoints.sockets() if os.path.lexists(path)}
    for folder in folders:
        try:
            found.update(endpoints.find(os.path.realpath(folder)))
        except endpoints.TooManyError:
            raise SpecError(
                f"{folder} holds more than {endpoints.MOST} files, too many to look for sockets and pipes "
                "among them. Put the kernelspec into a folder of its own."
            ) from None
        except OSError as error:
            raise SpecError(f"{folder} cannot be looked through: {error}.") from None
    return sorted({Cover(shown, False) for path in found for _, shown in _shown(path, resolved)})


def _is_folder(path: str) -> bool:
    """Whether a path is a folder and no link to one, which could be replaced as a file can."""
    return os.path.isdir(path) and not os.path.islink(path)


def _shown(path: str, binds: Sequence[Bind]) -> list[tuple[Bind, str]]:
    """The binds that show a path, and where each does."""
    return [(bind, shown) for bind in binds if (shown := place(path, bind)) is not None]


def _configuration(binds: Sequence[Bind]) -> list[str]:
    """Where environments keep configuration of Jupyter, and with it maybe the gateway's."""
    prefixes = [bind.source for bind in binds if os.path.isdir(bind.source)] + ["/usr/local"]
    return [path for prefix in prefixes if os.path.isdir(path := os.path.join(prefix, "etc/jupyter"))]


def _refuse_what_lies_within(binds: Sequence[Bind], hidden: Sequence[str]) -> None:
    for path in hidden:
        for bind in binds:
            if members.is_below(bind.source, os.path.realpath(path)):
                raise SpecError(
                    f"{bind.source} would be shown to the sandbox, and lies in {path}, which no sandbox may "
                    "see. Move it, or change BubblewrapBackend.hidden_paths."
                )


def _refuse_files(binds: Sequence[Bind], files: Sequence[str], covers: Collection[Cover]) -> None:
    for path in files:
        # By its own name, and by what stands behind it.
        itself = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for spot in {itself, os.path.realpath(path)}:
            for bind, shown in _shown(spot, binds):
                if not any(members.is_below(shown, target) for target, _ in covers):
                    raise SpecError(
                        f"{path}, which no sandbox may see, lies in {bind.source}, which is shown to this "
                        f"one. Move it out of {bind.source}."
                    )
