"""k8s/examples/extra-egress opens what it says, and everything else stays as shut as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import PORT, Namespace, Pod, kubectl, until
from tests.conformance.backend.visit import found_inside

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=180)]

EXAMPLE = Path(__file__).parents[2] / "k8s" / "examples" / "extra-egress" / "network-policy.yaml"

#: Who is reached within two seconds, of those that a kernel is told of.
_TRY = """
import socket
def reaches(address):
    try:
        socket.create_connection((address, PORT), 2).close()
    except OSError:
        return False
    return True
tell({name: reaches(address) for name, address in PLACES.items()})
"""


@pytest.fixture(scope="module")
def places(namespace: Namespace) -> dict[str, str]:
    """The service that is opened, and another one beside it."""
    started: list[Pod] = namespace.pods(data={"labels": {"app": "data"}}, beside={"labels": {"app": "other"}})
    return {pod.name: next(each for each in pod.addresses if ":" not in each) for pod in started}


@pytest.fixture
def opened(there: Deployed, namespace: Namespace) -> Iterator[None]:
    """The example, for this installation and with the tests' namespace in the place of `data`."""
    policy = yaml.safe_load(EXAMPLE.read_text())
    policy["metadata"]["namespace"] = there.installation.executors
    (rule,) = policy["spec"]["egress"]
    rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] = namespace.name
    assert rule["ports"][0]["port"] == PORT
    before = _deny_all(there)
    kubectl("create", "--filename=-", stdin=policy)
    try:
        yield
        assert _deny_all(there) == before
    finally:
        kubectl("delete", "--filename=-", stdin=policy)


def _deny_all(there: Deployed) -> object:
    words = ("get", "networkpolicy", "executor-deny-all", "--namespace", there.installation.executors)
    return json.loads(kubectl(*words, "--output=json"))["metadata"]["resourceVersion"]


async def test_the_destination_opens_and_nothing_else_and_the_proof_still_holds(
    there: Deployed, places: dict[str, str], opened: None
) -> None:
    async with there.backend("egress") as backend:
        found: dict[str, bool] = {}
        for _ in range(5):
            # The policy may bind a moment after the pod has started.
            found = await found_inside(backend, f"PORT, PLACES = {PORT}, {places!r}\n{_TRY}")
            assert not found["beside"]
            if found["data"]:
                break
        assert found == {"data": True, "beside": False}
        checks = {check.name: check for check in await backend.checks()}
        assert (checks["policy"].ok, checks["egress"].ok) == (True, True)
        assert "executor-to-data opens" in checks["additional"].detail


async def test_without_it_nothing_is_open(there: Deployed, places: dict[str, str]) -> None:
    async with there.backend("egress") as backend:
        found = await found_inside(backend, f"PORT, PLACES = {PORT}, {places!r}\n{_TRY}")
    assert found == {"data": False, "beside": False}
    until(lambda: there.pods("integr8scode/instance=egress") == [], "pods are left")
