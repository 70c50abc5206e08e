"""The API server's answers, one connection for all requests: hundreds of pods are judged in seconds.

`kubectl proxy` makes the connection, so that whatever a kubeconfig may say of credentials works here too.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.kubectl import until

Object = dict[str, Any]


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """A status of HTTP, and the object that came with it."""

    status: int
    object: Object

    @property
    def refusal(self) -> str:
        """What the API server says against it; empty where it agrees."""
        return "" if self.status < 300 else str(self.object["message"])


class Api:
    """Requests of the cluster's administrator."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def get(self, path: str) -> Answer:
        return self._ask("GET", path)

    def post(self, path: str, body: Object | None = None) -> Answer:
        return self._ask("POST", path, body)

    def put(self, path: str, body: Object) -> Answer:
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: Object) -> Answer:
        """A merge patch (RFC 7386)."""
        return self._ask("PATCH", path, body, "application/merge-patch+json")

    def _ask(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> Answer:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": kind})
        with self._connection.getresponse() as response:
            answer = response.read()
        try:
            return Answer(response.status, json.loads(answer))
        except ValueError:
            return Answer(response.status, {"message": answer.decode()})


@contextmanager
def connected() -> Iterator[Api]:
    """To the cluster of KUBECONFIG."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "socket")
        # Refused by default are the ways to a pod.
        argv = ["kubectl", "proxy", f"--unix-socket={path}", "--reject-paths=^$"]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as proxy:
            try:
                until(path.exists, "kubectl proxy does not listen")
                with closing(_Connection(path)) as connection:
                    yield Api(connection)
            finally:
                proxy.terminate()
