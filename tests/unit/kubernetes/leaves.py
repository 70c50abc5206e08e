"""Every leaf of a pod, by its path: what isolates, with the value that it must have, and what is data.

A field that joins the pod joins one of the two tables, or the tests fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CONTAINERS = ("spec.containers", "spec.initContainers")

_SECURITY = {
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "capabilities.drop": ["ALL"],
    "seccompProfile.type": "RuntimeDefault",
}

_PROGRAM = [
    "/opt/relay/bin/ld.so",
    "--library-path",
    "/opt/relay/lib",
    "/opt/relay/bin/python3",
    "-I",
    "-S",
    "/opt/relay/gateway/relay/__main__.py",
]

#: Path -> the value that it must have.
HARDENING: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata.namespace": "integr8scode",
    "metadata.labels.app": "integr8s",
    "metadata.labels.component": "executor",
    **{
        f"{place}[].securityContext.{name}": value
        for place in _CONTAINERS
        for name, value in _SECURITY.items()
    },
    "spec.securityContext.runAsUser": 1000,
    "spec.securityContext.runAsGroup": 1000,
    "spec.securityContext.runAsNonRoot": True,
    "spec.securityContext.seccompProfile.type": "RuntimeDefault",
    "spec.securityContext.sysctls[].name": "net.ipv4.ip_unprivileged_port_start",
    "spec.securityContext.sysctls[].value": "1024",
    "spec.automountServiceAccountToken": False,
    "spec.enableServiceLinks": False,
    "spec.hostNetwork": False,
    "spec.hostPID": False,
    "spec.hostIPC": False,
    "spec.hostUsers": False,
    "spec.shareProcessNamespace": False,
    "spec.dnsPolicy": "None",
    "spec.dnsConfig.nameservers": ["127.0.0.1"],
    "spec.hostname": "kernel",
    "spec.restartPolicy": "Never",
    "spec.terminationGracePeriodSeconds": 1,
    "spec.containers[].name": "kernel",
    "spec.containers[].command": [
        *_PROGRAM,
        "serve",
        "/tmp/.relay",  # noqa: S108
        "600",
        "268435456",
    ],
    "spec.containers[].env[].name": "HOME",
    "spec.containers[].env[].value": "/home/kernel",
    "spec.containers[].terminationMessagePath": "/opt/relay/closed/termination-log",
    "spec.initContainers[].name": "relay",
    "spec.initContainers[].command": [
        *_PROGRAM,
        "install",
        "/install",
    ],
    "spec.initContainers[].volumeMounts[].name": "relay",
    "spec.initContainers[].volumeMounts[].mountPath": "/install",
}

#: What differs from kernel to kernel, or from gateway to gateway, and isolates nothing.
DATA = {
    "metadata.name",
    "metadata.labels.integr8scode/instance",
    "metadata.labels.integr8scode/kernel-id",
    "metadata.labels.kueue.x-k8s.io/queue-name",
    "metadata.annotations.integr8scode/kernelspec",
    "metadata.annotations.integr8scode/owner",
    "spec.activeDeadlineSeconds",
    *(f"{place}[].{name}" for place in _CONTAINERS for name in ("image", "imagePullPolicy")),
    *(
        f"{place}[].resources.{kind}.{name}"
        for place in _CONTAINERS
        for kind in ("limits", "requests")
        for name in ("memory", "cpu", "ephemeral-storage")
    ),
    # Their kinds and places are tests of their own.
    "spec.containers[].volumeMounts[].name",
    "spec.containers[].volumeMounts[].mountPath",
    "spec.containers[].volumeMounts[].readOnly",
    "spec.volumes[].name",
    "spec.volumes[].emptyDir.sizeLimit",
    "spec.volumes[].configMap.name",
    "spec.volumes[].persistentVolumeClaim.claimName",
    "spec.volumes[].persistentVolumeClaim.readOnly",
    "spec.volumes[].image.reference",
    "spec.volumes[].image.pullPolicy",
}

#: Below these is what the kernelspec says to the scheduler.
SCHEDULING = ("affinity", "nodeSelector", "priorityClassName", "runtimeClassName", "tolerations")
SCHEDULED = tuple(f"spec.{name}" for name in (*SCHEDULING, "topologySpreadConstraints"))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each leaf; a list of texts is one, and a list of objects is told by `[]`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and all(isinstance(inner, dict) for inner in value):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, value
