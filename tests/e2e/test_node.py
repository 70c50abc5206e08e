"""@jupyterlab/services from Node: the client library of JupyterLab, without a browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.servers import Service

pytestmark = pytest.mark.requires("node")


def test_jupyterlab_services_runs_a_session_from_start_to_end(gateway: Service, npm: Path) -> None:
    before = gateway.kernel_ids()
    done = subprocess.run(
        ["node", npm / "services.mjs", gateway.url, gateway.token],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "specs": True,
        "cell": ["ok", "", "42\n"],
        "error": ["error", "ZeroDivisionError", ""],
        "input": ["ok", "", "Hello, Ada\n"],
        "completion": ["made"],
        "interrupt": ["error", "KeyboardInterrupt", "looping\n"],
        "buffers": [[70000], True],
        "restart": ["error", "NameError", ""],
        "death": ["error", "KernelDied", "The kernel ended with exit code 3.\n"],
        "after": ["ok", "", "alive\n"],
    }
    assert gateway.kernel_ids() == before
