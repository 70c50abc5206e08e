"""What is measured: this gateway, the two peers, and the bare kernel, with one kernel interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .client import BareClient, Client, WebSocketClient, rest

TOKEN = "bench-token"  # noqa: S105  # of servers that live for one run on loopback
SPEC = "bench"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Target:
    """One way to a kernel. `pid` is the server's process, None where there is none."""

    name: str
    pid: int | None = None
    v1 = False

    def start(self) -> None:
        """Start the server."""

    def stop(self) -> None:
        """End the server and what it left."""

    @contextlib.contextmanager
    def kernel(self, v1: bool | None = None) -> Iterator[Client]:
        """A new kernel and a client of it, from the request to start it on."""
        raise NotImplementedError


class Bare(Target):
    """The kernel's process alone, on ZMQ over ipc."""

    name = "bare"

    def __init__(self, python: str) -> None:
        self.python = python

    @contextlib.contextmanager
    def kernel(self, v1: bool | None = None) -> Iterator[Client]:
        with tempfile.TemporaryDirectory(prefix="jsg") as folder:
            ports = dict(zip(("shell", "iopub", "stdin", "control", "hb"), range(1, 6), strict=True))
            connection = {f"{name}_port": port for name, port in ports.items()} | {
                "ip": f"{folder}/k",
                "transport": "ipc",
                "key": "",
                "signature_scheme": "hmac-sha256",
            }
            file = Path(folder, "c.json")
            file.write_text(json.dumps(connection))
            process = subprocess.Popen(
                [self.python, "-m", "ipykernel_launcher", "-f", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                client = BareClient(Path(folder))
                client.wait_until_heard()
                yield client
                client.close()
            finally:
                process.kill()
                process.wait()


class Server(Target):
    """A gateway's process that is started by a command line and answers on a port of loopback."""

    def __init__(self, command: list[str], specs: Path) -> None:
        self.command = command
        self.specs = specs
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="jsg-bench-")
        env = {
            "PATH": os.environ["PATH"],
            "HOME": self.folder,
            "LANG": "C.UTF-8",
            "JUPYTER_PATH": str(self.specs),
            "JUPYTER_CONFIG_DIR": self.folder,
            "JUPYTER_RUNTIME_DIR": self.folder,
        }
        self.log = Path(self.folder, "log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.command, *self.arguments()], env=env, cwd=self.folder, stdout=log, stderr=log
            )
        self.pid = self.process.pid
        deadline = time.monotonic() + 30
        while True:
            try:
                rest(self.port, TOKEN, "GET", "/api/kernelspecs")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def kernel(self, v1: bool | None = None) -> Iterator[Client]:
        # As notebooks do; Enterprise Gateway starts nothing for a user of the name root.
        body = {"name": SPEC, "env": {"KERNEL_USERNAME": "bench"}}
        kernel_id = rest(self.port, TOKEN, "POST", "/api/kernels", body)["id"]
        try:
            path = f"/api/kernels/{kernel_id}/channels?session_id=bench"
            client = WebSocketClient(self.port, path, TOKEN, self.v1 if v1 is None else v1)
            yield client
            client.close()
        finally:
            rest(self.port, TOKEN, "DELETE", f"/api/kernels/{kernel_id}")


class Ours(Server):
    name = "this gateway"
    v1 = True

    def arguments(self) -> list[str]:
        return ["--ip=127.0.0.1", f"--port={self.port}", f"--token={TOKEN}"]


class KernelGateway(Server):
    name = "Jupyter Kernel Gateway"

    def arguments(self) -> list[str]:
        return [
            "--KernelGatewayApp.ip=127.0.0.1",
            f"--KernelGatewayApp.port={self.port}",
            f"--KernelGatewayApp.auth_token={TOKEN}",
            # By default it drops output beyond 1,000 messages or 1 MB a second.
            "--ZMQChannelsWebsocketConnection.limit_rate=False",
        ]


class EnterpriseGateway(Server):
    name = "Jupyter Enterprise Gateway"

    def arguments(self) -> list[str]:
        return [
            "--EnterpriseGatewayApp.ip=127.0.0.1",
            f"--EnterpriseGatewayApp.port={self.port}",
            f"--EnterpriseGatewayApp.auth_token={TOKEN}",
        ]


def write_spec(folder: Path, python: str) -> Path:
    """A folder for JUPYTER_PATH with the one kernelspec that every target starts."""
    spec = folder / "kernels" / SPEC
    spec.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Bench", "language": "python"})
    )
    return folder


def targets(specs: Path, kernel: str, kernel_gateway: str, enterprise_gateway: str) -> list[Target]:
    """All four; the last two arguments are the peers' own commands."""
    return [
        Bare(kernel),
        Ours([sys.executable, "-m", "gateway"], specs),
        KernelGateway([kernel_gateway], specs),
        EnterpriseGateway([enterprise_gateway], specs),
    ]
