"""The REST surface of the program itself, with kernels in real sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.integration.channels.clients import Kernel, Kernels, text
from tests.support.gateways import GatewayProgram, bare_environment, call, gateway_command

TOKEN = "of-the-tests"  # noqa: S105  # a test's
CONFIG = Path(__file__).parents[2] / "unit" / "web" / "schemathesis.toml"


class Gateway:
    """A running gateway with few kernels, and what a test asks of it."""

    def __init__(self, program: GatewayProgram) -> None:
        self.program = program
        self.url = program.url()
        self.processes = self.descendants()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return call(self.url + path, TOKEN, method, body)

    def descendants(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.program.process.pid).children(recursive=True)}

    def names(self) -> set[str]:
        """What its processes are called; one may end while it is asked."""
        names = set()
        for pid in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                names.add(psutil.Process(pid).name())
        return names

    def nothing_is_left(self) -> None:
        """Shut every kernel down; then no process of any may be there."""
        for kernel in self.ask("GET", "api/kernels")[1]:
            assert self.ask("DELETE", f"api/kernels/{kernel['id']}")[0] == 204
        assert self.ask("GET", "api/kernels") == (200, [])
        assert self.ask("GET", "api/sessions") == (200, [])
        deadline = time.monotonic() + 2
        while self.descendants() - self.processes:
            assert time.monotonic() < deadline, self.descendants() - self.processes
            time.sleep(0.02)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    for name, argv in {
        "missing": ["/nowhere/python", "-f", "{connection_file}"],
        "exits": ["python", "-c", "import sys; sys.exit('I have no hands')"],
    }.items():
        folder = home / "data" / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": argv, "display_name": name, "language": name}
        (folder / "kernel.json").write_text(json.dumps(spec))
    command = gateway_command(
        "--ip=127.0.0.1",
        "--port=0",
        f"--token={TOKEN}",
        "--Kernels.max_kernels=20",
        "--Kernels.start_timeout=60",
    )
    program = GatewayProgram(command, bare_environment(home), home)
    yield Gateway(program)
    assert program.end() == 0
    program.close()


def test_a_kernel_is_started_interrupted_restarted_and_gone(gateway: Gateway):
    status, model = gateway.ask("POST", "api/kernels", {"name": "python3", "env": {"KERNEL_X": "dropped"}})
    assert (status, model["execution_state"]) == (201, "idle")
    path = f"api/kernels/{model['id']}"
    assert gateway.ask("POST", f"{path}/interrupt") == (204, None)
    status, restarted = gateway.ask("POST", f"{path}/restart")
    assert (status, restarted["id"]) == (200, model["id"])
    assert restarted["execution_state"] in ("idle", "busy")
    assert gateway.ask("DELETE", path) == (204, None)
    assert gateway.ask("DELETE", path)[0] == 404
    gateway.nothing_is_left()


#: Blocks for ever in the C library, with the interpreter's lock held: no signal is ever looked at, and no
#: output can be sent. So ipykernel's thread is made to send that it is busy before, and what the process is
#: called tells from outside how far it is.
NEVER_LOOKS = """
print(flush=True)
library = ctypes.PyDLL(None)
mutex = ctypes.create_string_buffer(256)
library.pthread_mutex_lock(mutex)
library.prctl(15, b"never-looks")  # PR_SET_NAME
library.pthread_mutex_lock(mutex)
"""

#: Seconds. Two are promised, on a machine that does nothing else, which this one need not be. A restart that
#: waited for the kernel to end by itself would take `Kernels.start_timeout`, 60 s.
RESTART = 20


@pytest.mark.gen_test(timeout=120)
async def test_c_code_that_never_looks_stays_busy_after_an_interrupt_and_is_restarted(gateway: Gateway):
    async with Kernels(gateway.url, TOKEN).kernel() as kernel:
        client = await kernel.connect(v1=True)
        await client.run("import ctypes")
        msg_id = await client.execute(NEVER_LOOKS)
        async with asyncio.timeout(60):
            while "never-looks" not in gateway.names():  # noqa: ASYNC110  # /proc has no event
                await asyncio.sleep(0.02)
            while (await kernel.model())["execution_state"] != "busy":  # noqa: ASYNC110  # nor has REST
                await asyncio.sleep(0.02)
        assert (await kernel.act("interrupt")).code == 204
        await asyncio.sleep(0.5)  # code that looks would have ended
        assert "never-looks" in gateway.names()
        assert (await kernel.model())["execution_state"] == "busy"
        began = time.monotonic()
        answer = await kernel.act("restart")
        assert time.monotonic() - began < RESTART
        assert answer.code == 200
        (reply,) = [m for m in await client.answer(msg_id) if m["channel"] == "shell"]
        assert reply["content"]["ename"] == "KernelRestarted"
        assert text(await client.run("print('library' in globals())")) == "False\n"
    gateway.nothing_is_left()


def test_a_session_of_thebe_finds_its_kernel_again_and_changes_it(gateway: Gateway):
    asked = {"name": "thebe.ipynb", "path": "/", "type": "notebook", "kernel": {"name": "python"}}
    status, session = gateway.ask("POST", "api/sessions", asked)
    assert (status, session["kernel"]["name"]) == (201, "python3")
    assert gateway.ask("POST", "api/sessions", asked)[1]["id"] == session["id"]
    status, changed = gateway.ask("PATCH", f"api/sessions/{session['id']}", {"kernel": {"name": "python3"}})
    assert status == 200
    assert [kernel["id"] for kernel in gateway.ask("GET", "api/kernels")[1]] == [changed["kernel"]["id"]]
    assert gateway.ask("DELETE", f"api/sessions/{session['id']}") == (204, None)
    gateway.nothing_is_left()


@pytest.mark.parametrize(("name", "reason"), [("missing", "/nowhere/python"), ("exits", "I have no hands")])
def test_a_start_that_fails_says_why_and_leaves_nothing(gateway: Gateway, name: str, reason: str):
    status, model = gateway.ask("POST", "api/kernels", {"name": name})
    assert (status, model["execution_state"]) == (201, "dead")
    assert reason in model["reason"]
    gateway.nothing_is_left()


@pytest.mark.gen_test(timeout=240)
async def test_twenty_starts_at_once_never_see_each_others_values(gateway: Gateway):
    kernels = Kernels(gateway.url, TOKEN)
    http = AsyncHTTPClient(force_instance=True, max_clients=20)  # Tornado's default would be ten at once

    async def seen(number: int) -> str:
        env = {"KERNEL_USERNAME": f"user-{number}", "SECRET": f"secret-{number}"}
        answer = await http.fetch(
            f"{gateway.url}api/kernels",
            method="POST",
            headers={"Authorization": f"token {TOKEN}"},
            body=json.dumps({"name": "python3", "env": env}),
            request_timeout=60,
        )
        client = await Kernel(kernels, json.loads(answer.body)["id"]).connect(v1=True)
        output = text(await client.run("import os; print(sorted(os.environ.items()))"))
        await client.close()
        return output

    outputs = await asyncio.gather(*(seen(number) for number in range(20)))
    for number, output in enumerate(outputs):
        assert f"'user-{number}'" in output
        assert output.count("user-") == 1
        assert "secret" not in output
    http.close()
    gateway.nothing_is_left()


def test_schemathesis_leaves_no_kernel(gateway: Gateway, tmp_path: Path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            f"--config-file={CONFIG}",
            "run",
            f"{gateway.url}api/spec.yaml",
            f"--url={gateway.url}",
            f"--header=Authorization: token {TOKEN}",
            "--checks=all",
            "--phases=examples,fuzzing,stateful",
            "--seed=4",
            "--max-examples=3",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    gateway.nothing_is_left()
