"""What a kernel could find out about the cluster: no token, nothing of the gateway, no name of another pod.

The same look in an ordinary pod finds all that there is to be found.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.backends.kubernetes import names
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import PORT, Namespace, Pod, kubectl
from tests.conformance.backend.visit import found_inside, visiting

pytestmark = [pytest.mark.requires("cluster", "pod-users"), pytest.mark.gen_test(timeout=300)]

#: Reads what can be read where names and tokens are, and says which of WORDS it met, and where.
_LOOK = """
import glob, json, os, socket
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
def resolve(name):
    try:
        return [each[4][0] for each in socket.getaddrinfo(name, None)]
    except OSError:
        return []
places = ["/etc/*", "/proc/*/environ", "/proc/*/cmdline", "/proc/*/mountinfo", "/proc/*/cgroup"]
places += ["/proc/net/*", "/dev/shm/*", "/tmp/*", os.path.expanduser("~/*")]
texts = {path: read(path) for place in places for path in glob.glob(place) if os.path.isfile(path)}
texts["the environment"] = json.dumps(dict(os.environ))
found = {
    "tokens": [path for place in ("/run/secrets", "/var/run/secrets")
               for path in glob.glob(place + "/**/token", recursive=True) if read(path)],
    "words": {word: [path for path, text in texts.items() if word in text] for word in WORDS},
    "resolved": resolve(NAME),
    "environment": sorted(os.environ),
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
}
"""

_SERVICE = "neighbourly"


@pytest.fixture(scope="module")
def service(namespace: Namespace) -> Iterator[str]:
    """The address of one that everybody in the namespace is told of."""
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"port": PORT}]},
    }
    words = ("--namespace", namespace.name)
    kubectl("create", *words, "--filename=-", stdin=made)
    yield json.loads(kubectl("get", "service", _SERVICE, *words, "--output=json"))["spec"]["clusterIP"]
    kubectl("delete", "service", _SERVICE, *words)


@pytest.fixture(scope="module")
def ordinary(namespace: Namespace, service: str) -> Pod:
    """A pod as pods are: with the account's token, links to services and the cluster's names."""
    (pod,) = namespace.pods(**{"looks-around": {}})
    return pod


def _code(words: list[str], name: str) -> str:
    """Not in plain words, or the look would find them in its own command."""
    encoded = json.dumps([words, name]).encode().hex()
    return f"import json\nWORDS, NAME = json.loads(bytes.fromhex({encoded!r}))\n{_LOOK}"


async def test_a_kernel_finds_nothing_of_others_where_an_ordinary_pod_does(
    there: Deployed, namespace: Namespace, service: str, ordinary: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(16)
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", secret)
    name = f"{_SERVICE}.{namespace.name}.svc.cluster.local"
    shown = [service, f"{_SERVICE.upper()}_SERVICE_HOST", "KUBERNETES_SERVICE_HOST", ordinary.name]
    seen = _found_in(ordinary, _code(shown, name))
    assert seen["tokens"]
    assert [word for word in shown if not seen["words"][word]] == []
    assert seen["resolved"]

    async with there.backend("surroundings") as backend, visiting(backend) as (neighbour, _):
        (pod,) = there.pods(f"{names.KERNEL_ID}={neighbour.kernel_id}")
        of_the_neighbour = [
            pod["metadata"]["name"],
            pod["metadata"]["uid"],
            neighbour.kernel_id,
            *(each["ip"] for each in pod["status"]["podIPs"]),
        ]
        of_the_gateway = [secret, *_own_words()]
        words = [*shown[:3], *of_the_neighbour, *of_the_gateway]
        inside: dict[str, Any] = await found_inside(backend, _code(words, name) + "\ntell(found)")
    assert inside["tokens"] == []
    assert {word: places for word, places in inside["words"].items() if places} == {}
    assert inside["resolved"] == []
    # Those of its relay, of the way in, and its own.
    assert len(inside["processes"]) <= 3
    assert not [each for each in inside["environment"] if each in os.environ and each not in _OF_EVERYBODY]


#: Names that an image sets as well as whoever started the gateway.
_OF_EVERYBODY = {"PATH", "HOME", "LANG", "LC_ALL", "PWD", "SHLVL", "_", "HOSTNAME", "TERM"}


def _own_words() -> list[str]:
    """Texts of this process's environment that are nobody else's by chance."""
    return sorted({value for value in os.environ.values() if len(value) > 20 and "/usr/bin" not in value})


def _found_in(pod: Pod, code: str) -> dict[str, Any]:
    done = pod.run("python3", "-c", f"{code}\nprint(json.dumps(found))")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


#: Opens the memory of whoever came in by exec, and of a child, to write to it.
_REACH_INTO = """
import os, time
def opened(pid):
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError as error:
        return error.strerror
    return ""
def words(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\\0")[:-1]
child = os.fork()
if child == 0:
    time.sleep(100)
# It hides once it has handed its stream over, which it may not quite have done.
deadline = time.monotonic() + 5
while True:
    visitors = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if words(pid) == VISITOR]
    found = {"visitors": [opened(pid) for pid in visitors], "child": opened(child)}
    if all(found["visitors"]) or time.monotonic() > deadline:
        break
    time.sleep(0.01)
"""


async def test_a_kernel_cannot_reach_into_the_process_that_brings_its_gateway(there: Deployed) -> None:
    """It has the same user, and the relay's filter is not on it."""
    async with there.backend("visitor") as backend:
        code = f"VISITOR = {list(names.CONNECT)!r}\n{_REACH_INTO}\ntell(found)"
        found: dict[str, Any] = await found_inside(backend, code)
    assert found == {"visitors": ["Permission denied"], "child": ""}
