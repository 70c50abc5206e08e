"""The backends that the suite runs over. One that joins adds a line to `KINDS`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gateway.backends.base import Backend
from gateway.backends.bubblewrap import BubblewrapBackend
from tests.conformance.backend import traces
from tests.support.survivor import SurvivorBackend

LOG = logging.getLogger("tests.backend")


class Left(NamedTuple):
    """What there is of a backend's sandboxes, and of what it needs for them."""

    running: set[str]
    descriptors: int
    files: set[str]


class BackendKind(NamedTuple):
    """How to have a backend: `make` takes a folder for what belongs to the running gateway, and traits."""

    name: str
    make: Callable[..., Backend]
    #: Whether it is one for users.
    isolates: bool
    #: What runs for this process's gateways, by names that nothing later has.
    running: Callable[[], set[str]] = lambda: traces.descendants(os.getpid())
    descriptors: Callable[[], int] = traces.descriptors
    #: Seconds of a life that is over soon and long enough for a start; and for an end to be noticed.
    short_life: int = 1
    soon: float = traces.SOON
    #: Checks that the account of a gateway may not make, whose outcome is unknown.
    unknown: frozenset[str] = frozenset()

    def left(self, folder: Path) -> Left:
        """What is there now."""
        return Left(self.running(), self.descriptors(), traces.files(folder))


def _bubblewrap(folder: Path, **traits: Any) -> Backend:
    return BubblewrapBackend(runtime_dir=str(folder / "run"), log=LOG, **traits)


#: Holds the traits of a backend for executors, as JSON: those who run the suite over one have a cluster.
EXECUTORS = "TESTS_EXECUTORS"


def _kubernetes(folder: Path, **traits: Any) -> Backend:
    # Here, so that nobody else needs what it needs.
    from tests.support.executors import SharingBackend

    given = {
        "instance": hashlib.sha256(str(folder).encode()).hexdigest()[:16],
        **json.loads(os.environ[EXECUTORS]),
        **traits,
    }
    return SharingBackend(log=LOG, **given)


KINDS = [
    BackendKind("bubblewrap", _bubblewrap, True),
    # Not for users: without it, only one meaning of `survives_gateway` would be tested.
    BackendKind("survivor", lambda folder, **_: SurvivorBackend(folder / "run"), False),
]


#: Needs a cluster, and so has a place of its own where the suite runs over it: tests/cluster/backend.
KUBERNETES = BackendKind(
    "kubernetes", _kubernetes, True, short_life=10, soon=30, unknown=frozenset({"namespace", "quota"})
)


def kind(name: str) -> BackendKind:
    """The backend of that name."""
    return next(each for each in (*KINDS, KUBERNETES) if each.name == name)
