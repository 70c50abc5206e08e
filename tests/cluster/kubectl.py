"""kubectl as a function, and pods that run a few lines of Python."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: What listens in every pod of these tests, on all of its addresses.
PORT = 8000

#: Seconds for what takes few.
PATIENCE_S = 60.0

_LISTEN = f"""
import socket
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    server.accept()[0].close()
"""

#: One attempt of a second: what is not answered then is not going to be.
_IMPATIENT = {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}]}

#: Ends with 0 where it could connect, with 1 where nothing answered within a second or the way is shut.
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
except OSError as error:
    sys.exit(str(error))
"""


def kubectl(*words: str, stdin: object = None) -> str:
    """What it printed; `stdin` is an object for it to read. Raises `AssertionError` with what it said."""
    text = None if stdin is None else json.dumps(stdin)
    result = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True)
    assert result.returncode == 0, f"kubectl {' '.join(words)}: {result.stderr}"
    return result.stdout


def allows(*words: str) -> bool:
    """Whether kubectl ends well with these words."""
    try:
        kubectl(*words)
    except AssertionError:
        return False
    return True


def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until it holds; fails after a minute."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        # A kubectl takes a processor for as long as it runs, which what is waited for needs too.
        time.sleep(0.3)


@dataclass(frozen=True)
class Pod:
    """A pod that listens on `PORT`."""

    namespace: str
    name: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        words = ("kubectl", "exec", "--namespace", self.namespace, self.name, "--", *command)
        return subprocess.run(words, capture_output=True, text=True)

    def reaches(self, address: str, port: int = PORT) -> bool:
        """Whether it can connect."""
        return self.run("python3", "-c", _CONNECT, address, str(port)).returncode == 0

    @property
    def addresses(self) -> list[str]:
        """One of each family that the cluster has."""
        pod = json.loads(kubectl("get", "pod", self.name, "--namespace", self.namespace, "--output=json"))
        return [each["ip"] for each in pod["status"]["podIPs"]]


@dataclass(frozen=True)
class Namespace:
    """One of the tests' own."""

    name: str

    def pods(self, **specs: dict[str, Any]) -> list[Pod]:
        """Start pods of these names, with these members beside what makes them listen; all are Ready."""
        for name, members in specs.items():
            container = {
                "name": "listener",
                "image": "localhost/base:1",
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-c", _LISTEN],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            }
            spec = {"terminationGracePeriodSeconds": 0, "dnsConfig": _IMPATIENT, "containers": [container]}
            spec |= members.get("spec", {})
            metadata = {"name": name, "labels": members.get("labels", {})}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            kubectl("create", "--namespace", self.name, "--filename=-", stdin=pod)
        names = [f"pod/{name}" for name in specs]
        timeout = f"--timeout={PATIENCE_S:.0f}s"
        kubectl("wait", "--namespace", self.name, "--for=condition=Ready", timeout, *names)
        return [Pod(self.name, name) for name in specs]
