"""Makes every attempt once: in the control environment, and in the kernels of real sandboxes."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.backends.bubblewrap import BubblewrapBackend
from gateway.backends.bubblewrap.command import HOME
from gateway.backends.sizes import parse_size
from gateway.relay.syscalls import NUMBERS
from tests.escape import attempts
from tests.escape.attempts import Ground, Outcome
from tests.escape.probes.place import namespaces

#: Calls that are newer than what the gateway's table needs to know; the same number everywhere.
NEWER_CALLS = {"cachestat": 451, "listmount": 458}

#: So tight that an attempt to exhaust them is quick, and that the control has room for more.
TIGHT = {
    "memory": "256MiB",
    "processes": 48,
    "file_size": "8MiB",
    "tmp_size": "16MiB",
    "home_size": "16MiB",
    "open_files": 256,
}
#: A share that a busy machine still gives to who has no limit.
FEW_CPUS = 0.2

LIMITS: dict[str, float] = {
    **{name: parse_size(value) for name, value in TIGHT.items()},
    "shm_size": parse_size("16MiB"),
    "cpus": FEW_CPUS,
}


@pytest.fixture(scope="session")
def ground() -> Ground:
    """Sandboxes on this machine."""
    return Ground(
        backend=lambda folder: BubblewrapBackend(
            runtime_dir=str(folder / "run"), log=logging.getLogger("tests.escape")
        ),
        home=HOME,
        limits=LIMITS,
        settings=lambda name: {"cpus": FEW_CPUS} if name == "use_the_processors" else TIGHT,
    )


@pytest.fixture(scope="session")
def facts(ground: Ground) -> dict[str, Any]:
    return {
        "host_namespaces": namespaces(),
        "calls": NUMBERS[platform.machine()] | NEWER_CALLS,
        "limits": dict(ground.limits),
    }


@pytest.fixture(scope="session")
def outcome(ground: Ground, facts: dict[str, Any]) -> Iterator[Outcome]:
    with attempts.made(ground, facts) as result:
        yield result
