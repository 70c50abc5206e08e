"""`jupyter gateway pod KERNELSPEC`: the pod of a kernel, as YAML, with no cluster at hand.

For who wants to read it beside the specification, or to see what a kernelspec's settings come to. The id of
the kernel in it is no kernel's.
"""

from __future__ import annotations

import uuid
from typing import Any

import yaml
from traitlets.config.application import catch_config_error
from traitlets.config.loader import ArgumentError

from .app import JupyterGateway
from .app_options import StrictApp
from .backends.kubernetes import KubernetesBackend
from .kernels.errors import KernelError
from .kernels.registry import Kernels


class Pod(JupyterGateway):
    """Prints a pod, and exits."""

    name = "jupyter-gateway-pod"
    description = "Print the pod of a kernel as YAML, without a cluster."
    examples = """
        jupyter gateway pod python3
        jupyter gateway pod python3 --config=jupyter_gateway_config.py
    """
    flags = StrictApp.flags
    aliases = StrictApp.aliases
    subcommands = {}
    takes = "KERNELSPEC"

    @catch_config_error
    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """One word is the kernelspec's name."""
        super().parse_command_line(argv)
        if len(self.extra_args) != 1:
            raise ArgumentError(f"Name one kernelspec: {self.name} python3.")

    def serve(self) -> None:
        """Print it, and exit. Raises `BackendError` for a kernelspec that asks for what cannot be."""
        backend = KubernetesBackend(parent=self)
        kernels = Kernels(parent=self, backend=backend)
        try:
            launch = kernels.launch(str(uuid.UUID(int=0)), self.extra_args[0], {}, "somebody")
        except KernelError as error:
            self.log.critical("%s", error)
            self.exit(1)
        print(as_yaml(backend.pod(launch.request)), end="")


def as_yaml(pod: dict[str, Any]) -> str:
    """A pod as people read it: in its own order, and nothing referred to that can be written out."""
    return yaml.dump(pod, Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
