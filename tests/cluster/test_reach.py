"""From inside a kernel nothing answers; a pod as hard as it, which no policy selects, reaches everything."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.backends.kubernetes import names, podspec
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import PORT, Namespace, Pod, kubectl, until
from tests.conformance.backend.visit import found_inside, script, visiting
from tools.cluster import Cluster

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=300)]

#: Tries each target for two seconds, and says what came of it: "" where somebody answered.
_TRY = """
import json, socket, struct, sys, threading
def tcp(address, port):
    socket.create_connection((address, port), 2).close()
def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((address, port))
        # A question for the root's name servers (RFC 1035, 4.1).
        sock.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\\0" + struct.pack(">2H", 2, 1))
        sock.recv(512)
def icmp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(2)

        # The sum of its words, turned over (RFC 792).
        total = 0x0801
        sock.sendto(struct.pack(">2B3H", 8, 0, ~total & 0xFFFF, 0, 1), (address, 0))
        sock.recv(512)
def attempt(name, kind, address, port):
    try:
        {"tcp": tcp, "udp": udp, "icmp": icmp}[kind](address, port)
        found[name] = ""
    except OSError as error:
        found[name] = str(error) or type(error).__name__
found = {}
threads = [threading.Thread(target=attempt, args=(name, *target)) for name, target in TARGETS.items()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

Target = tuple[str, str, int]


@pytest.fixture(scope="module")
def control(namespace: Namespace) -> Pod:
    """As hard as an executor, in a namespace without a policy."""
    container = {
        "name": "kernel",
        "image": "localhost/base:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import time; time.sleep(10000)"],
        "securityContext": podspec.SECURITY,
    }
    # What containerd allows by itself or not: that ICMP is tried at all.
    sysctls = {"sysctls": [{"name": "net.ipv4.ping_group_range", "value": "0 65535"}]}
    (pod,) = namespace.pods(control={"spec": {"containers": [container], "securityContext": sysctls}})
    return pod


@pytest.fixture(scope="module")
def targets(there: Deployed, namespace: Namespace, control: Pod) -> Iterator[dict[str, Target]]:
    """Name -> how and where: somebody listens at each."""
    (ordinary,) = namespace.pods(ordinary={"labels": {"app": "ordinary"}})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ordinary"},
        "spec": {"selector": {"app": "ordinary"}, "ports": [{"port": PORT}]},
    }
    kubectl("create", "--namespace", namespace.name, "--filename=-", stdin=service)
    at = _service(namespace.name, "ordinary")
    # It is refused until the node's rules lead to it.
    until(lambda: control.reaches(at), "The new service is not reached.")
    found: dict[str, Target] = {
        "the API server": ("tcp", _service("default", "kubernetes"), 443),
        "DNS by TCP": ("tcp", _service("kube-system", "kube-dns"), 53),
        "DNS by UDP": ("udp", _service("kube-system", "kube-dns"), 53),
        "a service": ("tcp", at, PORT),
        "the node": ("tcp", _node(), 10250),
    }
    for address in ordinary.addresses:
        family = "IPv6" if ":" in address else "IPv4"
        found[f"an ordinary pod by {family}"] = ("tcp", address, PORT)
        if family == "IPv4":
            found["a pod by ICMP"] = ("icmp", address, 0)
    canaries = json.loads(kubectl("get", "pods", "--namespace", there.installation.gateway, "--output=json"))
    for each in canaries["items"][0]["status"]["podIPs"]:
        found[f"the canary at {each['ip']}"] = ("tcp", each["ip"], 8080)
    with _elsewhere() as outside:
        yield found | outside


def _service(namespace: str, name: str) -> str:
    words = ("get", "service", name, "--namespace", namespace, "--output=json")
    return str(json.loads(kubectl(*words))["spec"]["clusterIP"])


