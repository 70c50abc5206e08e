"""A sandbox sees neither the gateway's configuration nor its token, wherever they lie."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cells import run_cell
from tests.support.gateways import GatewayProgram, bare_environment, call, gateway_command

TOKEN = "token-in-a-file-of-the-environment"  # noqa: S105  # of a gateway that lives for one test


@pytest.fixture
def token_file(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A token where a careless administrator puts it: in the environment that sandboxes are shown."""
    path = Path(sys.prefix, request.param)
    made = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TOKEN)
    yield path
    path.unlink()
    for folder in made:
        folder.rmdir()


@pytest.fixture
def gateway(token_file: Path, tmp_path: Path) -> Iterator[GatewayProgram]:
    command = gateway_command("--port=0", f"--token-file={token_file}")
    program = GatewayProgram(command, bare_environment(tmp_path), tmp_path)
    yield program
    program.close()


@pytest.mark.parametrize("token_file", ["etc/jupyter/gateway-token"], indirect=True)
def test_a_token_in_the_kernels_own_environment_is_not_in_its_sandbox(
    token_file: Path, gateway: GatewayProgram
) -> None:
    url = gateway.url()
    status, kernel = call(f"{url}api/kernels", TOKEN, "POST", {"name": "python3"})
    assert status == 201, kernel
    code = f"""
import os
for path in {str(Path(sys.prefix, "pyvenv.cfg"))!r}, {str(token_file)!r}:
    try:
        print(os.path.exists(path), len(open(path).read()) if os.path.isfile(path) else 0)
    except OSError:
        print("refused")
print(any({TOKEN!r} in value for value in os.environ.values()))
"""
    seen = asyncio.run(run_cell(code, url, TOKEN, kernel["id"])).splitlines()
    assert seen[0].startswith("True"), "the environment is shown, or this test says nothing"
    assert seen[1:] == ["False 0", "False"]
    assert gateway.end() == 0


@pytest.mark.parametrize("token_file", ["share/gateway-token"], indirect=True)
def test_a_token_that_could_not_be_kept_from_sight_stops_the_kernel_and_the_reason_says_what_to_move(
    token_file: Path, gateway: GatewayProgram
) -> None:
    status, answer = call(f"{gateway.url()}api/kernels", TOKEN, "POST", {"name": "python3"})
    assert (status, answer["execution_state"]) == (201, "dead")
    assert f"{token_file}, which no sandbox may see" in answer["reason"]
    assert f"Move it out of {sys.prefix}." in answer["reason"]
    assert gateway.end() == 0
