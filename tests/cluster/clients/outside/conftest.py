"""A gateway outside of the cluster, with a kubeconfig of the account of one inside; its kernels are pods."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.deployed import Deployed
from tests.e2e.conftest import REPOSITORY, browser, lab, npm, open_notebook
from tests.e2e.servers import Gateway, running_gateway

__all__ = ["browser", "lab", "npm", "open_notebook"]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, there: Deployed) -> Iterator[Gateway]:
    """In the place of tests/e2e's, and it takes the token in the path of a websocket."""
    folder = tmp_path_factory.mktemp("gateway")
    # As it stands in kernelspecs/: its `python` is the image's.
    shutil.copytree(REPOSITORY / "kernelspecs/python3", folder / "specs/share/jupyter/kernels/python3")
    traits = {**there.traits, "instance": "clients"}
    options = [f"--KubernetesBackend.{name}={value}" for name, value in traits.items()]
    words = ("--backend=kubernetes", "--WebOptions.allow_path_token=True", *options)
    with running_gateway(folder, folder / "specs", *words) as server:
        yield server
        for kernel_id in server.kernel_ids():
            server.status("DELETE", f"/api/kernels/{kernel_id}")


@pytest.fixture(scope="session")
def open_gateway(gateway: Gateway) -> Gateway:
    """In the place of tests/e2e/test_notebooks'."""
    return gateway
