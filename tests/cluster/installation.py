"""The manifests of k8s/, in namespaces of a test's own: what k8s/examples/other-names makes of them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import pods
from tests.cluster.api import Api
from tests.cluster.kubectl import kubectl, until

_K8S = Path(__file__).parents[2] / "k8s"
_EXAMPLE = _K8S / "examples" / "other-names"
_KINDS = ("validatingadmissionpolicybinding", "validatingadmissionpolicy")
_POLICIES = ("spec", "metadata", "requests")


@dataclass(frozen=True)
class Installation:
    """Names of its two namespaces."""

    executors: str
    gateway: str

    @property
    def pods(self) -> str:
        """The executors' path."""
        return f"/api/v1/namespaces/{self.executors}/pods"

    @property
    def account(self) -> str:
        """The gateway's, as "namespace:name"."""
        return f"{self.gateway}:jupyter-gateway"

    @property
    def policies(self) -> list[str]:
        """Names of the admission policies, and of their bindings."""
        return [f"integr8scode-executor-{name}-{self.executors}" for name in _POLICIES]

    @contextmanager
    def overlay(self) -> Iterator[Path]:
        """The folder that kustomize is given: the example's, with these names."""
        names = {"kernels": self.executors, "hub": self.gateway}
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder).resolve() / "overlay"
            shutil.copytree(_EXAMPLE, target)
            for file in target.rglob("kustomization.yaml"):
                manifests = os.path.relpath(_K8S / "manifests", file.parent)
                text = file.read_text().replace("../../../manifests", manifests)
                file.write_text(re.sub(r"\b(kernels|hub)\b", lambda name: names[name[1]], text))
            yield target

    def wait(self, api: Api) -> None:
        """Until the API server goes by the policies and the quota, of which it learns a little later."""

        def in_force() -> bool:
            pod = pods.executor(self.executors)
            accepted = not api.post(f"{self.pods}?dryRun=All", pod).refusal
            pod["spec"]["hostname"] = "other"
            spec = api.post(f"{self.pods}?dryRun=All", pod).refusal
            pod["metadata"]["labels"]["app"] = "other"
            pod["spec"]["hostname"] = "kernel"
            metadata = api.post(f"{self.pods}?dryRun=All", pod).refusal
            requests = api.get(f"{self.pods}/none/attach").refusal
            words = (spec, metadata, requests)
            return accepted and all(name in word for name, word in zip(self.policies, words, strict=True))

        until(in_force, "the policies are not in force")


@contextmanager
def absent() -> Iterator[Installation]:
    """Names under which there is nothing; whatever a test makes of these is gone afterwards."""
    mark = secrets.token_hex(3)
    made = Installation(f"kernels-{mark}", f"hub-{mark}")
    try:
        yield made
    finally:
        for kind in _KINDS:
            kubectl("delete", kind, "--ignore-not-found", *made.policies)
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", made.executors, made.gateway)


@contextmanager
def installed() -> Iterator[Installation]:
    """All manifests, applied; gone afterwards."""
    with absent() as made:
        with made.overlay() as folder:
            kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", str(folder))
        yield made
