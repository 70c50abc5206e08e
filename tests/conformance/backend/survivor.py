"""A backend whose sandboxes outlive their gateway, and isolate nothing: the other meaning of the contract.

A sandbox is a process that listens on an abstract Unix socket named after its kernel, and a file with its
number, until it is killed. There is no relay in it: it greets each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.backends.base import Backend, BackendError, Ending, Sandbox, SandboxRequest
from gateway.backends.bubblewrap import sweep
from gateway.transport.base import Transport
from gateway.transport.pipe import PipeTransport

_GREETER = """
import os, socket, sys
if os.fork():
    os._exit(0)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + os.path.basename(sys.argv[1]))
listener.listen()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1] + ".pid")
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
    connection.close()
"""

_PAUSE = 0.005


class SurvivorSandbox(Sandbox):
    home = "/"
    base_env = {"PATH": "/usr/bin"}  # noqa: RUF012  # a constant of the double

    def __init__(self, stem: Path) -> None:
        self.kernel_id = stem.name
        self._stem = stem
        self._record = sweep.identity(int(stem.with_suffix(".pid").read_text()))

    @property
    def lives(self) -> bool:
        return self._record is not None and sweep.identity(int(self._record.split()[0])) == self._record

    async def connect(self) -> Transport:
        if not self.lives:
            raise BackendError("This sandbox has ended.")
        stream = socket.socket(socket.AF_UNIX)
        stream.connect("\0" + self.kernel_id)
        return PipeTransport(stream)

    async def wait(self) -> Ending:
        await _until(lambda: not self.lives)
        return Ending("its process has ended")

    async def destroy(self) -> None:
        if self._record is not None and self.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._record.split()[0]), signal.SIGKILL)
            await self.wait()
        self._stem.with_suffix(".pid").unlink(missing_ok=True)


class SurvivorBackend(Backend):
    name = "survivor"
    survives_gateway = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        self._folder.mkdir(exist_ok=True)

    async def create(self, request: SandboxRequest) -> Sandbox:
        stem = self._folder / request.kernel_id
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-I", "-S", "-c", _GREETER, str(stem)],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        await process.wait()
        await _until(stem.with_suffix(".pid").exists)
        return SurvivorSandbox(stem)

    async def list(self) -> Sequence[Sandbox]:
        found = [SurvivorSandbox(path.with_suffix("")) for path in sorted(self._folder.glob("*.pid"))]
        return [sandbox for sandbox in found if sandbox.lives]

    async def close(self) -> None:
        """Its sandboxes stay."""


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for is in another process
            await asyncio.sleep(_PAUSE)
