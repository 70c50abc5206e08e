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
def token_file() -> Iterator[Path]:
    """A token where a careless administrator puts it: in the environment that sandboxes are shown."""
    path = Path(sys.prefix, "share", "gateway-token")
    path.write_text(TOKEN)
    yield path
    path.unlink()


def test_a_token_in_the_kernels_own_environment_is_not_in_its_sandbox(
    token_file: Path, tmp_path: Path
) -> None:
    options = ["--port=0", f"--token-file={token_file}"]
    gateway = GatewayProgram(gateway_command(*options), bare_environment(tmp_path), tmp_path)
    try:
        url = gateway.url()
        status, kernel = call(f"{url}api/kernels", TOKEN, "POST", {"name": "python3"})
        assert status == 201, kernel
        neighbour = next(path for path in token_file.parent.iterdir() if path != token_file)
        code = f"""
import os
for path in {str(neighbour)!r}, {str(token_file)!r}:
    try:
        print(os.path.exists(path), len(open(path).read()) if os.path.isfile(path) else 0)
    except OSError:
        print("refused")
print(any({TOKEN!r} in value for value in os.environ.values()))
"""
        seen = asyncio.run(run_cell(code, url, TOKEN, kernel["id"])).splitlines()
        assert seen[0].startswith("True"), "the environment is shown, or this test says nothing"
        assert seen[1] in ("refused", "False 0", "True 0")
        assert seen[2] == "False"
        assert gateway.end() == 0
    finally:
        gateway.close()
