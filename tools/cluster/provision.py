"""Who may have a cluster here, what the machine needs for it, and which one a test run gets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .. import machine
from ..machine import SetupError
from . import parts
from .cluster import Cluster, TakenError
from .instance import NUMBERS, STATES, Instance


def check_account() -> None:
    """Raises `SetupError` for an account that can have no cluster of its own."""
    if os.geteuid() != 0:
        raise SetupError(
            "Only root can make a cluster: type sudo before this, or set KUBECONFIG to use one that exists;"
            " CONTRIBUTING.md says how to make one with kind."
        )


@contextlib.contextmanager
def for_tests() -> Iterator[dict[str, str]]:
    """What tests need in their environment to use a cluster, while it is there. Raises `SetupError`.

    That is the one that KUBECONFIG names already; or one of their own, where this is root; or none.
    """
    named = os.environ.get("KUBECONFIG")
    if named or os.geteuid() != 0:
        own = Cluster.of(named) if named else None
        yield own.environment() if own else {}
        return
    set_up()
    cluster = _first_free()
    try:
        yield cluster.environment()
    finally:
        cluster.down()


def _first_free() -> Cluster:
    """A cluster that is up, under the first number that nobody else has."""
    for number in NUMBERS[1:]:
        cluster = Cluster(Instance(number))
        with contextlib.suppress(TakenError):
            cluster.up(stay=False)
            return cluster
    raise SetupError(f"{len(NUMBERS) - 1} clusters run already; see {STATES}.")


def set_up() -> None:
    """What building and running a cluster needs of this machine. Raises `SetupError`."""
    check_account()
    machine.ensure(machine.TO_CLUSTER)
    parts.check_go()
