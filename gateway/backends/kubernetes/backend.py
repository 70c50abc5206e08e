"""The Kubernetes backend: its configuration, and the contract of `backends.base`."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Int, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..base import Backend, BackendError, LimitReport, Sandbox, SandboxRequest, SpecError
from ..sizes import MIB, format_size
from ..traits import BackendMeta, Size, check_limit
from . import names, podspec, settings
from .settings import Limits, Pod, Settings

_IMAGES = "localhost/jupyter-sandbox-gateway"


class KubernetesBackend(LoggingConfigurable, Backend, metaclass=BackendMeta):
    """Sandboxes that are pods; the package's docstring says how it is made up."""

    name = "kubernetes"
    survives_gateway = True
    python = "python3"

    namespace = Unicode("integr8scode", config=True, help="The namespace of the executors.")
    labels = Dict(
        Unicode(),
        Unicode(),
        default_value={"app": "integr8s", names.COMPONENT: "executor"},
        config=True,
        help="The labels of executors, by which the deny-all policy selects them.",
    )
    instance = Unicode(
        "default",
        config=True,
        help="Which gateway a pod belongs to: a gateway adopts, lists and deletes only its own. Two gateways "
        "in one namespace need two values.",
    )
    image = Unicode(
        f"{_IMAGES}/executor:1", config=True, help="The image of kernelspecs that name none themselves."
    )
    relay_image = Unicode(
        f"{_IMAGES}/relay:1", config=True, help="The image from which the relay is put into the pods."
    )
    image_pull_policy = Enum(
        ["IfNotPresent", "Always", "Never"], "IfNotPresent", config=True, help="When images are pulled."
    )
    user_namespaces = Bool(
        True,
        config=True,
        help="Give each pod users of its own (hostUsers: false). Only off where the cluster cannot.",
    )
    orphan_timeout = Int(
        600, config=True, help="Seconds without a gateway after which a pod ends with its kernel."
    )

    memory = Size(1024 * MIB, config=True, help="Memory of a pod: bytes, or a text such as 512MiB.")
    memory_request = Size(256 * MIB, config=True, help="Memory that the scheduler sets aside for a pod.")
    cpus = Float(2.0, config=True, help="Processors that a pod may use up, such as 0.5.")
    cpu_request = Float(0.1, config=True, help="Processors that the scheduler sets aside for a pod.")
    tmp_size = Size(256 * MIB, config=True, help="Size of /tmp; beyond it the pod is evicted.")
    home_size = Size(256 * MIB, config=True, help="Size of the home; beyond it the pod is evicted.")
    life = Float(86400.0, config=True, help="Seconds after which a pod is ended.")

    @validate("memory", "memory_request", "cpus", "cpu_request", "tmp_size", "home_size", "life")
    def _can_work(self, proposal: Any) -> Any:
        return check_limit(self, proposal)

    @validate("namespace")
    def _is_name(self, proposal: Any) -> Any:
        if not settings.is_name(proposal["value"]):
            raise TraitError(
                f"KubernetesBackend.namespace must be a namespace's name, not {proposal['value']!r}"
            )
        return proposal["value"]

    @validate("instance")
    def _is_label(self, proposal: Any) -> Any:
        if not settings.is_label(proposal["value"]):
            raise TraitError(
                "KubernetesBackend.instance must be a label's value (up to 63 letters, digits, '-', '_' "
                f"and '.'), not {proposal['value']!r}"
            )
        return proposal["value"]

    @validate("image", "relay_image")
    def _is_image(self, proposal: Any) -> Any:
        if not settings.is_image(proposal["value"]):
            name = proposal["trait"].name
            raise TraitError(
                f"KubernetesBackend.{name} must be an image's reference, not {proposal['value']!r}"
            )
        return proposal["value"]

    @validate("labels")
    def _has_component(self, proposal: Any) -> Any:
        labels = proposal["value"]
        if labels.get(names.COMPONENT, names.CONTROL) == names.CONTROL:
            raise TraitError(
                f"KubernetesBackend.labels must have {names.COMPONENT!r}, and another value there than "
                f"{names.CONTROL!r}, which is what a control is told from an executor by; not {labels!r}"
            )
        return labels

    @validate("orphan_timeout")
    def _positive(self, proposal: Any) -> Any:
        if proposal["value"] < 1:
            raise TraitError(f"KubernetesBackend.orphan_timeout must be at least 1, not {proposal['value']}")
        return proposal["value"]

    def pod(self, request: SandboxRequest) -> Pod:
        """The executor for this request, as the API server is given it. Raises `SpecError`."""
        kernel_id = str(uuid.UUID(request.kernel_id))
        if request.resource_dir and any(request.resource_dir in part for part in request.argv):
            raise SpecError(
                "argv of the kernelspec has {resource_dir} in it, which is a folder of the gateway and not "
                "of the pod. Put the file into the image, and name it by its path there."
            )
        configured = self._settings()
        asked = settings.read(request.settings, configured)
        return podspec.executor(kernel_id, request.spec_name, request.owner, asked, configured)

    async def start(self) -> None:
        raise BackendError("This backend cannot start yet.")

    async def create(self, request: SandboxRequest) -> Sandbox:
        raise BackendError("The backend has not been started.")

    async def list(self) -> Sequence[Sandbox]:
        return []

    async def close(self) -> None:
        pass

    def describe_limits(self) -> Sequence[LimitReport]:
        return [
            LimitReport("memory", format_size(self.memory), "the container's cgroup", False),
            LimitReport("processes", "the node's podPidsLimit", "the kubelet", False),
            LimitReport("cpus", f"{self.cpus:g}", "the container's cgroup", False),
            LimitReport("tmp_size", format_size(self.tmp_size), "the kubelet, which evicts", False),
            LimitReport("home_size", format_size(self.home_size), "the kubelet, which evicts", False),
            LimitReport("life", f"{self.life:g} s", "the kubelet", False),
        ]

    def _settings(self) -> Settings:
        limits = Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)[:-1]}
        return Settings(**own, limits=limits)
