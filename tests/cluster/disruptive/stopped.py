"""A component of the cluster that is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.deployed import own_cluster


@contextmanager
def stopped(name: str) -> Iterator[None]:
    """It is away meanwhile, as after a crash."""
    own_cluster().stop(name)
    try:
        yield
    finally:
        own_cluster().start(name)
