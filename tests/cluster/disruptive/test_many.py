"""Many starts at once and long lists hold up nobody: a kernel that runs answers all the while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.backends.kubernetes import KubernetesBackend
from gateway.backends.kubernetes.watch import PodWatch
from tests.cluster.api import Api
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import kubectl
from tests.cluster.test_faults import ROOT, kernels_of
from tests.conformance.backend.visit import request
from tests.integration.kernels.client import Client, started
from tests.support import schedstat

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=400)]

STARTS = 20
#: Members of a kernelspec's settings with which so many find room on one node with two processors.
ROOM = {"cpu_request": 0.05}
#: Seconds within which each has to answer: on a machine that does much else it is the machine that is slow.
PATIENCE_S = 200.0
#: Pods that are listed beside them: with these a list has two pages.
LISTED = 110
#: Seconds between two lists.
OFTEN = 2.0

#: Seconds between two round trips, which are there to be late and not to take the others' time.
PAUSE = 0.1
#: Of the time that all starts take, what one of them may take, on a machine whose processors start twenty
#: kernels meanwhile: one that had to wait for the starts would take all of it.
LONGEST = 1 / 2
#: Of that time, what one turn may hold the event loop for: one start's share, which a start would hold it for
#: that gave nobody else a turn.
HELD = 1 / STARTS
_TICK = 0.01


class Loop:
    """Watches the running event loop: how long a turn has held it at most.

    That is the time between two ticks without what the thread waited for a processor (`schedstat`): a
    busy machine makes every turn late, and none of them longer.
    """

    def __init__(self) -> None:
        self.held = 0.0
        self.ticks = 0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.wait([ticking])

    async def _tick(self) -> None:
        while True:
            began, (_, waited) = time.monotonic(), schedstat.seconds()
            await asyncio.sleep(_TICK)
            waited = schedstat.seconds()[1] - waited
            self.held = max(self.held, time.monotonic() - began - waited - _TICK)
            self.ticks += 1


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A kernelspec of which the node holds many."""
    folder = tmp_path / "kernels" / "python3"
    shutil.copytree(ROOT / "kernelspecs" / "python3", folder)
    spec = json.loads((folder / "kernel.json").read_text())
    (folder / "kernel.json").write_text(json.dumps({**spec, "metadata": {"sandbox": ROOM}}))
    return tmp_path


@contextlib.contextmanager
def many_pods(there: Deployed, api: Api, backend: KubernetesBackend) -> Iterator[None]:
    """So many more pods of this gateway's instance that no node takes."""
    namespace = there.installation.executors
    words = ("quota", "executors", "--namespace", namespace)
    quota = json.loads(kubectl("get", *words, "--output=json"))["spec"]["hard"]
    much = json.dumps([{"op": "replace", "path": "/spec/hard", "value": {"pods": "1000"}}])
    kubectl("patch", *words, "--type=json", f"--patch={much}")
    try:
        for _ in range(LISTED):
            pod = backend.pod(request(backend, settings={**ROOM, "node_selector": {"no": "such"}}))
            assert api.post(there.installation.pods, json.loads(json.dumps(pod))).refusal == ""
        yield
    finally:
        selectors = (
            f"--selector=integr8scode/instance={backend.instance}",
            "--field-selector=status.phase=Pending",
        )
        kubectl("delete", "pods", *selectors, "--namespace", namespace, "--grace-period=0", "--force")
        before = json.dumps([{"op": "replace", "path": "/spec/hard", "value": quota}])
        kubectl("patch", *words, "--type=json", f"--patch={before}")


class Lists:
    """Has watches end as where the server forgets each version soon: everything is listed again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        watch, listing = PodWatch._watch, PodWatch._list

        async def forgetful(pods: PodWatch) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watch(pods), OFTEN)
            pods._version = ""

        async def counted(pods: PodWatch) -> None:
            await listing(pods)
            self.count += len(pods.pods) > LISTED

        monkeypatch.setattr(PodWatch, "_watch", forgetful)
        monkeypatch.setattr(PodWatch, "_list", counted)


async def test_a_kernel_answers_while_many_start_at_once_and_all_pods_are_listed_again(
    there: Deployed, api: Api, specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, loop = Lists(monkeypatch), Loop()
    async with kernels_of(there, specs, "many") as kernels:
        kernels.start_timeout = PATIENCE_S
        kernel = await started(kernels, "python3")
        client = Client(kernel)
        assert isinstance(kernels.backend, KubernetesBackend)
        with many_pods(there, api, kernels.backend):
            trips: list[float] = []
            async with loop.watched():
                others = [kernels.create("python3", {}, "someone") for _ in range(STARTS)]
                starting = asyncio.create_task(_seconds(*(other.wait_ready() for other in others)))
                while not starting.done() or lists.count < 3:
                    began = time.monotonic()
                    assert (await client.run(f"print({began})")).text == f"{began}\n"
                    trips.append(time.monotonic() - began)
                    await asyncio.sleep(PAUSE)
                took = await starting
            assert {other.reason for other in others} == {None}
            assert {other.execution_state for other in others} == {"idle"}
    assert max(trips) < LONGEST * took, trips
    assert len(trips) > STARTS
    assert loop.held < HELD * took
    assert loop.ticks > STARTS


async def _seconds(*waiting: Awaitable[None]) -> float:
    """For how long all of them take."""
    began = time.monotonic()
    await asyncio.gather(*waiting)
    return time.monotonic() - began
