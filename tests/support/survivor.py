"""A backend whose sandboxes outlive their gateway, and isolate nothing: the other meaning of the contract.

A sandbox is a real relay (`relay serve`) in a session of its own, and a file that says which; a stream to it
is a `relay connect`. There is no wall around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.backends.base import Backend, BackendError, Ending, Sandbox, SandboxRequest
from gateway.backends.bubblewrap import sweep
from gateway.relay import command
from gateway.transport.base import Transport
from gateway.transport.pipe import PipeTransport

#: Seconds that a relay waits for a gateway.
_ORPHAN = 120
#: Bytes of the largest file that it lets its kernel write.
_LARGEST_FILE = 1 << 30

_PAUSE = 0.005


class SurvivorSandbox(Sandbox):
    def __init__(self, folder: Path, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self._folder = folder
        self._file = folder / f"{kernel_id}.json"
        found = json.loads(self._file.read_text())
        self._process: int = found["process"]
        self._identity: str = found["identity"]
        self.home: str = found["home"]
        self.spec_name: str = found["spec_name"]
        self.owner: str = found["owner"]
        self.memory: str = found.get("memory", "")
        self.base_env = {"PATH": os.defpath, "HOME": self.home, "LANG": "C.UTF-8"}
        #: The processes that bring streams, by number; each ends with its stream.
        self.bringers: list[int] = []
        self._destroyed = False

    @property
    def lives(self) -> bool:
        return sweep.identity(self._process) == self._identity

    async def connect(self) -> Transport:
        if not self.lives:
            raise BackendError("This sandbox has ended.")
        ours, theirs = socket.socketpair()
        with theirs:
            relay = command.program(sys.executable, str(self._folder / "relay"))
            words = [*relay, "connect", f"{self.home}/run"]
            try:
                self.bringers.append(_leave_running(theirs, "<&3 >&3 3>&-", *words))
            except BaseException:
                ours.close()
                raise
        return PipeTransport(ours)

    async def wait(self) -> Ending:
        await _until(lambda: not self.lives)
        return Ending("it was deleted" if self._destroyed else "its relay has ended")

    async def remember(self, text: str) -> None:
        found = json.loads(self._file.read_text())
        self._file.write_text(json.dumps({**found, "memory": text}))
        self.memory = text

    def kill(self) -> None:
        """End it as a machine's failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)

    async def destroy(self) -> None:
        self._destroyed = True
        if self.lives:
            # It takes its kernel along.
            os.kill(self._process, signal.SIGTERM)
            await self.wait()
        shutil.rmtree(self.home, ignore_errors=True)
        self._file.unlink(missing_ok=True)


class SurvivorBackend(Backend):
    name = "survivor"
    survives_gateway = True
    python = sys.executable

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        command.compile_sources()
        for name, source in command.parts().items():
            place = self._folder / "relay" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                place.symlink_to(source)

    async def create(self, request: SandboxRequest) -> SurvivorSandbox:
        # Elsewhere than below the test's own folder, whose path is too long for sockets.
        home = tempfile.mkdtemp(prefix="survivor-")
        relay = [*command.program(sys.executable, str(self._folder / "relay")), "serve", f"{home}/run"]
        process = _leave_running(
            subprocess.DEVNULL, f"> {home}/log 2>&1", *relay, str(_ORPHAN), str(_LARGEST_FILE)
        )
        record = {
            "process": process,
            "identity": sweep.identity(process),
            "home": home,
            "spec_name": request.spec_name,
            "owner": request.owner,
        }
        (self._folder / f"{request.kernel_id}.json").write_text(json.dumps(record))
        return SurvivorSandbox(self._folder, request.kernel_id)

    async def list(self) -> Sequence[SurvivorSandbox]:
        found = [SurvivorSandbox(self._folder, path.stem) for path in sorted(self._folder.glob("*.json"))]
        return [sandbox for sandbox in found if sandbox.lives]

    async def close(self) -> None:
        """Its sandboxes stay."""


def _leave_running(stdin: int | socket.socket, redirections: str, *argv: str) -> int:
    """Start a program that is nobody's child; its number. Its redirections may use 3 for `stdin`.

    At once, for some ms: who is cancelled meanwhile would leave what it had begun.
    """
    # A shell gives what it leaves in the background an empty stdin.
    starter = subprocess.run(
        ["sh", "-c", f'exec 3<&0; "$@" {redirections} & echo $!', "sh", *argv],
        stdin=stdin,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    return int(starter.stdout)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for is in another process
        await asyncio.sleep(_PAUSE)
