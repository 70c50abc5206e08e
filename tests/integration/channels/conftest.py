"""One gateway program with real sandboxes for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.channels.clients import Kernels
from tests.support.gateways import GatewayProgram, bare_environment, gateway_command

TOKEN = "of-the-tests"  # noqa: S105  # a test's


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProgram]:
    home: Path = tmp_path_factory.mktemp("home")
    command = gateway_command("--ip=127.0.0.1", "--port=0", f"--token={TOKEN}")
    gateway = GatewayProgram(command, bare_environment(home), home)
    yield gateway
    gateway.end()
    gateway.close()


@pytest.fixture(scope="session")
def url(program: GatewayProgram) -> str:
    return program.url()


@pytest.fixture
def kernels(url: str) -> Kernels:
    return Kernels(url, TOKEN)
