"""The sandbox's own /etc: its one user, and no names but its own.

One folder for all sandboxes of a gateway, shown read-only; so it also holds the places where files and
folders of the host's /etc are mounted over it, and the links that are the same here and there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import command
from .settings import Bind
from .visible import Visible

_FILES: Mapping[str, str] = {
    "passwd": f"{command.USER}:x:{command.UID}:{command.GID}::{command.HOME}:/bin/sh\n",
    "group": f"{command.USER}:x:{command.GID}:\n",
    "hosts": f"127.0.0.1 localhost {command.HOSTNAME}\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

_ETC = "/etc/"


class Etc:
    """Keeps the folder. `folder` is empty and may be read by everyone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, text in _FILES.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)

    def provide(self, visible: Visible) -> Visible:
        """The same, with this folder as /etc; what of it concerns /etc has its place there."""
        for bind in visible.binds:
            if bind.target.startswith(_ETC):
                self._make_place(self._place(bind.target), os.path.isdir(bind.source))
        for target, path in visible.links:
            if path.startswith(_ETC):
                self._make_link(self._place(path), target)
        return visible._replace(
            binds=[Bind(str(self._folder), "/etc"), *visible.binds],
            links=[link for link in visible.links if not link[1].startswith(_ETC)],
        )

    def _place(self, path: str) -> Path:
        return self._folder / path.removeprefix(_ETC)

    @staticmethod
    def _make_place(place: Path, is_folder: bool) -> None:
        if not place.exists():
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            if is_folder:
                place.mkdir(mode=0o755)
            else:
                place.touch(mode=0o644)

    @staticmethod
    def _make_link(place: Path, target: str) -> None:
        if not place.is_symlink() or os.readlink(place) != target:
            place.unlink(missing_ok=True)
            place.symlink_to(target)
