"""Runs probes where nothing forbids what they try: in the environment that stage.py builds."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROBES = Path(__file__).with_name("probes")
STAGE = Path(__file__).with_name("stage.py")


def program() -> bytes:
    """The probes as one file that Python runs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PROBES.glob("*.py")):
            archive.write(path, f"probes/{path.name}")
        archive.writestr("__main__.py", "import runpy\n\nrunpy.run_module('probes', run_name='__main__')\n")
    return buffer.getvalue()


def run(facts: dict[str, Any], probes: Sequence[str], *, timeout: float = 120) -> dict[str, dict[str, str]]:
    """Each probe's verdict in the control environment, by name; the facts are completed inside."""
    request = {
        "facts": facts | {"probes": list(probes)},
        "program": base64.b64encode(program()).decode(),
        "interpreter": os.path.realpath(sys.executable),
        "interpreter_prefix": os.path.realpath(sys.base_prefix),
    }
    done = subprocess.run(
        [sys.executable, "-I", STAGE],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"the control environment ended with {done.returncode}: {done.stderr}")
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    return {verdict["name"]: verdict for verdict in verdicts}
