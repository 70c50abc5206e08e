"""Backends by name: every distribution may bring one, as an entry point of one group.

    [options.entry_points]
    jupyter_sandbox_gateway.backends =
        mine = my_package:MyBackend

The object is a class with `gateway.backends.base.Backend` and `traitlets.config.Configurable` among its
bases; its traits are configured like any other's.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from traitlets.config import Configurable

from .app_listen import StartError
from .backends.base import Backend

GROUP = "jupyter_sandbox_gateway.backends"


class Backends:
    """The backends that are installed. One that cannot be imported stops only who asks for it."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Any]] = {}
        self._broken: dict[str, str] = {}
        for entry in entry_points(group=GROUP):
            try:
                self._classes[entry.name] = _load(entry)
            except Exception as error:
                # Somebody else's module: whatever it raises is told when its name is chosen.
                self._broken[entry.name] = f"{type(error).__name__}: {error}"

    def classes(self) -> list[type[Configurable]]:
        """The classes whose traits can be configured."""
        return list(self._classes.values())

    def make(self, name: str, parent: Configurable) -> Backend:
        """A backend of that name, configured and not started. Raises `StartError`."""
        if name in self._broken:
            raise StartError(f"The backend {name!r} cannot be loaded: {self._broken[name]}")
        if name not in self._classes:
            there_are = ", ".join(sorted(self._classes)) or "none"
            close = difflib.get_close_matches(name, self._classes, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise StartError(f"There is no backend {name!r}; there are: {there_are}.{hint}")
        return cast(Backend, self._classes[name](parent=parent))


def _load(entry: EntryPoint) -> type[Any]:
    loaded = entry.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Backend) and issubclass(loaded, Configurable)):
        raise TypeError(f"{entry.value} is not a class with Backend and Configurable among its bases")
    return loaded
