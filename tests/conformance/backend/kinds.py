"""The backends that the suite runs over. One that joins adds a line to `KINDS`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gateway.backends.base import Backend
from gateway.backends.bubblewrap import BubblewrapBackend
from tests.support.survivor import SurvivorBackend

LOG = logging.getLogger("tests.backend")


class BackendKind(NamedTuple):
    """How to have a backend: `make` takes a folder for what belongs to the running gateway, and traits."""

    name: str
    make: Callable[..., Backend]
    #: Whether it is one for users.
    isolates: bool


def _bubblewrap(folder: Path, **traits: Any) -> Backend:
    return BubblewrapBackend(runtime_dir=str(folder / "run"), log=LOG, **traits)


KINDS = [
    BackendKind("bubblewrap", _bubblewrap, True),
    # Not for users: without it, only one meaning of `survives_gateway` would be tested.
    BackendKind("survivor", lambda folder, **_: SurvivorBackend(folder / "run"), False),
]


def kind(name: str) -> BackendKind:
    """The backend of that name."""
    return next(each for each in KINDS if each.name == name)
