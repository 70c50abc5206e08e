"""The two servers of this folder: the gateway by its command, and JupyterLab by the line that it prints."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.processes import Program, free_port, quiet_environment

#: The environment that runs the tests has the gateway, JupyterLab and the other clients.
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Service:
    """A server, wherever it runs: where it is, and what opens it."""

    url: str
    token: str

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """An authenticated REST call; the status and the JSON of the answer (None where it is empty)."""
        status, text = self._fetch(method, path, body, headers)
        return status, json.loads(text) if text else None

    def status(self, method: str, path: str, body: object = None) -> int:
        """As `call`; only the status, whatever the answer holds."""
        return self._fetch(method, path, body, {})[0]

    def _fetch(self, method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, bytes]:
        request = urllib.request.Request(  # noqa: S310  # http, to a server of ours
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def kernel_ids(self) -> set[str]:
        """The kernels that there are."""
        status, models = self.call("GET", "/api/kernels")
        assert status == 200
        return {model["id"] for model in models}

    def answers(self, path: str) -> bool:
        """Whether the server is up and answers 200."""
        try:
            return self.call("GET", path)[0] == 200
        except (OSError, ValueError):
            return False


@dataclass(frozen=True)
class Server(Service):
    """A server that runs here, and what it has logged."""

    program: Program
    folder: Path


@dataclass(frozen=True)
class Gateway(Server):
    """The gateway, with the two lines that it prints for people."""

    lab_line: str
    curl_line: str


@contextlib.contextmanager
def running_gateway(folder: Path, teaching: Path, *options: str) -> Iterator[Gateway]:
    """`jupyter gateway` with sandboxes and a random token, serving the teaching environment's kernelspecs."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        str(BIN / "jupyter"),
        "gateway",
        f"--port={free_port()}",
        "--port-retries=0",
        f"--JupyterGateway.lab_folder={folder / 'scratch'}",
        *options,
    ]
    env = quiet_environment(folder, JUPYTER_PATH=str(teaching / "share" / "jupyter"))
    program = Program(argv, folder / "gateway.log", env, folder)
    try:
        program.wait_for(lambda: "\n  curl " in program.output(), "the gateway says that it serves")
        printed = program.output()
        yield Gateway(
            url=_line(printed, "URL: ").rstrip("/"),
            token=_line(printed, "Token: "),
            program=program,
            folder=folder,
            lab_line=_line(printed, "  JUPYTER_GATEWAY_AUTH_TOKEN=", keep=True),
            curl_line=_line(printed, "  curl ", keep=True),
        )
    finally:
        program.stop()


def _line(text: str, start: str, *, keep: bool = False) -> str:
    """The rest of the one line that starts so; the whole of it with `keep`."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line if keep else line.removeprefix(start)


@contextlib.contextmanager
def running_lab(folder: Path, line: str) -> Iterator[Server]:
    """JupyterLab as a shell starts it with that line; nothing is added to it."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    env = quiet_environment(folder, TMPDIR=str(temporary))
    program = Program(["/bin/sh", "-c", line], folder / "lab.log", env, folder)
    try:
        program.wait_for(lambda: _servers(env), "JupyterLab writes where it is")
        (found,) = _servers(env)
        root = Path(found["root_dir"])
        server = Server(f"http://127.0.0.1:{found['port']}", found["token"], program, root)
        program.wait_for(lambda: server.answers("/api/status"), "JupyterLab answers")
        yield server
    finally:
        program.stop()


@contextlib.contextmanager
def lab_without_news(folder: Path, line: str) -> Iterator[Server]:
    """JupyterLab, and a person who does not want the news."""
    with running_lab(folder, line) as server:
        setting = "/lab/api/settings/@jupyterlab/apputils-extension:notification"
        assert server.call("PUT", setting, {"raw": '{"fetchNews": "false"}'})[0] == 204
        yield server


def _servers(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the servers of that environment have written of themselves for `jupyter server list`."""
    files = Path(env["JUPYTER_RUNTIME_DIR"]).glob("jpserver-*.json")
    return [json.loads(text) for file in files if (text := file.read_text())]
