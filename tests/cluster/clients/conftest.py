"""The real clients of tests/e2e, and a gateway outside of the cluster whose kernels are executors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.deployed import Deployed
from tests.e2e.conftest import REPOSITORY, browser, lab, npm, open_notebook
from tests.e2e.servers import Gateway, running_gateway

__all__ = ["browser", "lab", "npm", "open_notebook"]


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teaching kernelspec as it stands in kernelspecs/: its `python` is the image's."""
    folder = tmp_path_factory.mktemp("specs")
    kernels = folder / "share" / "jupyter" / "kernels"
    shutil.copytree(REPOSITORY / "kernelspecs" / "python3", kernels / "python3")
    return folder


def options(there: Deployed, instance: str) -> list[str]:
    traits = {**there.traits, "instance": instance}
    return [
        "--backend=kubernetes",
        *(f"--KubernetesBackend.{name}={value}" for name, value in traits.items()),
    ]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, specs: Path, there: Deployed) -> Iterator[Gateway]:
    """In the place of tests/e2e's."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, specs, *options(there, "clients")) as server:
        yield server
        for kernel_id in server.kernel_ids():
            server.status("DELETE", f"/api/kernels/{kernel_id}")


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory, specs: Path, there: Deployed) -> Iterator[Gateway]:
    """In the place of tests/e2e/test_notebooks'."""
    folder = tmp_path_factory.mktemp("open-gateway")
    words = options(there, "open")
    with running_gateway(folder, specs, *words, "--WebOptions.allow_path_token=True") as server:
        yield server
