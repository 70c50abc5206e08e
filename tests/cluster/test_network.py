"""The network policies of k8s/manifests open what they say, and nothing else.

Each way that is shut for a pod is shown to be open where no policy selects anybody: to and from a pod of an
ordinary namespace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.backends.kubernetes import names
from tests.cluster import pods
from tests.cluster.api import Api
from tests.cluster.deployed import Deployed
from tests.cluster.installation import Installation
from tests.cluster.kubectl import PORT, Namespace, Pod, kubectl, until

pytestmark = pytest.mark.requires("cluster")

CANARY_PORT, GATEWAY_PORT, API_PORT, DNS_PORT = 8080, 8888, 443, 53

#: Listens on several ports, and says on each what a canary says, so that a probe takes it for one.
_LISTEN = """
import socket, sys, threading
def serve(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        with server.accept()[0] as connection:
            connection.sendall(b"canary\\n")
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"""
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"
_PORTS = (CANARY_PORT, GATEWAY_PORT, PORT)


@dataclass(frozen=True)
class Canary(Pod):
    """The canary's own pod, whose image has an interpreter elsewhere."""

    def reaches(self, address: str, port: int = PORT) -> bool:
        return self.run(*names.PROGRAM[:-1], "-c", _CONNECT, address, str(port)).returncode == 0


def _listener(image: str = "localhost/base:1") -> dict[str, Any]:
    """A spec that Pod Security's `restricted` allows."""
    context = {
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "listener",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _LISTEN, *map(str, _PORTS)],
        # Not over the network, which policies may shut.
        "readinessProbe": {"exec": {"command": ["python3", "-c", _CONNECT, "127.0.0.1", str(PORT)]}},
        "securityContext": context,
    }
    return {"containers": [container]}


@pytest.fixture(scope="module")
def hub(there: Deployed) -> Namespace:
    """The gateway's namespace, with the canary up."""
    return Namespace(there.installation.gateway)


@pytest.fixture(scope="module")
def canary(hub: Namespace) -> Canary:
    words = ("--namespace", hub.name, "--selector=component=canary", "--output=json")
    (pod,) = json.loads(kubectl("get", "pods", *words))["items"]
    return Canary(hub.name, pod["metadata"]["name"])


@pytest.fixture(scope="module")
def ordinary(namespace: Namespace) -> Pod:
    """A pod of a namespace without policies."""
    (pod,) = namespace.pods(**{"network-ordinary": {"spec": _listener()}})
    return pod


@pytest.fixture(scope="module")
def gateway(hub: Namespace) -> Pod:
    labels = {"app": "integr8s", "component": "gateway"}
    (pod,) = hub.pods(gateway={"labels": labels, "spec": _listener()})
    return pod


@pytest.fixture(scope="module")
def stranger(hub: Namespace) -> Pod:
    """A pod in the gateway's namespace that no policy knows."""
    (pod,) = hub.pods(stranger={"spec": _listener()})
    return pod


def _service(namespace: str, name: str) -> list[str]:
    """Its addresses."""
    service = json.loads(kubectl("get", "service", name, "--namespace", namespace, "--output=json"))
    return [str(address) for address in service["spec"]["clusterIPs"]]


def _opens(pod: Pod, address: str, port: int) -> None:
    until(lambda: pod.reaches(address, port), f"{pod.name} does not reach {address} port {port}")


def _shuts(pod: Pod, address: str, port: int) -> None:
    """A policy takes a moment to bind, and then stays."""
    until(lambda: not pod.reaches(address, port), f"{pod.name} reaches {address} port {port}")


# -- the canary -------------------------------------------------------------------------------------------


def test_a_pod_without_a_policy_reaches_the_canary_by_each_family_and_by_its_service(
    ordinary: Pod, canary: Canary, hub: Namespace
) -> None:
    assert len(canary.addresses) == len(ordinary.addresses)
    assert len(_service(hub.name, "canary")) == len(canary.addresses)
    for address in (*canary.addresses, *_service(hub.name, "canary")):
        _opens(ordinary, address, CANARY_PORT)


def test_the_canary_reaches_nobody(ordinary: Pod, canary: Canary) -> None:
    (api_server, *_) = _service("default", "kubernetes")
    for address, port in (*((each, PORT) for each in ordinary.addresses), (api_server, API_PORT)):
        _opens(ordinary, address, port)
        _shuts(canary, address, port)


# -- a control --------------------------------------------------------------------------------------------


def _probed(api: Api, place: Installation, address: str, port: int) -> tuple[int, str]:
    """How a control ends that is to reach this, and what it says."""
    pod = pods.control(place.executors, address, port)
    path = f"{place.pods}/{pod['metadata']['name']}"
    assert api.post(place.pods, pod).refusal == ""

    def ended() -> bool:
        return api.get(path).object["status"]["phase"] in ("Succeeded", "Failed")

    until(ended, "the control does not end")
    (container,) = api.get(path).object["status"]["containerStatuses"]
    said = kubectl("logs", "--namespace", place.executors, pod["metadata"]["name"])
    return container["state"]["terminated"]["exitCode"], said


def test_a_control_reaches_the_canary_by_each_family(
    api: Api, installation: Installation, canary: Canary
) -> None:
    addresses = ",".join(canary.addresses)
    assert _probed(api, installation, addresses, CANARY_PORT) == (0, "")


def test_a_control_reaches_nothing_but_the_canary(
    api: Api, installation: Installation, ordinary: Pod, stranger: Pod
) -> None:
    addresses = [*ordinary.addresses, *stranger.addresses]
    status, said = _probed(api, installation, ",".join(addresses), CANARY_PORT)
    assert status == 1
    assert said.count("timed out") == len(addresses), said


# -- the gateway ------------------------------------------------------------------------------------------


def test_clients_reach_the_gateways_port_and_no_other(ordinary: Pod, gateway: Pod) -> None:
    for address in gateway.addresses:
        _opens(ordinary, address, GATEWAY_PORT)
        _shuts(ordinary, address, PORT)


def test_the_gateway_reaches_the_api_server_and_dns_and_nobody_else(
    ordinary: Pod, gateway: Pod, canary: Canary
) -> None:
    (api_server, *_), (dns, *_) = _service("default", "kubernetes"), _service("kube-system", "kube-dns")
    _opens(gateway, api_server, API_PORT)
    _opens(gateway, dns, DNS_PORT)
    resolve = "import socket; socket.getaddrinfo('kubernetes.default.svc.cluster.local', 443)"
    assert gateway.run("python3", "-c", resolve).returncode == 0
    for pod, port in ((ordinary, PORT), (canary, CANARY_PORT)):
        for address in pod.addresses:
            _shuts(gateway, address, port)


def test_in_the_gateways_namespace_nobody_else_speaks_or_is_spoken_to(
    ordinary: Pod, stranger: Pod, gateway: Pod
) -> None:
    for address in stranger.addresses:
        _shuts(ordinary, address, PORT)
        _shuts(gateway, address, PORT)
    (api_server, *_) = _service("default", "kubernetes")
    for address, port in (*((each, PORT) for each in ordinary.addresses), (api_server, API_PORT)):
        _shuts(stranger, address, port)
