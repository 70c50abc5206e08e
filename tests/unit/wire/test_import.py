"""What the relay imports inside every sandbox stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gateway

#: Modules that each cost the start of a sandbox some milliseconds and that the wire needs none of.
HEAVY = (
    "dataclasses",
    "inspect",
    "asyncio",
    "datetime",
    "uuid",
    "logging",
    "ssl",
    "socket",
    "tornado",
    "zmq",
)


def test_the_wire_imports_nothing_heavy() -> None:
    (package,) = gateway.__path__
    root = str(Path(package).parent)
    script = "import sys, gateway.wire.messages, gateway.wire.framing; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert set(HEAVY) & set(result.stdout.split()) == set()
