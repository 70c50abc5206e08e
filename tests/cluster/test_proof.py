"""Whatever keeps executors from being shown to be isolated is noticed, by a gateway and by a doctor alike.

Each case breaks an installation of its own, and mends it again; that it works when nothing is broken is the
first test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Check, IsolationError
from gateway.backends.kubernetes import KubernetesBackend, podspec
from tests.cluster.api import Api
from tests.cluster.deployed import Deployed, deployed
from tests.cluster.installation import installed
from tests.cluster.kubectl import allows, kubectl, until
from tests.conformance.backend.visit import request, visiting
from tests.unit.kubernetes.leaves import HARDENING

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=180)]

LOG = logging.getLogger("tests.proof")

#: Where a policy is not going to bind it need not be waited for.
HASTY = {"policy_timeout": 2.0}


@pytest.fixture(scope="module")
def own(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """An installation that may be broken."""
    with installed() as made:
        made.wait(api)
        with deployed(made, tmp_path_factory.mktemp("gateway")) as there:
            yield there


def backend(own: Deployed, **traits: Any) -> KubernetesBackend:
    return KubernetesBackend(log=LOG, **{**own.traits, **traits})


@asynccontextmanager
async def running(own: Deployed, **traits: Any) -> AsyncIterator[KubernetesBackend]:
    made = backend(own, **traits)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def diagnosis(own: Deployed, **traits: Any) -> dict[str, Check]:
    return {check.name: check for check in await backend(own, **traits).checks()}


def operator() -> dict[str, str]:
    """The traits of who has the cluster's own kubeconfig."""
    return {"kubeconfig": os.environ["KUBECONFIG"]}


def in_executors(own: Deployed, *words: str, stdin: object = None) -> str:
    return kubectl("--namespace", own.installation.executors, *words, stdin=stdin)


def in_hub(own: Deployed, *words: str, stdin: object = None) -> str:
    return kubectl("--namespace", own.installation.gateway, *words, stdin=stdin)


@contextlib.contextmanager
def without(ask: Callable[..., str], own: Deployed, kind: str, name: str) -> Iterator[dict[str, Any]]:
    """An object is gone meanwhile."""
    thing = json.loads(ask(own, "get", kind, name, "--output=json"))
    for member in ("resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"):
        thing["metadata"].pop(member, None)
    ask(own, "delete", kind, name)
    try:
        yield thing
    finally:
        # Whatever has taken its place goes, whole.
        ask(own, "delete", kind, name, "--ignore-not-found")
        ask(own, "create", "--filename=-", stdin=thing)


def canary_policy(own: Deployed, name: str) -> dict[str, Any]:
    """One that opens the way to the canary, beside the deny-all one."""
    hub = {"matchLabels": {"kubernetes.io/metadata.name": own.installation.gateway}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": "integr8s"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"namespaceSelector": hub}]}],
        },
    }


@contextlib.contextmanager
def applied(own: Deployed, policy: dict[str, Any]) -> Iterator[None]:
    in_executors(own, "apply", "--filename=-", stdin=policy)
    try:
        yield
    finally:
        in_executors(own, "delete", "networkpolicy", policy["metadata"]["name"])


async def why_it_does_not_start(own: Deployed, **traits: Any) -> str:
    """What a gateway says that refuses to start."""
    made = backend(own, **traits)
    try:
        with pytest.raises(IsolationError) as refused:
            await made.start()
        return str(refused.value)
    finally:
        await made.close()
        assert own.pods() == []


async def why_no_kernel_starts(made: KubernetesBackend) -> str:
    """What the client of a gateway that runs is told: the relay's answer with what the backend knows."""
    for _ in range(5):
        async with visiting(made) as (sandbox, visit):
            # What was just taken away or added may not hold yet.
            await visit.until(lambda: 1 in visit.answers or "here" in visit.lines)
            await asyncio.sleep(made.policy_timeout + 2)
            if 1 in visit.answers:
                assert visit.answers[1]["ok"] is False
                return await sandbox.explain(visit.answers[1]["error"])
    pytest.fail("kernels start all the same")


# -- nothing is broken --------------------------------------------------------------------------------


async def test_where_all_is_well_every_check_says_so(own: Deployed) -> None:
    found = await diagnosis(own, **operator())
    assert {name: check.detail for name, check in found.items() if not check.ok} == {}
    assert {"control", "egress", "ingress", "exec", "images", "user namespaces", "excess"} <= found.keys()
    until(lambda: own.pods("integr8scode/instance") == [], "the doctor leaves pods")


async def test_the_gateways_account_may_see_all_but_two_things(own: Deployed) -> None:
    found = await diagnosis(own)
    assert {name for name, check in found.items() if check.ok is None} == {"namespace", "quota"}
    assert {name: check.detail for name, check in found.items() if check.ok is False} == {}


@pytest.mark.parametrize(("who", "status"), [("operator", 0), ("gateway", 2)])
def test_the_doctors_exit_status_tells_what_is_unknown(own: Deployed, who: str, status: int) -> None:
    traits = {**own.traits, **(operator() if who == "operator" else {})}
    options = [f"--KubernetesBackend.{name}={value}" for name, value in traits.items()]
    command = [sys.executable, "-m", "gateway", "doctor", "--backend=kubernetes", "--json", *options]
    environment = {**os.environ, "JUPYTER_NO_CONFIG": "1"}
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["ok"] is (True if status == 0 else None)


