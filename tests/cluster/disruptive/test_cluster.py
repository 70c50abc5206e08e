"""The cluster is what the other tests take it for: it enforces policies, knows names, refuses and isolates.

Whatever a test shows to be shut, it shows to be open too where the policy does not apply.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cluster.deployed import own_cluster
from tests.cluster.disruptive.stopped import stopped
from tests.cluster.kubectl import PORT, Namespace, Pod, kubectl, until

pytestmark = pytest.mark.requires("cluster")

_LABELS = {"app": "integr8s", "component": "executor"}

_DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny-all"},
    "spec": {"podSelector": {"matchLabels": _LABELS}, "policyTypes": ["Ingress", "Egress"]},
}


@pytest.fixture(scope="module")
def pods(namespace: Namespace) -> dict[str, Pod]:
    """Two ordinary pods and one that a deny-all policy selects."""
    kubectl("create", "--namespace", namespace.name, "--filename=-", stdin=_DENY_ALL)
    started = namespace.pods(one={}, other={"spec": {"hostUsers": False}}, denied={"labels": _LABELS})
    return {pod.name: pod for pod in started}


def test_the_node_is_ready() -> None:
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    conditions = {each["type"]: each["status"] for each in nodes[0]["status"]["conditions"]}
    assert conditions["Ready"] == "True"


@pytest.mark.requires("cluster", "own-cluster", "ipv6")
def test_a_pod_has_an_address_of_each_family(pods: dict[str, Pod]) -> None:
    assert sorted(":" in address for address in pods["one"].addresses) == [False, True]


def test_ordinary_pods_reach_each_other_by_each_family(pods: dict[str, Pod]) -> None:
    for address in pods["other"].addresses:
        assert pods["one"].reaches(address)


def test_a_pod_under_the_policy_reaches_nobody_by_any_family(pods: dict[str, Pod]) -> None:
    for address in pods["other"].addresses:
        until(lambda to=address: not pods["denied"].reaches(to), f"the policy lets a pod reach {address}")


def test_nobody_reaches_a_pod_under_the_policy_by_any_family(pods: dict[str, Pod]) -> None:
    for address in pods["denied"].addresses:
        until(lambda to=address: not pods["one"].reaches(to), f"the policy lets a pod reach {address}")
    # It listens all the same.
    assert pods["denied"].reaches("localhost")


def test_a_name_leads_to_a_service_for_an_ordinary_pod_alone(pods: dict[str, Pod]) -> None:
    assert pods["one"].reaches("kubernetes.default.svc.cluster.local.", 443)
    until(lambda: not pods["denied"].reaches("kubernetes.default.svc.cluster.local.", 443), "names are known")


def test_what_runs_by_exec_gives_its_output_and_its_status(pods: dict[str, Pod]) -> None:
    result = pods["denied"].run("sh", "-c", "echo said; exit 3")
    assert (result.stdout, result.returncode) == ("said\n", 3)


def test_a_pod_can_have_users_of_its_own(pods: dict[str, Pod]) -> None:
    inside, outside, _ = pods["other"].run("cat", "/proc/self/uid_map").stdout.split()
    assert inside == "0"
    assert outside != "0"


def test_pod_security_refuses_a_privileged_pod(namespace: Namespace) -> None:
    name = f"{namespace.name}-restricted"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": name, "labels": labels}
    kubectl("create", "--filename=-", stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        with pytest.raises(AssertionError, match="privileged"):
            Namespace(name).pods(
                privileged={
                    "spec": {
                        "containers": [{"name": "x", "image": "x", "securityContext": {"privileged": True}}]
                    }
                }
            )
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.requires("cluster", "own-cluster")
def test_a_pod_reaches_what_listens_on_the_host(pods: dict[str, Pod]) -> None:
    cluster = own_cluster()
    server = ("python3", "-m", "http.server", "--bind", cluster.instance.host_ipv4, str(PORT))
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as listener:
        try:
            address = cluster.instance.host_ipv4
            until(lambda: pods["one"].reaches(address), "the host is out of reach")
            assert not pods["denied"].reaches(address)
        finally:
            listener.kill()


@pytest.mark.requires("cluster", "own-cluster")
@pytest.mark.parametrize("name", ["felix", "kubelet", "containerd", "kube-apiserver"])
def test_a_component_that_is_stopped_and_started_works_again(name: str, pods: dict[str, Pod]) -> None:
    look = own_cluster().enter("pgrep", "--full", f"^(calico-)?{name}")
    with stopped(name):
        assert subprocess.run(look, capture_output=True).returncode == 1
    until(lambda: pods["one"].run("true").returncode == 0, "no exec after the start")
    assert pods["one"].reaches(pods["other"].addresses[0])
    assert not pods["denied"].reaches(pods["other"].addresses[0])
