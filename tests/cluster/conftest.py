"""Pods in namespaces of the tests' own, on the cluster that KUBECONFIG names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, connected
from tests.cluster.deployed import Deployed, deployed
from tests.cluster.installation import Installation, installed
from tests.cluster.kubectl import Namespace, kubectl


@pytest.fixture(scope="session")
def cluster() -> None:
    """There is one."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail(
            "KUBECONFIG names no cluster. Run `python3 -m tools.check tests/cluster`, which makes one;"
            " or `make cluster-shell`, and pytest in there.",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def namespace(cluster: None) -> Iterator[Namespace]:
    """A namespace without any policy, with what is in it gone afterwards."""
    name = f"cluster-test-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    try:
        yield Namespace(name)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def api(cluster: None) -> Iterator[Api]:
    with connected() as made:
        yield made


@pytest.fixture(scope="session")
def installation(api: Api) -> Iterator[Installation]:
    """The manifests of k8s/, in force."""
    with installed() as made:
        made.wait(api)
        yield made


@pytest.fixture(scope="session")
def there(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The same with its images and its canary: a gateway can start."""
    with deployed(installation, tmp_path_factory.mktemp("gateway")) as made:
        yield made
