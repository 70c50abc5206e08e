"""Pods in a namespace of the tests' own, on the cluster that KUBECONFIG names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.cluster.kubectl import Namespace, kubectl


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A namespace without any policy, with what is in it gone afterwards."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail(
            "KUBECONFIG names no cluster. Run `python3 -m tools.check tests/cluster`, which makes one;"
            " or `make cluster-shell`, and pytest in there.",
            pytrace=False,
        )
    name = f"cluster-test-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    try:
        yield Namespace(name)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
