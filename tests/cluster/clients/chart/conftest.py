"""The gateway as the chart deploys it, in its pod with its own account; clients reach its Service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.app_announce import lab_line
from tests.cluster.deployed import import_images
from tests.cluster.installation import absent
from tests.cluster.operator import Operator
from tests.e2e.conftest import browser, npm, open_notebook
from tests.e2e.servers import BIN, Server, Service, lab_without_news

__all__ = ["browser", "npm", "open_notebook"]


@contextmanager
def released(*values: str) -> Iterator[Operator]:
    """Somebody who has run setup.sh and installed the chart, with these values."""
    import_images()
    with absent() as names, names.overlay() as overlay:
        made = Operator(names, overlay)
        made.setup()
        made.install("--set=prePuller.enabled=false", *values)
        yield made


@contextmanager
def service(operator: Operator) -> Iterator[Service]:
    with operator.client() as client:
        yield Service(client.url, client.token)


@pytest.fixture(scope="session")
def operator(cluster: None) -> Iterator[Operator]:
    with released() as made:
        yield made


@pytest.fixture(scope="session")
def gateway(operator: Operator) -> Iterator[Service]:
    """In the place of tests/e2e's."""
    with service(operator) as made:
        yield made


@pytest.fixture(scope="session")
def open_gateway(cluster: None) -> Iterator[Service]:
    """In the place of tests/e2e/test_notebooks': it takes the token in the path of a websocket."""
    with released("--set=config.WebOptions.allow_path_token=true") as operator, service(operator) as made:
        yield made


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, gateway: Service) -> Iterator[Server]:
    """JupyterLab by the line that a gateway on this machine would print."""
    folder = tmp_path_factory.mktemp("lab")
    scratch = folder / "scratch"
    scratch.mkdir()
    as_root = os.geteuid() == 0
    line = lab_line(
        BIN / "jupyter", f"{gateway.url}/", gateway.token, scratch, as_root=as_root, display=False
    )
    with lab_without_news(folder, line) as server:
        yield server
