"""Sandboxes that are pods: executors, one per kernel, in a namespace whose traffic is all denied.

    gateway ==exec stream==> API server -> kubelet -> relay connect -- the relay, PID 1 -- the kernel

| module | |
|---|---|
| `backend` | the contract of `backends.base`, and its configuration |
| `podspec` | the pod, a pure function: the whole specification on one screen |
| `settings`, `names` | what a kernelspec may ask for; labels, annotations and places |
| `api`, `watch` | the API server: who asks, what is tried again; the pods as it has them |
| `sandbox`, `reasons` | one executor's streams, life and end; what its status says, as sentences |
| `proof`, `checks`, `trial` | the canary and its controls; what a start depends on, and a doctor looks at |

The pods outlive their gateway: `survives_gateway` is true.
"""

from .backend import KubernetesBackend

__all__ = ["KubernetesBackend"]
