"""Sockets and named pipes in what is shown: through them a sandbox could talk to programs of the host.

A read-only mount keeps nobody from that, because nothing on the file system changes, and a network namespace
divides neither. What can be found is: every path on which somebody has a Unix socket in the gateway's network
namespace, and, by looking at every file, what is in a folder. What appears later is not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

#: Entries of a folder and those below it that are looked at; 0.1 s where Linux has them in memory.
MOST = 100_000

#: A line of /proc/net/unix (proc(5)) whose socket has a path; abstract names start with "@".
_LINE = re.compile(rb"[0-9a-f]+: (?:\S+ ){5} *\d+ (/.+)")


class TooManyError(Exception):
    """There is more in a folder than can be looked at."""


def sockets(table: Path = Path("/proc/net/unix")) -> list[str]:
    """The paths of sockets that programs of the host have, without links but for the last part."""
    paths = {match[1] for line in table.read_bytes().split(b"\n") if (match := _LINE.fullmatch(line))}
    return sorted({_real(os.fsdecode(path)) for path in paths})


def _real(path: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def find(top: str) -> Iterator[str]:
    """The sockets, pipes and devices at a path and below it. Links are not followed.

    Raises `TooManyError`, and `OSError` for a folder that may be entered and not listed.
    """
    if not os.path.isdir(top):
        if not stat.S_ISREG(os.stat(top).st_mode):
            yield top
        return
    folders, left = [top], MOST
    while folders:
        for entry in _entries(folders.pop()):
            left -= 1
            if left < 0:
                raise TooManyError
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                yield entry.path


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except PermissionError:
        # A sandbox has no more rights than the gateway. What it cannot enter it cannot use.
        if os.access(folder, os.X_OK):
            raise