async def test_a_kernel_starts_and_reaches_nobody(own: Deployed) -> None:
    async with running(own) as made, visiting(made) as (_, visit):
        await visit.until(lambda: "here" in visit.lines)


# -- the policy ---------------------------------------------------------------------------------------


async def test_without_the_policy_nothing_starts(own: Deployed) -> None:
    async with running(own, **HASTY) as made:
        with without(in_executors, own, "networkpolicy", "executor-deny-all"):
            assert "There is not the NetworkPolicy executor-deny-all" in await why_it_does_not_start(own)
            assert (await diagnosis(own))["policy"].ok is False
            said = await why_no_kernel_starts(made)
    assert "is not isolated: it could reach the canary" in said
    assert "There is not the NetworkPolicy executor-deny-all" in said


@pytest.mark.parametrize(
    "spec",
    [
        {"policyTypes": ["Ingress"]},
        {"egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
        {"podSelector": {"matchLabels": {"app": "integr8s", "component": "other"}}},
    ],
    ids=["of one direction", "with an opening", "of other pods"],
)
async def test_a_policy_that_is_not_the_one_is_refused(own: Deployed, spec: dict[str, Any]) -> None:
    with without(in_executors, own, "networkpolicy", "executor-deny-all") as policy:
        in_executors(own, "create", "--filename=-", stdin={**policy, "spec": {**policy["spec"], **spec}})
        said = await why_it_does_not_start(own)
        assert "is not the one that denies everything" in said
        assert (await diagnosis(own))["policy"].ok is False


async def test_another_policy_that_opens_the_way_to_the_canary_is_named(own: Deployed) -> None:
    async with running(own, **HASTY) as made:
        with applied(own, canary_policy(own, "a-way-out")):
            said = await why_no_kernel_starts(made)
            found = await diagnosis(own, **operator(), **HASTY)
    assert "Beside the policy that denies all, these select executors: a-way-out" in said
    assert found["egress"].ok is False
    assert "a-way-out opens" in found["additional"].detail


# -- the canary and the control -----------------------------------------------------------------------


async def test_without_the_canary_nothing_starts(own: Deployed) -> None:
    async with running(own) as made:
        in_hub(own, "scale", "deployment/canary", "--replicas=0")
        try:
            until(lambda: not own.has_canary, "the canary does not go")
            assert "The canary is down" in await why_it_does_not_start(own)
            assert (await diagnosis(own))["control"].ok is False
            with pytest.raises(IsolationError, match="The canary is down"):
                await made.create(request(made))
            assert own.pods() == []
        finally:
            in_hub(own, "scale", "deployment/canary", "--replicas=1")
            in_hub(own, "rollout", "status", "deployment/canary")
            until(lambda: own.has_canary, "the canary does not come back")


async def test_a_gateway_that_may_not_ask_where_the_canary_is_says_so(own: Deployed) -> None:
    hub = own.installation.gateway
    account = f"--as=system:serviceaccount:{hub}:jupyter-gateway"
    ask = ("auth", "can-i", "list", "endpointslices", "--namespace", hub, account)
    async with running(own) as made:
        with without(in_hub, own, "rolebinding", "jupyter-gateway"):
            until(lambda: not allows(*ask), "it may still ask")
            with pytest.raises(IsolationError, match=r"nobody says where the canary is.* endpointslices"):
                await made.create(request(made))
            assert own.pods() == []


async def test_a_control_that_does_not_reach_the_canary_proves_nothing(own: Deployed) -> None:
    async with running(own, control_age=1) as made:
        with without(in_hub, own, "networkpolicy", "canary"):
            assert "The control could not reach the canary" in await why_it_does_not_start(own)
            found = await diagnosis(own)
            assert found["control"].ok is False
            with pytest.raises(IsolationError, match="could not reach the canary"):
                await made.create(request(made))
            assert own.pods() == []


async def test_what_a_control_has_shown_counts_for_its_age(own: Deployed) -> None:
    async with running(own) as made:
        with without(in_hub, own, "networkpolicy", "canary"):
            await (await made.create(request(made))).destroy()


# -- the pod ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(HARDENING.keys() - {"apiVersion", "kind", "metadata.namespace"}))
async def test_a_builder_that_makes_another_pod_starts_nothing(
    own: Deployed, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hardening field left out; what the API server fills in as it should be is spoiled instead."""
    build = podspec._pod

    def mutated(*arguments: Any) -> Any:
        pod = json.loads(json.dumps(build(*arguments)))
        _spoil(pod, path.replace("[]", ".0").split("."))
        return pod

    monkeypatch.setattr(podspec, "_pod", mutated)
    made = backend(own)
    try:
        with pytest.raises(IsolationError, match="does not admit an executor"):
            await made.start()
    finally:
        await made.close()


#: What is as it should be where it is left out, or may not be absent.
_SPOILED = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "hostUsers": True,
    "privileged": True,
    "name": "other",
    "mountPath": "/other",
    "value": "/other",
}


def _spoil(thing: Any, keys: list[str]) -> None:
    *above, last = keys
    for key in above:
        thing = thing[int(key)] if isinstance(thing, list) else thing[key]
    if last in _SPOILED:
        thing[last] = _SPOILED[last]
    else:
        del thing[last]
