"""The names that pods carry, and the places inside them.

The specification (reference/network-isolation of the project's brief) fixes the labels `app` and `component`,
the namespace and the policy's name; they are the defaults of configurable traits. Ours are below a prefix.
"""

from __future__ import annotations

from ...relay import command

_PREFIX = "integr8scode"

#: Labels: which gateway a pod belongs to, and which kernel is in it.
INSTANCE = f"{_PREFIX}/instance"
KERNEL_ID = f"{_PREFIX}/kernel-id"
#: Kueue's (https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/).
QUEUE = "kueue.x-k8s.io/queue-name"

#: Annotations: what a gateway that adopts has to know.
SPEC = f"{_PREFIX}/kernelspec"
OWNER = f"{_PREFIX}/owner"
MEMORY = f"{_PREFIX}/memory"

#: The label that the policy and the admission policy tell a control from an executor by.
COMPONENT = "component"
CONTROL = "control"

CONTAINER = "kernel"
INJECTOR = "relay"
HOSTNAME = "kernel"

HOME = "/home/kernel"
TMP = "/tmp"  # noqa: S108  # the sandbox's own
RELAY = command.FOLDER
#: Where the relay's container mounts what it fills for the kernel's.
INSTALL = "/install"
RUN = f"{TMP}/.relay"
#: The kubelet mounts a file of the node where this says, for every user to write to. The folder is closed to
#: all but root, and the mount above it read-only, so that nobody in the pod reaches it.
TERMINATION_LOG = f"{RELAY}/closed/termination-log"

#: The relay by its own loader, libraries and interpreter, so that an image needs none of them.
PROGRAM = (
    f"{RELAY}/bin/ld.so",
    "--library-path",
    f"{RELAY}/lib",
    *command.program(f"{RELAY}/bin/python3"),
)
CONNECT = (*PROGRAM, "connect", RUN)


def pod_name(kernel_id: str) -> str:
    """The executor's name; a UUID is a DNS label."""
    return f"kernel-{kernel_id}"
