"""What fails in the cluster under a kernel costs what it must and no more: a right reason, or nothing at all.

As in ../test_faults.py every test ends with the same two looks: nothing of its kernels is left, and every
request has had its end.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.cluster.deployed import Deployed, own_cluster
from tests.cluster.disruptive.stopped import stopped
from tests.cluster.kubectl import allows, kubectl, until
from tests.cluster.test_faults import COUNT, counts_to_the_end, kernels_of, specs
from tests.integration.kernels.client import Client, started
from tools.cluster.components import CTR

__all__ = ["specs"]

pytestmark = [pytest.mark.requires("cluster", "own-cluster"), pytest.mark.gen_test(timeout=300)]

#: Seconds within which a kernel's client hears of a node that is lost: the cluster says so after 50 s, the
#: gateway gives it 30 s more (`sandbox.NODE_PATIENCE`), and the cluster looks every 5 s.
NODE_LOST_S = 110.0


def running(uid: str) -> set[str]:
    """The containers of a pod that run on the node, whatever the cluster knows of it."""
    mine = own_cluster().run(*CTR, "containers", "list", "--quiet", f'labels."io.kubernetes.pod.uid"=={uid}')
    tasks = (line.split() for line in own_cluster().run(*CTR, "tasks", "list").splitlines())
    return {name for name, _, status in tasks if status == "RUNNING"} & {*mine.split()}


def canary_is_ready(there: Deployed) -> bool:
    """Its pod says so itself, and its service leads there."""
    words = ("get", "pods", "--selector=component=canary", "--namespace", there.installation.gateway)
    pods = json.loads(kubectl(*words, "--output=json"))["items"]
    conditions = [each for pod in pods for each in pod["status"].get("conditions", [])]
    return [each["status"] for each in conditions if each["type"] == "Ready"] == ["True"] and there.has_canary


async def works_again(there: Deployed) -> None:
    """The control plane, the node and what a gateway needs, for what comes next."""
    await asyncio.to_thread(
        until, lambda: allows("get", "--raw=/readyz"), "the API server does not come back"
    )
    # It asks an API server that was away again after up to a minute. Until then it sees no lease of the node
    # renewed, and may take it for lost although it is not: so it looks afresh.
    with stopped("kube-controller-manager"):
        pass
    await asyncio.to_thread(until, lambda: own_cluster().is_ready, "the node does not come back")
    await asyncio.to_thread(until, lambda: canary_is_ready(there), "the canary does not come back")


@pytest.mark.parametrize(("name", "away"), [("kubelet", 5.0), ("kube-apiserver", 30.0), ("felix", 5.0)])
async def test_a_component_that_is_away_for_a_while_costs_no_output(
    there: Deployed, specs: Path, name: str, away: float
) -> None:
    async with kernels_of(there, specs, f"away-{name}") as kernels:
        kernel = await started(kernels, "python3")
        client = Client(kernel)
        lines = int(100 * (away + 10))
        cell = await client.begin(COUNT.format(lines=lines))
        await client.until(lambda: client.told[cell].text.count("\n") > 100)
        with stopped(name):
            await asyncio.sleep(away)
        await counts_to_the_end(client, cell, lines)
        assert (await client.run("print('here')")).text == "here\n"
        await works_again(there)


async def test_a_node_that_is_lost_ends_its_cells_and_says_so_and_nothing_stays_on_it(
    there: Deployed, specs: Path
) -> None:
    """As after a cut cable: nobody hears of its kubelet, and its containers run on."""
    async with kernels_of(there, specs, "lost") as kernels:
        kernel = await started(kernels, "python3")
        client = Client(kernel, NODE_LOST_S)
        cell = await client.begin_busy()
        uid = there.pods(f"integr8scode/kernel-id={kernel.id}")[0]["metadata"]["uid"]
        assert running(uid)
        with stopped("kubelet"):
            told = await client.end(cell)
            assert told.reply["evalue"] == "The kernel's sandbox ended: its node does not answer."
            assert running(uid)
        await works_again(there)
        # It looks for another place by itself, and is dead where there is none: the only node was this one.
        async with asyncio.timeout(60):
            await kernel.wait_ready()
        if kernel.execution_state == "dead":
            await kernel.restart()
        assert (await client.run("print(1)")).text == "1\n"
        await asyncio.to_thread(until, lambda: not running(uid), "its containers stay on the node")
