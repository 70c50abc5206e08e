"""A cluster ends whole, however its owner ends, and starts from whatever was left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.kubectl import until
from tools.cluster import Cluster, instance
from tools.machine import ROOT, SetupError

pytestmark = pytest.mark.requires("cluster", "own-cluster")

_OWN = """
import signal, sys
from tools.cluster import Cluster
from tools.cluster.instance import Instance
Cluster(Instance(int(sys.argv[1]))).up(stay=False)
print("up", flush=True)
signal.pause()
"""


def _free() -> Cluster:
    """A number that no test run beside this one takes for its own cluster: the last that is free."""
    number = next(n for n in reversed(instance.NUMBERS) if instance.Instance(n).keeper() is None)
    return Cluster(instance.Instance(number))


@contextlib.contextmanager
def _owner(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """A process that has brought this cluster up and does nothing else."""
    command = [sys.executable, "-c", _OWN, str(cluster.instance.number)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()
            process.wait()
            cluster.down()


def _namespace(cluster: Cluster) -> str:
    return os.readlink(f"/proc/{cluster.instance.init.read_text()}/ns/mnt")


def _processes(namespace: str) -> list[str]:
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == namespace:
                found.append(link.parts[2])
    return found


def _kernel_settings() -> list[str]:
    """The machine's, of those that a kubelet writes."""
    return [Path("/proc/sys", name).read_text() for name in ("vm/overcommit_memory", "kernel/panic_on_oops")]


def _left(cluster: Cluster, namespace: str) -> list[str]:
    """What there still is of a cluster, beside its logs."""
    name, state = cluster.instance.name, cluster.instance.state
    groups = Path("/sys/fs/cgroup").glob(f"**/{name}")
    files = (path for path in state.glob("*") if path.name not in {"log", "keeper.log"})
    mounts = (line for line in Path("/proc/self/mounts").read_text().splitlines() if str(state) in line)
    interfaces = (Path("/sys/class/net", name),) if Path("/sys/class/net", name).exists() else ()
    return [*map(str, (*groups, *files, *interfaces)), *mounts, *_processes(namespace)]


def test_a_cluster_starts_after_a_keeper_that_was_killed_and_ends_with_an_owner_that_is() -> None:
    cluster = _free()
    settings = _kernel_settings()
    with _owner(cluster):
        first = _namespace(cluster)
        assert _kernel_settings() == settings
        assert len(_processes(first)) > 10
        keeper = cluster.instance.keeper()
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not _processes(first), "the node outlives its keeper")
        assert _left(cluster, first)
        # The same again, from the ruins.
        with _owner(cluster) as owner:
            second = _namespace(cluster)
            assert "Ready" in cluster.kubectl("get", "nodes")
            owner.kill()
            until(lambda: not cluster.runs, "the cluster outlives its owner")
            # Its last process may still be ending, in the middle of a write to the disk.
            until(lambda: not _left(cluster, second), "something of the cluster is left")


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    cluster = _free()
    taken = ("ip", "link", "add", "jsgctaken", "type", "veth", "peer", "name", "jsgcpeer")
    subprocess.run(taken, check=True)
    try:
        subprocess.run(
            ("ip", "address", "add", cluster.instance.network_ipv4, "dev", "jsgctaken"), check=True
        )
        subprocess.run(("ip", "link", "set", "jsgctaken", "up"), check=True)
        with pytest.raises(SetupError, match="is in use here, by jsgctaken"):
            cluster.up(stay=False)
    finally:
        subprocess.run(("ip", "link", "delete", "jsgctaken"), check=True)
    assert not _left(cluster, "")


def test_a_component_that_fails_is_named_with_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _free()
    monkeypatch.setattr("tools.cluster.cluster._PATIENCE_S", 3.0)
    monkeypatch.setattr(Cluster, "_import_parts", lambda *_: None)
    monkeypatch.setattr(Cluster, "_answers", lambda *_: False)
    with pytest.raises(SetupError, match=r"(?s)kube-apiserver is not ready after 3 s\. Its log ends:\n.*\d"):
        cluster.up(stay=False)
    assert not cluster.runs
    assert not _left(cluster, "")
