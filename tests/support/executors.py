"""The Kubernetes backend as tests have it: one for each test, and few controls for them all."""

from __future__ import annotations

from gateway.backends.kubernetes import KubernetesBackend
from gateway.backends.kubernetes.api import Api
from gateway.backends.kubernetes.proof import Controls

#: What controls have shown to the backends of this process, and when.
_SHOWN: dict[str, float] = {}


class SharingBackend(KubernetesBackend):
    """One whose controls speak for the others of its process too.

    As within one gateway, what a control has shown counts for the same pod, the same canary, and its age. A
    control is a pod, which takes seconds; tests/cluster/test_proof.py is about them, and shares none.
    """

    async def _follow(self, api: Api) -> Controls:
        controls = await super()._follow(api)
        controls.shown = _SHOWN
        return controls