def _node() -> str:
    node = json.loads(kubectl("get", "nodes", "--output=json"))["items"][0]
    return str(next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"))


@contextlib.contextmanager
def _elsewhere() -> Iterator[dict[str, Target]]:
    """Beyond the node, as the metadata address of a cloud is: only a cluster of one's own has that."""
    own = Cluster.of(os.environ["KUBECONFIG"])
    if own is None:
        yield {}
        return
    with socket.create_server((own.instance.host_ipv4, 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield {"what listens beyond the node": ("tcp", own.instance.host_ipv4, server.getsockname()[1])}
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


async def test_a_kernel_reaches_nobody_where_a_control_reaches_everybody(
    there: Deployed, control: Pod, targets: dict[str, Target]
) -> None:
    code = f"TARGETS = {targets!r}\n{_TRY}"
    outside: dict[str, str] = json.loads(
        control.run("python3", "-c", f"{code}\nprint(json.dumps(found))").stdout
    )
    assert {name: why for name, why in outside.items() if why} == {}
    async with there.backend("reach") as backend:
        inside: dict[str, str] = await found_inside(backend, f"{code}\ntell(found)")
    assert [name for name, why in inside.items() if not why] == []
    assert inside.keys() == targets.keys()


#: Listens where everybody could come, tells who came there from inside, and stays.
_LISTEN = f"""
import socket, subprocess, threading, time
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
def serve():
    while True:
        server.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
def comes(address):
    try:
        socket.create_connection((address, {PORT}), 5).close()
    except OSError as error:
        return str(error)
    return ""
# Nobody outside knows them before it runs.
own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
tell({{address: comes(address) for address in own}})
time.sleep(1000)
"""


async def test_nobody_reaches_a_kernel_that_listens(
    there: Deployed, control: Pod, targets: dict[str, Target]
) -> None:
    ordinary = [address for name, (_, address, _) in targets.items() if name.startswith("an ordinary pod")]
    assert [address for address in ordinary if not control.reaches(address)] == []
    async with there.backend("listens") as backend, visiting(backend, script(_LISTEN)) as (sandbox, visit):
        inside: dict[str, str] = await visit.found()
        (pod,) = there.pods(f"{names.KERNEL_ID}={sandbox.kernel_id}")
        addresses = [each["ip"] for each in pod["status"]["podIPs"]]
        assert inside == dict.fromkeys(addresses, "")
        assert [address for address in addresses if control.reaches(address)] == []


async def test_a_kernel_sees_no_token_no_neighbour_and_nothing_of_the_gateway(
    there: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", "xyzzy")
    async with there.backend("sees") as backend:
        seen: dict[str, Any] = await found_inside(backend, _LOOK)
    assert seen["secrets"] == []
    assert not [name for name in seen["environment"] if name.startswith("KUBERNETES_")]
    assert "xyzzy" not in json.dumps(seen)
    assert seen["name"] == "kernel"
    assert seen["names"] == ["127.0.0.1"]
    assert seen["who"] == {"user": 1000, "group": 1000, "others": []}
    assert seen["root writable"] is False
    assert seen["capabilities"] == 0
    assert seen["no new privileges"] == 1
    assert seen["filter"] == 2
    assert seen["relay's environment"] is False
    assert sorted(seen["writable"]) == ["/dev/shm", "/home/kernel", "/tmp"]  # noqa: S108


_LOOK = """
import os, socket
def readable(path):
    try:
        return open(path).read()
    except OSError:
        return ""
status = dict(line.split(":\\t", 1) for line in readable("/proc/self/status").splitlines() if ":\\t" in line)
mounts = [line.split()[4] for line in readable("/proc/self/mountinfo").splitlines()]
def writable(folder):
    path = os.path.join(folder, "try")
    try:
        open(path, "w").close()
    except OSError:
        return False
    os.unlink(path)
    return True
tell({
    "secrets": [path for path in ("/var/run/secrets", "/run/secrets") if os.path.exists(path)],
    "environment": dict(os.environ),
    "name": socket.gethostname(),
    "names": [line.split()[1] for line in readable("/etc/resolv.conf").splitlines() if "nameserver" in line],
    "who": {"user": os.getuid(), "group": os.getgid(), "others": [g for g in os.getgroups() if g != 1000]},
    "root writable": writable("/"),
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapBnd"], 16),
    "no new privileges": int(status["NoNewPrivs"]),
    "filter": int(status["Seccomp"]),
    "relay's environment": bool(readable("/proc/1/environ")),
    "writable": [mount for mount in mounts if os.path.isdir(mount) and writable(mount)],
})
"""
