"""What a test may ask of its machine: `@pytest.mark.requires("root")`.

Each condition is probed, never declared, so that a machine cannot pass for less than it is. A condition
is a property of the machine or the account; what a test needs installed is `make test`'s to install, and
is a condition only where an ordinary user cannot have it without the package manager.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.cluster import Cluster
from tools.cluster.instance import has_ipv6

_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True)
class Condition:
    """`probe` says whether it holds here; `lacking` completes the sentence "here ..."."""

    probe: Callable[[], bool]
    lacking: str


def _own_cgroups() -> dict[str, str]:
    """Controller name -> path of this process's group, "" being the unified hierarchy (cgroups(7))."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    return groups


def _has_cgroup_v1() -> bool:
    groups = _own_cgroups()
    return all(
        name in groups and os.access(Path("/sys/fs/cgroup", name, groups[name]), os.W_OK)
        for name in _CONTROLLERS
    )


def _has_cgroup_v2() -> bool:
    own = Path("/sys/fs/cgroup", _own_cgroups().get("", ""))
    controllers = own / "cgroup.controllers"
    return (
        controllers.exists()
        and set(_CONTROLLERS) <= set(controllers.read_text().split())
        and os.access(own, os.W_OK)
    )


def _has_cluster() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or os.geteuid() == 0


def _has_own_cluster() -> bool:
    kubeconfig = os.environ.get("KUBECONFIG")
    return os.geteuid() == 0 and (not kubeconfig or Cluster.of(kubeconfig) is not None)


def _pods_have_users() -> bool:
    """Whether each node's ordinary runtime says so (NodeStatus.runtimeHandlers, KEP-127)."""
    if not os.environ.get("KUBECONFIG"):
        return _has_cluster()  # which is then made, and can
    words = ("kubectl", "get", "nodes", "--output=json")
    nodes = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)["items"]
    handlers = ([*node["status"].get("runtimeHandlers", [])] for node in nodes)
    return all(
        any(each.get("name", "") == "" and each.get("features", {}).get("userNamespaces") for each in some)
        for some in handlers
    )


CONDITIONS: dict[str, Condition] = {
    "root": Condition(lambda: os.geteuid() == 0, "the tests run as an ordinary user"),
    "cgroup": Condition(lambda: _has_cgroup_v1() or _has_cgroup_v2(), "no cgroup may be written"),
    "cluster": Condition(_has_cluster, "KUBECONFIG names no cluster, and only root can make one"),
    "own-cluster": Condition(_has_own_cluster, "no node of a cluster is the tests' own to break"),
    "pod-users": Condition(_pods_have_users, "no cluster gives its pods users of their own"),
    "ipv6": Condition(has_ipv6, "the kernel has no IPv6"),
    "x86-64": Condition(lambda: platform.machine() == "x86_64", "the processor is not an x86-64 one"),
    "chromium": Condition(lambda: shutil.which("chromium") is not None, "there is no Chromium"),
    "node": Condition(lambda: shutil.which("node") is not None, "there is no Node"),
}


@cache
def holds(name: str) -> bool:
    """Whether the condition holds on this machine; probed once. Raises `KeyError` for an unknown name."""
    return CONDITIONS[name].probe()
