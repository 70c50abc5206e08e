"""What fails under a kernel costs what it must and no more: a right reason, or nothing at all.

Every test ends with the same two looks: nothing of its kernels is left, and every request has had its end.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from tornado.websocket import WebSocketClientConnection, websocket_connect

from gateway.backends.kubernetes import KubernetesBackend
from gateway.kernels.kernel import Kernel
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import kubectl, until
from tests.conformance.backend.visit import request
from tests.integration.kernels.client import Client, Told, becomes, started
from tests.support.gateways import GatewayProgram, bare_environment, call, gateway_command

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=300)]

ROOT = Path(__file__).parents[2]

#: Seconds within which a pod is evicted whose volume is too full. A kubelet looks at a new pod's volumes
#: within a minute and then every one or two (volumeStatsAggPeriod), and draws the consequences every 10 s.
EVICTED_S = 200.0

#: A cell that prints so many lines, a hundred a second.
COUNT = "import time\nfor n in range({lines}):\n    print(n, flush=True)\n    time.sleep(0.01)"


def counted(lines: int) -> str:
    """What it prints."""
    return "".join(f"{n}\n" for n in range(lines))


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "kernelspecs" / "python3", tmp_path / "kernels" / "python3")
    return tmp_path


@asynccontextmanager
async def kernels_of(there: Deployed, specs: Path, instance: str) -> AsyncIterator[Kernels]:
    """A gateway's kernels, all of which have gone in the end."""
    manager = KernelSpecManager(kernel_dirs=[str(specs / "kernels")], ensure_native_kernel=False)
    async with there.backend(instance) as backend:
        kernels = Kernels(backend=backend, kernelspecs=KernelSpecs(manager=manager))
        await kernels.start()
        try:
            yield kernels
        finally:
            await asyncio.gather(*(kernels.delete(kernel.id) for kernel in kernels.list()))
            await kernels.close()
    assert there.pods(f"integr8scode/instance={instance}") == []


def pod_of(there: Deployed, kernel: Kernel) -> str:
    (pod,) = there.pods(f"integr8scode/kernel-id={kernel.id}")
    return str(pod["metadata"]["name"])


async def counts_to_the_end(client: Client, cell: str, lines: int) -> None:
    told: Told = await client.end(cell)
    assert told.text == counted(lines)
    assert told.reply["status"] == "ok"


# -- the kernel and its pod ---------------------------------------------------------------------------


async def test_a_kernel_that_takes_too_much_memory_says_so_and_comes_back(
    there: Deployed, specs: Path
) -> None:
    async with kernels_of(there, specs, "memory") as kernels:
        kernel = await started(kernels, "python3")
        client = Client(kernel)
        told = await client.run("taken = [bytearray(1 << 24) for _ in range(1000)]")
        assert "memory" in told.reply["evalue"]
        await becomes(kernel, "idle")
        assert (await client.run("print(1)")).text == "1\n"


async def test_a_pod_that_is_deleted_ends_its_cell_and_the_kernel_gets_another(
    there: Deployed, specs: Path
) -> None:
    async with kernels_of(there, specs, "deleted") as kernels:
        kernel = await started(kernels, "python3")
        client = Client(kernel)
        cell = await client.begin_busy()
        before = pod_of(there, kernel)
        uid = there.pods(f"integr8scode/kernel-id={kernel.id}")[0]["metadata"]["uid"]
        kubectl("delete", "pod", before, "--namespace", there.installation.executors, "--wait=false")
        told = await client.end(cell)
        assert "its pod was deleted" in told.reply["evalue"]
        await becomes(kernel, "idle")
        assert there.pods(f"integr8scode/kernel-id={kernel.id}")[0]["metadata"]["uid"] != uid
        assert (await client.run("print(1)")).text == "1\n"


