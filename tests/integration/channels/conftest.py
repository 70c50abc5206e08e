"""One gateway program with real sandboxes for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.channels.clients import Kernels
from tests.support.gateways import GatewayProgram, bare_environment, gateway_command

TOKEN = "of-the-tests"  # noqa: S105  # a test's


#: A kernel that starts when a file is there.
GATED = """
import os, runpy, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
del sys.argv[1]
runpy.run_module("ipykernel_launcher", run_name="__main__")
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's, with a kernelspec `gated` beside the interpreter's own."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "kernels" / "gated"
    folder.mkdir(parents=True)
    argv = ["python", "-c", GATED, "{resource_dir}/open", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Gated", "language": "gated"})
    )
    return home


@pytest.fixture
def open_gate(home: Path) -> Iterator[Callable[[], None]]:
    """Lets the kernels of `gated` start, which wait until this is called."""
    file = home / "data" / "kernels" / "gated" / "open"
    yield file.touch
    file.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def program(home: Path) -> Iterator[GatewayProgram]:
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
