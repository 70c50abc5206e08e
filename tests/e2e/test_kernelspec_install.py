"""`jupyter kernelspec install`, as an administrator types it while the gateway runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import quiet_environment, wait_until
from tests.e2e.servers import BIN, Gateway
from tests.e2e.test_by_hand import curl_lines, sh


@pytest.fixture
def added(tmp_path: Path, teaching: Path) -> Path:
    """A kernelspec with a name and a logo of its own, not yet where Jupyter looks for one."""
    folder = shutil.copytree(teaching / "share" / "jupyter" / "kernels" / "python3", tmp_path / "added")
    spec = json.loads((folder / "kernel.json").read_text())
    (folder / "kernel.json").write_text(json.dumps({**spec, "display_name": "Added"}))
    return folder


def kernelspec(gateway: Gateway, *words: str) -> None:
    """Run it as the gateway's own user; `--user` where it installs, or it would write to /usr/local."""
    command = [BIN / "jupyter", "kernelspec", *words]
    subprocess.run(
        command, env=quiet_environment(gateway.folder), check=True, capture_output=True, timeout=60
    )


def test_a_kernelspec_that_is_installed_while_the_gateway_runs_is_served_and_starts(
    gateway: Gateway, added: Path
) -> None:
    def names() -> dict[str, str]:
        _, served = gateway.call("GET", "/api/kernelspecs")
        return {name: model["spec"]["display_name"] for name, model in served["kernelspecs"].items()}

    assert "added" not in names()
    kernelspec(gateway, "install", "--user", str(added))
    wait_until(lambda: names().get("added") == "Added", "the installed kernelspec is served")
    assert gateway.status("GET", "/kernelspecs/added/logo-64x64.png") == 200
    line = curl_lines(gateway)[0].replace("python3", "added")
    kernel = json.loads(sh(line, gateway))
    assert (kernel["name"], kernel["execution_state"]) == ("added", "idle")
    assert gateway.call("DELETE", f"/api/kernels/{kernel['id']}")[0] == 204
    kernelspec(gateway, "remove", "-y", "added")
    wait_until(lambda: "added" not in names(), "the removed kernelspec is no longer served")