async def test_a_pod_that_fills_its_disk_is_evicted_and_the_reason_says_so(
    there: Deployed, specs: Path
) -> None:
    path = specs / "kernels" / "python3" / "kernel.json"
    spec = json.loads(path.read_text())
    path.write_text(json.dumps({**spec, "metadata": {"sandbox": {"tmp_size": "16MiB"}}}))
    async with kernels_of(there, specs, "disk") as kernels:
        kernel = await started(kernels, "python3")
        client = Client(kernel, EVICTED_S)
        told = await client.run(
            "import time\nwith open('/tmp/much', 'wb') as file:\n    file.write(bytes(64 << 20))\n"
            "time.sleep(200)"
        )
        assert "its node evicted it" in told.reply["evalue"]
        assert "tmp" in told.reply["evalue"]


@pytest.mark.parametrize(
    ("settings", "within", "words"),
    [
        # It is tried again before it counts as missing.
        ({"image": "localhost:1/none:1"}, 60.0, ["localhost:1/none:1", "cannot be had"]),
        # It might still find one, so that this takes as long as a start may.
        ({"node_selector": {"no": "such"}}, 5.0, ["no place for it", "try again later"]),
        ({"runtime_class": "none"}, 60.0, ["does not admit", "none"]),
        ({"priority_class": "none"}, 60.0, ["does not admit", "none"]),
    ],
    ids=["image", "place", "runtime class", "priority class"],
)
async def test_a_kernel_that_cannot_start_says_why(
    there: Deployed, specs: Path, settings: dict[str, Any], within: float, words: list[str]
) -> None:
    path = specs / "kernels" / "python3" / "kernel.json"
    spec = json.loads(path.read_text())
    path.write_text(json.dumps({**spec, "metadata": {"sandbox": settings}}))
    async with kernels_of(there, specs, "cannot") as kernels:
        kernels.backend.start_timeout = within  # type: ignore[attr-defined]
        kernel = kernels.create("python3", {}, "someone")
        await kernel.wait_ready()
        assert kernel.execution_state == "dead"
        assert kernel.reason is not None
        assert all(word in kernel.reason for word in words), kernel.reason


async def test_a_quota_that_is_used_up_is_named(there: Deployed, specs: Path) -> None:
    namespace = there.installation.executors
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"count/pods": "1"}},
    }
    async with kernels_of(there, specs, "quota") as kernels:
        first = await started(kernels, "python3")
        kubectl("create", "--namespace", namespace, "--filename=-", stdin=quota)
        try:
            words = ("get", "resourcequota", "tight", "--namespace", namespace, "--output=json")
            until(lambda: "used" in json.loads(kubectl(*words)).get("status", {}), "the quota is not counted")
            second = kernels.create("python3", {}, "someone")
            await second.wait_ready()
            assert second.reason is not None
            assert "quota is used up" in second.reason
            assert first.execution_state == "idle"
        finally:
            kubectl("delete", "resourcequota", "tight", "--namespace", namespace)


# -- two gateways -------------------------------------------------------------------------------------


async def test_two_gateways_in_one_namespace_have_nothing_to_do_with_each_other(
    there: Deployed, specs: Path
) -> None:
    async with kernels_of(there, specs, "one") as one:
        kernel = await started(one, "python3")
        async with kernels_of(there, specs, "other") as other:
            assert other.list() == []
            theirs = await started(other, "python3")
            assert [each.kernel_id for each in await one.backend.list()] == [kernel.id]
            assert [each.kernel_id for each in await other.backend.list()] == [theirs.id]
        assert kernel.execution_state == "idle"
        assert (await Client(kernel).run("print(1)")).text == "1\n"


async def test_what_never_got_a_kernel_is_swept_by_the_next_gateway(there: Deployed, specs: Path) -> None:
    """An orphan: its gateway was killed before it ran, or it has ended meanwhile."""
    backend = KubernetesBackend(instance="orphans", **there.traits)
    pod = backend.pod(request(backend, settings={"node_selector": {"no": "such"}}))
    kubectl("create", "--namespace", there.installation.executors, "--filename=-", stdin=pod)
    async with kernels_of(there, specs, "orphans") as kernels:
        assert kernels.list() == []
        await asyncio.to_thread(until, lambda: not there.pods("integr8scode/instance=orphans"), "it stays")


