"""A real single-node Kubernetes for the tests, in namespaces of its own, built from Go modules and Debian.

| module | what it knows |
|---|---|
| `parts` | what is compiled, and where it is kept |
| `instance` | the names, addresses and folders of one cluster; several may run at once |
| `keeper` | the process that makes a node's namespaces and clears up behind it |
| `node` | the first process in them |
| `components` | each program of the cluster and its arguments |
| `pki` | certificates and kubeconfigs |
| `cgroups` | the control group that a node's pods are in |
| `cluster` | up, down, and what tests do to a cluster |
| `provision` | who gets which cluster |

    python -m tools.cluster up        also build, down, shell
"""

from __future__ import annotations

from .cluster import Cluster
from .provision import for_tests

__all__ = ["Cluster", "for_tests"]
