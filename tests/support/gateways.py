"""`jupyter gateway` as a program of its own, as a person starts it."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Seconds that a program gets for whatever a test waits for.
PATIENCE = 60.0


class GatewayProgram:
    """A started gateway; its output is read as it comes."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The match in the next line that has one; fails with all output if there is none."""
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no line with {pattern!r} within {seconds} s:\n{self.text}") from None
            assert line is not None, f"the program ended before a line with {pattern!r}:\n{self.text}"
            self.output.append(line)
            match = re.search(pattern, line)
            if match:
                return match

    @property
    def text(self) -> str:
        """All output that was read so far."""
        return "\n".join(self.output)

    def url(self) -> str:
        """Where it says that it is, once it does."""
        return self.wait_for(r"^URL: (\S+)$")[1]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit status, with all output read."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.output.append(line)
        return status

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


def bare_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the account's own Jupyter settings is seen."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    return {**kept, **folders, "HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


def gateway_command(*options: str) -> list[str]:
    """The command line of a gateway in the environment that runs the tests."""
    return [sys.executable, "-m", "gateway", *options]


def fetch(
    url: str,
    token: str = "",
    method: str = "GET",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, str]:
    """The status of a request and the text of its answer."""
    credentials = {"Authorization": f"token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  # a URL of the test's own gateway
        url, method=method, data=data, headers={**credentials, **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def call(url: str, *args: Any, **kwargs: Any) -> tuple[int, Any]:
    """As `fetch`, with the JSON of the answer (None where it is empty)."""
    status, text = fetch(url, *args, **kwargs)
    return status, json.loads(text) if text else None