# -- the gateway --------------------------------------------------------------------------------------


class Page:
    """A page with a notebook: one websocket at a time, and what it has been told."""

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self.session = uuid.uuid4().hex
        self.text = ""
        self.repeated = 0
        self._seen: set[str] = set()
        #: What ends a cell, of that which has not come; the two come by different ways, so in either order.
        self._awaited = {"reply", "idle"}
        self._socket: WebSocketClientConnection | None = None

    @property
    def ended(self) -> bool:
        return not self._awaited

    async def open(self, url: str, token: str) -> None:
        self.close()
        place = f"ws{url.removeprefix('http')}api/kernels/{self.kernel_id}/channels"
        self._socket = await websocket_connect(f"{place}?session_id={self.session}&token={token}")

    async def execute(self, code: str) -> None:
        assert self._socket is not None
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": self.session,
            "username": "u",
            "version": "5.4",
            "date": "2026-01-01T00:00:00.000000Z",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
        await self._socket.write_message(json.dumps(message))

    async def read(self) -> None:
        """Until the cell has ended, or the connection has."""
        assert self._socket is not None
        while not self.ended:
            text = await self._socket.read_message()
            if text is None:
                return
            message = json.loads(text)
            if message["header"]["msg_id"] in self._seen:
                self.repeated += 1
                continue
            self._seen.add(message["header"]["msg_id"])
            if message["msg_type"] == "stream":
                self.text += message["content"]["text"]
            elif message["msg_type"] == "execute_reply":
                self._awaited.discard("reply")
            elif message["content"].get("execution_state") == "idle" and self._is_of_a_cell(message):
                self._awaited.discard("idle")

    @staticmethod
    def _is_of_a_cell(message: dict[str, Any]) -> bool:
        return bool(message["parent_header"].get("msg_type") == "execute_request")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


@contextmanager
def gateway(there: Deployed, specs: Path, home: Path) -> Iterator[tuple[GatewayProgram, str]]:
    traits = {**there.traits, "instance": "killed"}
    words = (f"--KubernetesBackend.{name}={value}" for name, value in traits.items())
    environment = bare_environment(home, JUPYTER_PATH=str(specs), JUPYTER_GATEWAY_TOKEN="secret")  # noqa: S106
    command = gateway_command("--port=0", "--backend=kubernetes", *words)
    program = GatewayProgram(command, environment, ROOT)
    try:
        yield program, program.url()
    finally:
        program.close()


async def test_ten_busy_kernels_outlive_a_gateway_that_is_killed(
    there: Deployed, specs: Path, tmp_path: Path
) -> None:
    lines = 1000
    with gateway(there, specs, tmp_path) as (program, url):
        models = await asyncio.gather(
            *(
                asyncio.to_thread(call, f"{url}api/kernels", "secret", "POST", {"name": "python3"})
                for _ in range(10)
            )
        )
        pages = [Page(model["id"]) for _, model in models]
        await asyncio.gather(*(page.open(url, "secret") for page in pages))
        await asyncio.gather(*(page.execute(COUNT.format(lines=lines)) for page in pages))
        reading = asyncio.gather(*(page.read() for page in pages))
        while any(page.text.count("\n") < 50 for page in pages):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        program.process.kill()
        await reading
        assert not any(page.ended for page in pages)
    with gateway(there, specs, tmp_path) as (_, url):
        _, models = call(f"{url}api/kernels", "secret")
        assert {model["id"] for model in models} == {page.kernel_id for page in pages}
        await asyncio.gather(*(page.open(url, "secret") for page in pages))
        async with asyncio.timeout(120):
            await asyncio.gather(*(page.read() for page in pages))
        for page in pages:
            page.close()
            assert page.text == counted(lines)
            # What a page has read without its pong having come back: no gateway knows of it (design.md, 4).
            assert page.repeated < 100
            assert call(f"{url}api/kernels/{page.kernel_id}", "secret", "DELETE")[0] == 204
    until(lambda: there.pods("integr8scode/instance=killed") == [], "pods are left")
