"""What is measured: this gateway, the two peers, and the bare kernel, with one kernel interpreter."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import processes
from .bare import BareClient
from .client import Client
from .rest import rest
from .websocket import WebSocketClient

TOKEN = "bench-token"  # noqa: S105  # of servers that live for one run on loopback
SPEC = "bench"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Target:
    """One way to a kernel. `pid` is the server's process, None where there is none."""

    name: str
    pid: int | None = None
    #: What it speaks with its clients; the first is what is measured where the protocol is no matter.
    protocols: tuple[str, ...]

    def start(self) -> None:
        """Start the server."""

    def stop(self) -> None:
        """End the server and what it left."""

    def spenders(self) -> dict[str, list[int]]:
        """Whose processor time counts: the first part of the figure's name -> processes."""
        return {}

    def kernel(self, protocol: str | None = None) -> contextlib.AbstractContextManager[Client]:
        """A new kernel and a client of it, from the request to start it on."""
        raise NotImplementedError


class Bare(Target):
    """The kernel's process alone, on ZMQ over ipc."""

    name = "bare kernel"
    protocols = ("zmq",)

    def __init__(self, python: str) -> None:
        self.python = python

    @contextlib.contextmanager
    def kernel(self, protocol: str | None = None) -> Iterator[Client]:
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
                with contextlib.closing(BareClient(Path(folder))) as client:
                    client.wait_until_heard()
                    yield client
            finally:
                process.kill()
                process.wait()


class Server(Target):
    """A gateway's process that is started by a command line and answers on a port of loopback."""

    protocols = ("v1", "legacy")
    spec = SPEC

    def __init__(self, command: list[str], specs: Path) -> None:
        self.command = command
        self.specs = specs
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running_pid(self) -> int:
        """Of a server that was started."""
        if self.pid is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.pid

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def spenders(self) -> dict[str, list[int]]:
        """Itself, and the relay where it has one."""
        relays = processes.relays(self.running_pid)
        if len(relays) > 1:
            raise RuntimeError(f"{self.name} has more than the one kernel that is measured: {relays}")
        return {"": [self.running_pid], **({"relay_": relays} if relays else {})}

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Server]:
        """Another server of this kind, with nothing behind it."""
        server = copy.copy(self)
        with running(server):
            yield server

    def start(self) -> None:
        """Return once it answers. Raises `RuntimeError` with its log if it does not, and ends it."""
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
                    told = self.log.read_text()
                    self.stop()
                    raise RuntimeError(f"{self.name} did not start:\n{told}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = self.pid = None
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def kernel(self, protocol: str | None = None) -> Iterator[WebSocketClient]:
        # As notebooks do; Enterprise Gateway starts nothing for a user of the name root.
        body = {"name": self.spec, "env": {"KERNEL_USERNAME": "bench"}}
        kernel_id = rest(self.port, TOKEN, "POST", "/api/kernels", body)["id"]
        try:
            path = f"/api/kernels/{kernel_id}/channels?session_id=bench"
            client = WebSocketClient.connect(self.port, path, TOKEN, protocol or self.protocols[0])
            with contextlib.closing(client):
                yield client
        except Exception as error:
            error.add_note(f"The log of {self.name} ends:\n{self.log.read_text()[-3000:]}")
            raise
        finally:
            rest(self.port, TOKEN, "DELETE", f"/api/kernels/{kernel_id}")


class Ours(Server):
    name = "this gateway"

    def arguments(self) -> list[str]:
        return [
            "--ip=127.0.0.1",
            f"--port={self.port}",
            f"--token={TOKEN}",
            *self.backend(),
        ]

    def backend(self) -> list[str]:
        """Which one, and its settings."""
        # Apart from other gateways of this account: each start sweeps what it takes for left there.
        return [f"--BubblewrapBackend.runtime_dir={self.folder}/run"]


class KernelGateway(Server):
    """Its websocket is jupyter_server's, which takes the v1 subprotocol where it is offered
    (2.21, `services/kernels/websocket.py`, `select_subprotocol`)."""

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
    """Its websocket is jupyter_server's too, from before Kernel Gateway's, and takes v1 as well
    (1.24, `base/zmqhandlers.py`, `select_subprotocol`)."""

    name = "Jupyter Enterprise Gateway"

    def arguments(self) -> list[str]:
        return [
            "--EnterpriseGatewayApp.ip=127.0.0.1",
            f"--EnterpriseGatewayApp.port={self.port}",
            f"--EnterpriseGatewayApp.auth_token={TOKEN}",
        ]


def write_spec(
    folder: Path, python: str, name: str = SPEC, sandbox: Mapping[str, object] | None = None
) -> Path:
    """A folder for JUPYTER_PATH with a kernelspec that all targets can start; `sandbox` is our gateway's."""
    spec = folder / "kernels" / name
    spec.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    written = {"argv": argv, "display_name": "Bench", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps({**written, "metadata": {"sandbox": sandbox or {}}}))
    return folder


@contextlib.contextmanager
def running(target: Target) -> Iterator[None]:
    """Its server, from the start to the end."""
    target.start()
    try:
        yield
    finally:
        target.stop()
