"""Runs cells in a kernel of a real sandbox: backend, relay, link and kernel as a gateway has them."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from gateway.backends.base import Backend, SandboxRequest
from gateway.kernels.attachment import Attachment
from gateway.kernels.kernel import Kernel
from gateway.kernels.launch import KernelSettings, Launch
from gateway.wire import messages

_MIB = 1 << 20
_SETTINGS = KernelSettings(
    window=16 * _MIB,
    max_message=16 * _MIB,
    start_timeout=120,
    restart_limit=0,
    stable_after=10,
    shutdown_grace=0,
)


class KernelEndedError(Exception):
    """The kernel ended while it ran a cell; `said` is what the cell had printed by then."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(reason)
        self.said = said


class Session:
    """One kernel in a sandbox of its own."""

    def __init__(self, kernel: Kernel, attachment: Attachment) -> None:
        self.kernel = kernel
        self._attachment = attachment

    async def run(self, code: str) -> str:
        """What a cell prints. Raises `KernelEndedError`, and `AssertionError` for a cell that fails."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "session": "escape",
            "username": "",
            "date": datetime.datetime.now(datetime.UTC).isoformat(),
            "msg_type": "execute_request",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        await self._attachment.send(messages.join("shell", parts))
        said, reply, idle = "", None, False
        while reply is None or not idle:
            for number, message in await self._attachment.receive():
                self._attachment.acknowledge(number)
                _, parts = messages.unpack(message)
                head, parent, _, body = (json.loads(part) for part in parts[:4])
                if parent.get("msg_id") != header["msg_id"]:
                    continue
                if head["msg_type"] == "stream" and body["name"] == "stdout":
                    said += body["text"]
                elif head["msg_type"] == "execute_reply":
                    reply = body
                elif head["msg_type"] == "status" and body["execution_state"] == "idle":
                    idle = True
        if reply["status"] != "ok":
            if str(reply.get("ename", "")).startswith("Kernel"):
                raise KernelEndedError(str(reply.get("evalue")), said)
            raise AssertionError(f"the cell failed: {reply}")
        return said


@contextlib.asynccontextmanager
async def session(
    backend: Backend, settings: Mapping[str, object], resource_dir: str
) -> AsyncIterator[Session]:
    """A Python kernel in a new sandbox with these settings (`metadata.sandbox` of a kernelspec).

    `resource_dir` stands for the kernelspec's folder, which is shown.
    """
    launch = Launch(
        request=SandboxRequest(
            kernel_id=str(uuid.uuid4()),
            spec_name="escape",
            argv=[backend.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            resource_dir=resource_dir,
            settings=settings,
            owner="escape",
        ),
        interrupt_mode="signal",
        transport="ipc",
        sign=False,
        environment=dict,
    )
    log = logging.getLogger("tests.escape")
    kernel = Kernel(
        launch,
        backend,
        _SETTINGS,
        lambda: datetime.datetime.now(datetime.UTC),
        log,
        on_over=lambda ended: log.warning("kernel %s is over", ended.id),
    )
    kernel.start()
    try:
        await kernel.wait_ready()
        if kernel.execution_state == "dead":
            raise AssertionError(f"the kernel did not start: {kernel.reason}")
        yield Session(kernel, kernel.attach("escape"))
    finally:
        await kernel.shutdown()


#: Runs the program as a child of the kernel, and prints its verdicts as they come.
_RUN = """
import base64, io, json, os, subprocess, sys, sysconfig, zipfile
zipfile.ZipFile(io.BytesIO(base64.b64decode(PROGRAM))).extractall("program")
FACTS["library_folders"] = [
    os.path.dirname(os.__file__), sysconfig.get_path("purelib"), sys.prefix + "/bin", "/opt/relay",
]
FACTS["read_only_file"] = os.__file__
FACTS["relay_pid"], FACTS["relays"] = 1, {}
child = subprocess.Popen(
    [sys.executable, "-I", "program", "probe"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
)
child.stdin.write(json.dumps(FACTS) + "\\n")
child.stdin.close()
for line in child.stdout:
    print(line, end="", flush=True)
errors = child.stderr.read()
assert child.wait() == 0, errors
"""


async def probe(
    inside: Session, program: str, facts: dict[str, Any], names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The verdicts of these probes, by name. One that its sandbox does not outlive has the outcome "ended",
    and those after it have none."""
    code = f"PROGRAM = {program!r}\nFACTS = {facts | {'probes': list(names)}!r}\n" + _RUN
    ended = ""
    try:
        said = await inside.run(code)
    except KernelEndedError as error:
        said, ended = error.said, str(error)
    verdicts = {verdict["name"]: verdict for verdict in map(json.loads, said.splitlines())}
    if ended and len(verdicts) < len(names):
        last = names[len(verdicts)]
        verdicts[last] = {"name": last, "outcome": "ended", "evidence": ended}
    return verdicts
