"""The manifests and the images on the cluster, the canary up, and a gateway's way in: its service account."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.cluster.installation import Installation
from tests.cluster.kubectl import PATIENCE_S, kubectl
from tests.support.executors import SharingBackend
from tools import images
from tools.cluster import Cluster

#: Images that executors need, and what a test may name for a kernelspec's.
NEEDED = ("relay", "executor")
#: Seconds for which a test's token is good.
_LIFE = "4h"


@dataclass(frozen=True)
class Deployed:
    """An installation that works. `kubeconfig` is the gateway's account, and may no more than that."""

    installation: Installation
    kubeconfig: Path

    @property
    def traits(self) -> Mapping[str, Any]:
        """What a backend needs to be configured with."""
        return {
            "kubeconfig": str(self.kubeconfig),
            "namespace": self.installation.executors,
            "canary": f"{self.installation.gateway}/canary",
        }

    @asynccontextmanager
    async def backend(self, instance: str) -> AsyncIterator[SharingBackend]:
        """One that has started, and whose pods have this instance."""
        made = SharingBackend(instance=instance, **self.traits)
        await made.start()
        try:
            yield made
        finally:
            await made.close()

    @property
    def has_canary(self) -> bool:
        """Whether the canary's service leads to a pod that is ready."""
        words = ("get", "endpointslices", "--namespace", self.installation.gateway, "--output=json")
        ends = [end for each in json.loads(kubectl(*words))["items"] for end in each.get("endpoints") or []]
        return any(end["conditions"].get("ready") for end in ends)

    def pods(self, selector: str = "component=executor") -> list[dict[str, Any]]:
        """The pods there are in the executors' namespace."""
        words = ("get", "pods", "--namespace", self.installation.executors, "--output=json")
        found: list[dict[str, Any]] = json.loads(kubectl(*words, f"--selector={selector}"))["items"]
        return found


def import_images(names: Iterable[str] = images.NAMES) -> bool:
    """Whether the cluster is one of this machine's, whose node then has these images of the project's."""
    if Cluster.of(os.environ["KUBECONFIG"]) is None:
        return False
    for name in names:
        _import_image(name)
    return True


def own_cluster() -> Cluster:
    """The one that KUBECONFIG names, which is one of this machine's."""
    found = Cluster.of(os.environ["KUBECONFIG"])
    assert found is not None
    return found


@cache
def _import_image(name: str) -> None:
    """Once for a process: what an image is built from is read whole to know whether it has changed."""
    own_cluster().import_image(images.build((name,))[name])


@contextmanager
def deployed(installation: Installation, folder: Path) -> Iterator[Deployed]:
    """An installation with its images and its canary, for as long as it is needed."""
    if import_images(NEEDED):
        # It may have been started without its image, and would be tried again less and less often.
        kubectl("delete", "pods", "--selector=component=canary", "--namespace", installation.gateway)
    words = ("--namespace", installation.gateway, f"--timeout={PATIENCE_S:.0f}s")
    kubectl("rollout", "status", "deployment/canary", *words)
    yield Deployed(installation, _kubeconfig(installation, folder))


def _kubeconfig(installation: Installation, folder: Path) -> Path:
    """The cluster's own kubeconfig, with the gateway's token in the administrator's place."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    words = ("create", "token", "jupyter-gateway", "--namespace", installation.gateway)
    token = kubectl(*words, f"--duration={_LIFE}").strip()
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path
