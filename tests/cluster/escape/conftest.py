"""The suite of tests/escape, in pods: what is around them, and what keeps their limits."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.backends.kubernetes import KubernetesBackend, names
from gateway.backends.sizes import parse_size
from gateway.relay import confine
from tests.cluster.deployed import Deployed
from tests.escape.attempts import Ground
from tests.escape.conftest import FEW_CPUS, facts, outcome
from tests.escape.probes.place import namespaces
from tests.escape.sandboxed import Session
from tools.cluster import Cluster

__all__ = ["facts", "outcome"]

TIGHT = {"memory": "256MiB", "file_size": "8MiB", "tmp_size": "16MiB", "home_size": "16MiB"}

#: By which attempt other settings are needed. Processes take memory too, and their own limit is to end them.
_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "use_the_processors": {"cpus": FEW_CPUS},
    "make_processes": {},
    "make_threads": {},
}

LIMITS: dict[str, float] = {
    **{name: parse_size(value) for name, value in TIGHT.items()},
    "cpus": FEW_CPUS,
    "processes": confine.PROCESSES,
    "open_files": confine.OPEN_FILES,
    # The runtime's: CRI has no setting for it.
    "shm_size": parse_size("64MiB"),
}

#: Seconds within which a kubelet evicts. It looks each ten, at figures that it gathers each minute.
_EVICTED_WITHIN = 180


@pytest.fixture(scope="session")
def ground(there: Deployed) -> Ground:
    """Executors."""
    return Ground(
        backend=lambda _: KubernetesBackend(
            instance="escape", log=logging.getLogger("tests.escape"), **there.traits
        ),
        home=names.HOME,
        limits=LIMITS,
        settings=lambda name: _SETTINGS.get(name, TIGHT),
        place=lambda inside: _place(there, inside),
    )


def _place(there: Deployed, inside: Session) -> dict[str, Any]:
    (pod,) = there.pods(f"{names.KERNEL_ID}={inside.kernel.id}")
    return {
        "pod_addresses": [each["ip"] for each in pod["status"]["podIPs"]],
        "node_namespaces": node_namespaces(),
        "visitor": list(names.CONNECT),
        "noticed_within": _EVICTED_WITHIN,
    }


def node_namespaces() -> dict[str, str] | None:
    """Those of the node's first process, where it is one of this machine's."""
    own = Cluster.of(os.environ["KUBECONFIG"])
    if own is None:
        return None
    return namespaces(process=int(own.instance.init.read_text()))
