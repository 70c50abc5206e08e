"""Programs that a test starts: their output kept, their readiness awaited, their end certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Seconds a program gets to end by itself after SIGTERM. JupyterLab needs more where its gateway is gone.
GRACE = 10.0


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Poll until `condition` is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def quiet_environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment for a client program whose every file goes below `folder`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONUNBUFFERED": "1",
        # A client that means to ask the internet, also by a mistake of ours, asks nobody.
        "PIP_NO_INDEX": "1",
        "https_proxy": "http://127.0.0.1:9",
        **more,
    }


class Program:
    """A process in a session of its own, with stdout and stderr in one file."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait for `condition`; fails at once with the program's output when the program ends first."""

        def ready() -> object:
            code = self._process.poll()
            assert code is None, f"the program ended with {code} before {what}:\n{self.output()}"
            return condition()

        wait_until(ready, f"{what}; its output so far is in {self.log}", seconds)

    def stop(self) -> None:
        """End it and what it has started in its process group, as Ctrl-C in a terminal does; then surely."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        # Polled, because what the program has started may outlive it and is nobody's child here.
        while self._process.poll() is None or self._signal(0):
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                break
            time.sleep(0.05)
        self._process.wait(GRACE)

    def _signal(self, number: int) -> bool:
        """Signal the process group; whether there is anybody in it."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True
