"""Data that a kernelspec names is below /data of its kernel, which reads it and cannot write it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import Namespace, Pod, kubectl
from tests.conformance.backend.visit import found_inside

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=180)]

#: An image that every cluster of these tests has, and a file in it.
IMAGE, IN_IMAGE = "localhost/base:1", "etc/debian_version"

_LOOK = """
import os
def attempt(action, path):
    try:
        return action(path)
    except OSError as error:
        return type(error).__name__ + ": " + os.strerror(error.errno)
def read(path):
    with open(path) as file:
        return file.read()
def write(path):
    with open(path, "w"):
        return "written"
def add(path):
    return write(os.path.join(os.path.dirname(path), "more"))
def remove(path):
    os.unlink(path)
    return "removed"
tell({path: [attempt(action, path) for action in (read, write, add, remove)] for path in PATHS})
"""


@pytest.fixture
def writer(namespace: Namespace) -> Pod:
    """A pod of the image that may write to its node."""
    container = {
        "name": "writer",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "node", "mountPath": "/volume"}],
    }
    node = {"name": "node", "hostPath": {"path": "/tmp", "type": "Directory"}}  # noqa: S108  # the node's
    (made,) = namespace.pods(writer={"spec": {"containers": [container], "volumes": [node]}})
    return made


@pytest.fixture
def claim(there: Deployed, writer: Pod) -> Iterator[str]:
    """The name of a claim of the executors' namespace; its volume is a folder of the node with one text."""
    name = f"data-{secrets.token_hex(3)}"
    spec: dict[str, Any] = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {**spec, "capacity": {"storage": "1Mi"}, "hostPath": {"path": f"/tmp/{name}"}},  # noqa: S108
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": there.installation.executors},
        "spec": {**spec, "volumeName": name, "resources": {"requests": {"storage": "1Mi"}}},
    }
    try:
        writes = f"mkdir /volume/{name} && printf 'of a claim' > /volume/{name}/text"
        assert writer.run("sh", "-c", writes).returncode == 0
        for thing in (volume, wanted):
            kubectl("create", "--filename=-", stdin=thing)
        yield name
    finally:
        kubectl("delete", "--ignore-not-found", "pvc", name, "--namespace", there.installation.executors)
        kubectl("delete", "--ignore-not-found", "pv", name)
        writer.run("rm", "-r", f"/volume/{name}")


async def test_a_kernel_reads_the_data_of_its_kernelspec_and_cannot_write_it(
    there: Deployed, writer: Pod, claim: str
) -> None:
    kubectl(
        *("create", "configmap", claim, "--namespace", there.installation.executors),
        "--from-literal=text=of a map",
    )
    read_only = [
        {"config_map": claim, "target": "lesson/texts"},
        {"claim": claim},
        {"image": IMAGE, "target": "set"},
    ]
    paths = {
        "/data/lesson/texts/text": "of a map",
        f"/data/{claim}/text": "of a claim",
        f"/data/set/{IN_IMAGE}": writer.run("cat", f"/{IN_IMAGE}").stdout,
    }
    async with there.backend("data") as backend:
        found: dict[str, list[str]] = await found_inside(
            backend, f"PATHS = {list(paths)!r}\n{_LOOK}", settings={"read_only": read_only}
        )
    for path, text in paths.items():
        read, *changed = found[path]
        assert text
        assert read == text, path
        assert {each.partition(": ")[2] for each in changed} == {"Read-only file system"}, path
