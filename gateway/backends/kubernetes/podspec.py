"""The executor's pod: a pure function of kernelspec, owner and settings, to be read beside the specification.

No client, no clock. What isolates is written here as it stands in the pod; nothing of a kernelspec, a request
or the configuration reaches these fields (`settings` reads what they may say). The admission policy in k8s/
refuses any other pod.
"""

from __future__ import annotations

import math
from typing import Any

from ..sizes import MIB
from . import names
from .settings import Asked, Limits, Pod, Settings

#: User and group of everything that runs in a pod.
USER = 1000

#: Of every container, the injecting one too.
SECURITY: dict[str, Any] = {
    "runAsUser": USER,
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}

#: Runtimes open the ports of the system to everybody in a pod, which Linux by itself does not (ip(7)). Each
#: cluster has this one for safe, and Pod Security's `restricted` too.
_SYSCTLS = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1024"}]

#: Bytes of the relay's volume, and of what the node keeps of a pod's logs.
_RELAY_SIZE = 64 * MIB
_LOG_SIZE = 64 * MIB
#: Seconds between SIGTERM, at which the relay ends everything at once, and SIGKILL.
_GRACE = 1


def executor(kernel_id: str, spec_name: str, owner: str, asked: Asked, settings: Settings) -> Pod:
    """The pod that holds one kernel."""
    numbers = (str(settings.orphan_timeout), str(asked.limits.file_size))
    serve = [*names.PROGRAM, "serve", names.RUN, *numbers]
    labels = {names.KERNEL_ID: kernel_id, **({names.QUEUE: asked.queue} if asked.queue else {})}
    annotations = {names.SPEC: spec_name, names.OWNER: owner}
    return _pod(names.pod_name(kernel_id), labels, annotations, serve, asked, settings)


def control(name: str, address: str, port: int, asked: Asked, settings: Settings) -> Pod:
    """The same pod under another label, which the policy does not select, and running only the probe."""
    probe = [*names.PROGRAM, "probe", address, str(port)]
    return _pod(name, {names.COMPONENT: names.CONTROL}, {}, probe, asked, settings)


def _pod(
    name: str,
    labels: dict[str, str],
    annotations: dict[str, str],
    command: list[str],
    asked: Asked,
    settings: Settings,
) -> Pod:
    volumes = [
        {"name": "tmp", "emptyDir": {"sizeLimit": str(asked.limits.tmp_size)}},
        {"name": "home", "emptyDir": {"sizeLimit": str(asked.limits.home_size)}},
        *([{"name": "relay", "emptyDir": {"sizeLimit": str(_RELAY_SIZE)}}] if asked.injected else []),
        *({"name": f"data-{n}", **volume.source} for n, volume in enumerate(asked.volumes)),
    ]
    mounts = [
        {"name": "tmp", "mountPath": names.TMP},
        {"name": "home", "mountPath": names.HOME},
        *([{"name": "relay", "mountPath": names.RELAY, "readOnly": True}] if asked.injected else []),
        *(
            {"name": f"data-{n}", "mountPath": volume.target, "readOnly": True}
            for n, volume in enumerate(asked.volumes)
        ),
    ]
    kernel = {
        "name": names.CONTAINER,
        "image": asked.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "env": [{"name": "HOME", "value": names.HOME}],
        "resources": _resources(asked.limits),
        "securityContext": SECURITY,
        "terminationMessagePath": names.TERMINATION_LOG,
        "volumeMounts": mounts,
    }
    injector = {
        "name": names.INJECTOR,
        "image": settings.relay_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*names.PROGRAM, "install", names.INSTALL],
        "resources": _resources(asked.limits),
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "relay", "mountPath": names.INSTALL}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**settings.labels, names.INSTANCE: settings.instance, **labels},
            "annotations": annotations,
        },
        "spec": {
            **asked.scheduling,
            "initContainers": [injector] if asked.injected else [],
            "containers": [kernel],
            "volumes": volumes,
            "securityContext": {
                "runAsUser": USER,
                "runAsGroup": USER,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": _SYSCTLS,
            },
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "hostNetwork": False,
            "hostPID": False,
            "hostIPC": False,
            **({"hostUsers": False} if settings.user_namespaces else {}),
            "shareProcessNamespace": False,
            # Nobody is asked for names: nothing listens there.
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "hostname": names.HOSTNAME,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": math.ceil(asked.limits.life),
            "terminationGracePeriodSeconds": _GRACE,
        },
    }


def _resources(limits: Limits) -> dict[str, dict[str, str]]:
    disk = limits.tmp_size + limits.home_size + _RELAY_SIZE + _LOG_SIZE
    return {
        "limits": {
            "memory": str(limits.memory),
            "cpu": _millis(limits.cpus),
            "ephemeral-storage": str(disk),
        },
        "requests": {
            "memory": str(limits.memory_request),
            "cpu": _millis(limits.cpu_request),
            "ephemeral-storage": str(_RELAY_SIZE),
        },
    }


def _millis(processors: float) -> str:
    return f"{math.ceil(processors * 1000)}m"
