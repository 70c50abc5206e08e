"""Starts `gateway_process.py`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = Path(__file__).with_name("gateway_process.py")


@contextlib.contextmanager
def gateway_process(kind: str, folder: Path, count: int) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A gateway with `count` sandboxes in a process of its own, and the ids of their kernels."""
    process = subprocess.Popen(
        [sys.executable, _PROGRAM, kind, folder, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()
