"""The pods that the gateway makes, as objects of their own, to be changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from gateway.backends.base import SandboxRequest
from gateway.backends.kubernetes import KubernetesBackend, podspec, settings
from gateway.backends.kubernetes.settings import Pod


def executor(namespace: str, asked: Mapping[str, Any] | None = None, **traits: Any) -> Pod:
    """What holds a kernel whose kernelspec asks for this."""
    request = SandboxRequest(
        kernel_id=str(uuid.uuid4()),
        spec_name="python3",
        argv=["python3"],
        resource_dir="",
        owner="somebody",
        settings=asked or {},
    )
    return _own(KubernetesBackend(namespace=namespace, **traits).pod(request))


def control(namespace: str, address: str, port: int, **traits: Any) -> Pod:
    """What shows that the canary is there."""
    configured = KubernetesBackend(namespace=namespace, **traits)._settings()
    return podspec.control(
        f"control-{uuid.uuid4()}", address, port, settings.read({}, configured), configured
    )


def _own(pod: Pod) -> Pod:
    """The same, with no part in it twice."""
    made: Pod = json.loads(json.dumps(pod))
    return made
