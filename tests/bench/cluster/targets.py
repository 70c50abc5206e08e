"""The gateway with executors, with the relay injected and built in, and with the embedded backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.deployed import Deployed
from tools.cluster import Cluster

from .. import processes
from ..targets import Ours

#: The kernelspec whose image has the relay in it.
BUILT_IN = "bench-built-in"

#: Programs of a node whose processor time is told, by their names in proc(5), comm.
_PROGRAMS = ("kube-apiserver", "kubelet", "containerd", "containerd-shim")
#: And what runs in the pods, by a part of its command line.
_IN_PODS = {"relay": b"serve", "connect": b"connect", "kernel": b"ipykernel_launcher"}


class Executors(Ours):
    """Its kernels are executors, into which the relay is injected."""

    def __init__(self, command: list[str], specs: Path, there: Deployed) -> None:
        super().__init__(command, specs)
        self.there = there

    def backend(self) -> list[str]:
        traits = {**self.there.traits, "instance": f"bench-{self.port}"}
        return [
            "--backend=kubernetes",
            *(f"--KubernetesBackend.{name}={value}" for name, value in traits.items()),
        ]

    def spenders(self) -> dict[str, list[int]]:
        """The gateway, the client that measures, and what of the node can be seen from here."""
        found = {"": [self.running_pid], "client_": [os.getpid()]}
        for pid, name in _node():
            found.setdefault(f"{name}_", []).append(pid)
        return found


class BuiltIn(Executors):
    """Its kernels' image has the relay in it."""

    name = "this gateway, relay built in"
    spec = BUILT_IN


class Embedded(Ours):
    """With sandboxes on this machine, in place of executors."""

    name = "embedded backend"


def _node() -> Iterator[tuple[int, str]]:
    """Processes of the cluster's node, and what they are; none of a cluster that is elsewhere."""
    own = Cluster.of(os.environ["KUBECONFIG"])
    if own is None:
        return
    for pid in processes.descendants(int(own.instance.init.read_text())):
        try:
            program = Path(f"/proc/{pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if program in _PROGRAMS:
            yield pid, program
            continue
        arguments = processes.arguments(pid)
        for name, part in _IN_PODS.items():
            if part in arguments:
                yield pid, name
