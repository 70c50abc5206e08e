"""Executors with one thing changed: by the path of what is changed, and what a refusal has to name.

Each must be refused by our own policies, so nothing here is wrong in any other way, if that can be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]

_CHANGED_SECURITY: Object = {
    "runAsUser": 1001,
    "runAsGroup": 1001,
    "runAsNonRoot": False,
    "readOnlyRootFilesystem": False,
    "allowPrivilegeEscalation": True,
    "privileged": True,
    "capabilities.drop": ["NET_RAW"],
    "seccompProfile.type": "Unconfined",
}

#: Path of a leaf that isolates -> another value.
CHANGED: Object = {
    "apiVersion": "v2",
    "kind": "Node",
    "metadata.namespace": "default",
    "metadata.labels.app": "other",
    "metadata.labels.component": "other",
    **{
        f"spec.{place}[].securityContext.{name}": value
        for place in ("containers", "initContainers")
        for name, value in _CHANGED_SECURITY.items()
    },
    "spec.securityContext.runAsUser": 1001,
    "spec.securityContext.runAsGroup": 1001,
    "spec.securityContext.runAsNonRoot": False,
    "spec.securityContext.seccompProfile.type": "Unconfined",
    "spec.securityContext.sysctls[].name": "net.ipv4.ping_group_range",
    "spec.securityContext.sysctls[].value": "0",
    "spec.automountServiceAccountToken": True,
    "spec.enableServiceLinks": True,
    "spec.hostNetwork": True,
    "spec.hostPID": True,
    "spec.hostIPC": True,
    "spec.hostUsers": True,
    "spec.shareProcessNamespace": True,
    "spec.dnsPolicy": "ClusterFirst",
    "spec.dnsConfig.nameservers": ["192.0.2.1"],
    "spec.hostname": "other",
    "spec.restartPolicy": "OnFailure",
    "spec.terminationGracePeriodSeconds": 3600,
    "spec.containers[].name": "other",
    "spec.containers[].command": ["sleep", "3600"],
    "spec.containers[].env[].name": "LD_PRELOAD",
    "spec.containers[].env[].value": "/tmp/home",  # noqa: S108
    "spec.containers[].terminationMessagePath": "/tmp/termination-log",  # noqa: S108
    "spec.initContainers[].name": "other",
    "spec.initContainers[].command": ["sleep", "3600"],
    "spec.initContainers[].volumeMounts[].name": "tmp",
    "spec.initContainers[].volumeMounts[].mountPath": "/opt/relay",
}

#: Leaves whose absence means what they say, or what the request's path says.
MAY_BE_ABSENT = {
    "apiVersion",
    "kind",
    "metadata.namespace",
    "spec.hostNetwork",
    "spec.hostPID",
    "spec.hostIPC",
    "spec.hostUsers",
}

#: What a refusal names, where that is not the leaf itself: an object that is compared as a whole.
_NAMED = {
    "apiVersion": 'version "v2"',
    "kind": "Node",
    "metadata.namespace": "namespace",
    "spec.dnsConfig.nameservers": "spec.dnsConfig",
    "spec.containers[].name": "spec.containers",
    "spec.initContainers[].name": "spec.initContainers",
    "spec.containers[].env[].name": "spec.containers[0].env",
    "spec.containers[].env[].value": "spec.containers[0].env",
    "spec.initContainers[].volumeMounts[].name": "spec.initContainers[0].volumeMounts",
    "spec.initContainers[].volumeMounts[].mountPath": "spec.initContainers[0].volumeMounts",
}


def named(path: str) -> str:
    """What a refusal of a change at this path has to have in it."""
    for part in (".capabilities", ".seccompProfile", ".sysctls"):
        path = path.split(part)[0] + part if part in path else path
    return _NAMED.get(path, path.replace("[]", "[0]"))


def changed(pod: Object, path: str) -> Object:
    """The pod with another value there."""
    return _without_conflicts(_at(pod, path, lambda holder, key: holder.update({key: CHANGED[path]})), path)


def removed(pod: Object, path: str) -> Object:
    """The pod without this leaf."""
    return _at(pod, path, lambda holder, key: holder.pop(key))


def _at(pod: Object, path: str, change: Callable[[Object, str], object]) -> Object:
    """A copy, changed in the first object of each list on the way."""
    made = copy.deepcopy(pod)
    holder: Any = made
    *way, last = path.split(".")
    for key in way:
        holder = holder[key.removesuffix("[]")]
        holder = holder[0] if key.endswith("[]") else holder
    change(holder, last)
    return made


def _without_conflicts(pod: Object, path: str) -> Object:
    """Without what the API server itself does not allow beside such a value."""
    if path in {"spec.hostNetwork", "spec.hostPID", "spec.hostIPC"}:
        del pod["spec"]["hostUsers"]
    if path == "spec.hostNetwork":
        # So there is more than that to refuse; what a refusal names shows that it is among it.
        del pod["spec"]["securityContext"]["sysctls"]
    if path.endswith(".privileged"):
        (container,) = pod["spec"][path.split("[")[0].removeprefix("spec.")]
        container["securityContext"]["allowPrivilegeEscalation"] = True
    return pod


_EMPTY = {"sizeLimit": "1Mi"}
_PROBE = {"exec": {"command": ["true"]}}

#: Fields of a spec that no executor has -> a value that is allowed elsewhere.
FORBIDDEN: Object = {
    "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["name"]}],
    "subdomain": "other",
    "setHostnameAsFQDN": True,
    "hostnameOverride": "other",
    "os": {"name": "linux"},
    "readinessGates": [{"conditionType": "example.org/ready"}],
    "resources": {"limits": {"cpu": "4"}},
    "resourceClaims": [{"name": "device", "resourceClaimName": "device"}],
    "nodeName": "node1",
    "serviceAccountName": "other",
    "schedulerName": "other",
    "schedulingGates": [{"name": "example.org/gate"}],
    "priorityClassName": "system-node-critical",
}

#: The same of `spec.securityContext`.
FORBIDDEN_SECURITY: Object = {
    "fsGroup": 0,
    "fsGroupChangePolicy": "Always",
    "supplementalGroups": [0],
    "supplementalGroupsPolicy": "Strict",
    "seLinuxOptions": {"type": "spc_t"},
    "seLinuxChangePolicy": "MountOption",
    "windowsOptions": {"runAsUserName": "ContainerAdministrator"},
    "appArmorProfile": {"type": "Unconfined"},
}

#: Of a container's security context.
FORBIDDEN_CONTAINER_SECURITY: Object = {
    "procMount": "Unmasked",
    "seLinuxOptions": {"type": "spc_t"},
    "windowsOptions": {"runAsUserName": "ContainerAdministrator"},
    "appArmorProfile": {"type": "Unconfined"},
}

#: Of every container.
FORBIDDEN_CONTAINER: Object = {
    "args": ["--more"],
    "workingDir": "/tmp",  # noqa: S108
    "ports": [{"containerPort": 80, "hostPort": 80}],
    "envFrom": [{"secretRef": {"name": "secret"}}],
    "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    "stdin": True,
    "stdinOnce": True,
    "tty": True,
    "volumeDevices": [{"name": "data-0", "devicePath": "/dev/block"}],
    "restartPolicy": "Always",
}
#: Those that the API server allows in no init container, or there alone.
NOT_IN_INIT = {"lifecycle", "livenessProbe", "readinessProbe", "startupProbe"}

#: Name -> a source of a volume.
VOLUMES: Object = {
    "hostPath": {"hostPath": {"path": "/"}},
    "a device of the host": {"hostPath": {"path": "/dev", "type": "Directory"}},
    "secret": {"secret": {"secretName": "secret"}},
    "a token": {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
    "downwardAPI": {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    "csi": {"csi": {"driver": "csi.example.org"}},
    "nfs": {"nfs": {"server": "192.0.2.1", "path": "/"}},
    "ephemeral": {
        "ephemeral": {
            "volumeClaimTemplate": {
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                }
            }
        }
    },
    "emptyDir": {"emptyDir": _EMPTY},
    "a claim to write to": {"persistentVolumeClaim": {"claimName": "claim"}},
    "a chosen part of a configMap": {"configMap": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
}

#: What is said of `tmp`: no size, no limit, memory.
EMPTY_DIRS: Object = {
    "without a size": {},
    "of size 0": {"sizeLimit": "0"},
    "in memory": {"sizeLimit": "1Mi", "medium": "Memory"},
}

#: What is said of a mount of `data-0`.
MOUNTS: Object = {
    "to write to": {"mountPath": "/data/a"},
    "over the relay": {"mountPath": "/opt/relay/gateway", "readOnly": True},
    "beside data": {"mountPath": "/data2", "readOnly": True},
    "above data": {"mountPath": "/data", "readOnly": True},
    "out of data": {"mountPath": "/data/../etc", "readOnly": True},
    "out of data at the end": {"mountPath": "/data/a/..", "readOnly": True},
    "of a part": {"mountPath": "/data/a", "readOnly": True, "subPath": "a"},
    "of a computed part": {"mountPath": "/data/a", "readOnly": True, "subPathExpr": "$(HOME)"},
    "shared with the host": {"mountPath": "/data/a", "readOnly": True, "mountPropagation": "HostToContainer"},
    "read-only all the way": {
        "mountPath": "/data/a",
        "readOnly": True,
        "recursiveReadOnly": "IfPossible",
        "mountPropagation": "None",
    },
}

#: Orders to network plugins and runtimes.
ANNOTATIONS = (
    "k8s.v1.cni.cncf.io/networks",
    "io.kubernetes.cri-o.Devices",
    "kubernetes.io/ingress-bandwidth",
    "example.org/anything",
)
