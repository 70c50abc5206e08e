"""`make serve`: what it prints works when it is pasted into another terminal, as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateways import PATIENCE, ROOT, GatewayProgram, call, fetch


@pytest.fixture(scope="module")
def printed(served: GatewayProgram) -> dict[str, str]:
    """What it prints: "url", "token", and the two commands "lab" and "curl"."""
    return {
        "url": served.wait_for(r"^URL: (\S+)$", seconds=900)[1],
        "token": served.wait_for(r"^Token: (\w+)$")[1],
        "lab": served.wait_for(r"^  (JUPYTER_GATEWAY_AUTH_TOKEN=\w+ .* lab .*)$")[1],
        "curl": served.wait_for(r"^  (curl .*)$")[1],
    }


@pytest.fixture
def lab(printed: dict[str, str], tmp_path: Path) -> Iterator[GatewayProgram]:
    """The printed line in a shell of its own, of an account without settings for Jupyter."""
    folders = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    env = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **folders}
    program = GatewayProgram(["sh", "-c", f"exec env {printed['lab']}"], env, tmp_path)
    yield program
    program.end()
    program.close()


def test_the_url_and_token_work(printed: dict[str, str]) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", printed["url"])
    status, specs = call(f"{printed['url']}api/kernelspecs", printed["token"])
    assert status == 200
    assert specs["kernelspecs"]["python3"]["spec"]["display_name"] == "Python 3 (sandbox)"


def test_the_printed_curl_line_starts_a_kernel(printed: dict[str, str]) -> None:
    result = subprocess.run(["sh", "-c", printed["curl"]], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    kernel = json.loads(result.stdout)
    assert kernel["execution_state"] in ("idle", "busy"), kernel
    assert call(f"{printed['url']}api/kernels/{kernel['id']}", printed["token"], "DELETE")[0] == 204


def test_the_printed_lab_line_serves_jupyterlab_on_sandboxed_kernels(
    printed: dict[str, str], lab: GatewayProgram
) -> None:
    found = lab.wait_for(r"(http://(?:127\.0\.0\.1|localhost):\d+)/lab\?token=(\w+)")
    url, token = found[1], found[2]
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            status, kernel = call(f"{url}/api/kernels", token, "POST", {"name": "python3"})
            break
        except OSError:
            assert time.monotonic() < deadline, lab.text
            time.sleep(0.1)
    assert status == 201, kernel
    # The kernel that JupyterLab has is the gateway's: it is known there by the same id.
    assert call(f"{printed['url']}api/kernels/{kernel['id']}", printed["token"])[0] == 200
    assert fetch(f"{url}/api/terminals", token, "POST")[0] == 403
    assert fetch(f"{url}/api/terminals", token)[0] == 404
    assert call(f"{url}/api/kernels/{kernel['id']}", token, "DELETE")[0] == 204


def test_jupyterlab_opens_a_scratch_folder_with_the_notebooks(printed: dict[str, str]) -> None:
    option = "--ServerApp.root_dir="
    (word,) = [word for word in shlex.split(printed["lab"]) if word.startswith(option)]
    folder = Path(word.removeprefix(option))
    assert folder.is_relative_to(ROOT / ".serve")
    assert {path.name for path in folder.glob("*.ipynb")} >= {
        path.name for path in (ROOT / "notebooks").glob("*.ipynb")
    }


def test_a_second_start_makes_nothing_again_and_takes_the_next_free_port(printed: dict[str, str]) -> None:
    port = printed["url"].rstrip("/").rpartition(":")[2]
    command = ["make", "--no-print-directory", "serve", f"ARGS=--port={port}"]
    second = GatewayProgram(command, {**os.environ, "PYTHONUNBUFFERED": "1"}, ROOT)
    try:
        second.wait_for(rf"^Port {port} is in use; this is port \d+\.$")
        # All that takes longer than seconds says so in such a line.
        assert "Making" not in second.text
        second.wait_for("curl")
    finally:
        second.end()
        second.close()
