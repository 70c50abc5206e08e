"""The Kubernetes backend: its configuration, and the contract of `backends.base`."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Int, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from ... import __version__
from ...relay import confine
from ..base import (
    Backend,
    BackendError,
    CapacityError,
    Check,
    IsolationError,
    LimitReport,
    Sandbox,
    SandboxRequest,
    SpecError,
)
from ..sizes import MIB, format_size
from ..traits import BackendMeta, Size, check_limit
from . import names, podspec, reasons, settings
from .api import Api, ApiError
from .checks import Look, additional, before_anything_runs, beside, policy_check
from .proof import Canary, Controls, find_canary
from .sandbox import KubernetesSandbox, Log
from .settings import Asked, Limits, Pod, Settings
from .trial import look_at
from .watch import PodWatch

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
        f"{_IMAGES}/executor:{__version__}",
        config=True,
        help="The image of kernelspecs that name none themselves.",
    )
    relay_image = Unicode(
        f"{_IMAGES}/relay:{__version__}",
        config=True,
        help="The image from which the relay is put into the pods.",
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
    file_size = Size(256 * MIB, config=True, help="Largest file that a process may write.")
    tmp_size = Size(256 * MIB, config=True, help="Size of /tmp; beyond it the pod is evicted.")
    home_size = Size(256 * MIB, config=True, help="Size of the home; beyond it the pod is evicted.")
    life = Float(86400.0, config=True, help="Seconds after which a pod is ended.")

    kubeconfig = Unicode(
        config=True,
        help="The kubeconfig that says where the cluster is and who the gateway is there; several as in "
        "$KUBECONFIG, which is the default. Empty: the service account of the gateway's pod, else "
        "~/.kube/config.",
    )
    context = Unicode("", config=True, help="The kubeconfig's context; empty: its current one.")
    policy = Unicode("executor-deny-all", config=True, help="The name of the deny-all NetworkPolicy.")
    canary = Unicode(
        "integr8scode-gateway/canary", config=True, help="The namespace and the service of the canary."
    )
    control_age = Float(
        300.0, config=True, help="Seconds for which it counts that a control has reached the canary."
    )
    policy_timeout = Float(
        10.0, config=True, help="Seconds after a pod's start within which the policy has to bind."
    )
    start_timeout = Float(120.0, config=True, help="Seconds that a pod may take until it runs.")

    @default("kubeconfig")
    def _default_kubeconfig(self) -> str:
        return self.environment.get("KUBECONFIG", "")

    @validate(
        *("memory", "memory_request", "cpus", "cpu_request", "file_size", "tmp_size", "home_size", "life")
    )
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

    @validate("canary")
    def _has_two_names(self, proposal: Any) -> Any:
        parts = proposal["value"].split("/")
        if len(parts) != 2 or not all(settings.is_name(part) for part in parts):
            raise TraitError(
                "KubernetesBackend.canary must be a namespace and a service, such as "
                f"'integr8scode-gateway/canary', not {proposal['value']!r}"
            )
        return proposal["value"]

    @validate("orphan_timeout", "control_age", "policy_timeout", "start_timeout")
    def _positive(self, proposal: Any) -> Any:
        if not proposal["value"] >= 1:
            name = proposal["trait"].name
            raise TraitError(f"KubernetesBackend.{name} must be at least 1, not {proposal['value']}")
        return proposal["value"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._api: Api | None = None
        self._controls: Controls | None = None
        self._watch: PodWatch | None = None
        self._sandboxes: dict[str, KubernetesSandbox] = {}
        self._sweeping: set[asyncio.Task[None]] = set()

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

    # -- the contract -------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._api is not None:
            raise RuntimeError("this backend has been started")
        try:
            self._api = await Api.connect(self.kubeconfig, self.context)
            await self._get_ready(self._api)
        except BaseException:
            await self.close()
            raise

    async def create(self, request: SandboxRequest) -> Sandbox:
        if self._api is None or self._controls is None:
            raise BackendError("The backend has not been started.")
        return await self._create(self._api, self._controls, request)

    async def _create(self, api: Api, controls: Controls, request: SandboxRequest) -> KubernetesSandbox:
        pod = self.pod(request)
        asked = settings.read(request.settings, self._settings())
        name = pod["metadata"]["name"]
        if name in self._sandboxes:
            raise BackendError(f"The kernel {request.kernel_id} has a sandbox already.")
        sandbox = self._sandboxes[name] = self._found(pod)
        proving = asyncio.create_task(self._prove(api, controls, asked))
        creating = asyncio.create_task(api.create(self._pods, pod))
        try:
            await asyncio.shield(creating)
            await sandbox.running(self.start_timeout)
            sandbox.proof = {"canary": (await proving).start_member(self.policy_timeout)}
        except ApiError as error:
            if error.reason == "AlreadyExists":
                self._forget(name)
                raise BackendError(f"The kernel {request.kernel_id} has a sandbox already.") from error
            await asyncio.shield(_undo(creating, sandbox))
            raise _refused(error) from error
        except BaseException:
            await asyncio.shield(_undo(creating, sandbox))
            raise
        finally:
            proving.cancel()
            await asyncio.gather(proving, return_exceptions=True)
        return sandbox

    async def list(self) -> Sequence[Sandbox]:
        return [sandbox for sandbox in self._sandboxes.values() if sandbox.lives]

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        for sandbox in self._sandboxes.values():
            sandbox.let_go()
        self._sandboxes.clear()
        for task in self._sweeping:
            task.cancel()
        await asyncio.gather(*self._sweeping, return_exceptions=True)
        if self._api is not None:
            await self._api.close()
            self._api = self._controls = None

    async def checks(self) -> Sequence[Check]:
        if self._api is not None and self._controls is not None:
            return await self._look_around(self._api, self._controls)
        try:
            self._api = await Api.connect(self.kubeconfig, self.context)
            self._controls = await self._follow(self._api)
            return await self._look_around(self._api, self._controls)
        except ApiError as error:
            remedy = (
                "See that the configuration names a cluster that answers, and an account that may list pods."
            )
            return [Check("cluster", None if error.status == 403 else False, str(error), remedy)]
        finally:
            await self.close()

    def describe_limits(self) -> Sequence[LimitReport]:
        return [
            LimitReport("memory", format_size(self.memory), "the container's cgroup", False),
            self._limit_of_processes(),
            LimitReport("cpus", f"{self.cpus:g}", "the container's cgroup", False),
            LimitReport("file_size", format_size(self.file_size), "rlimit", False),
            LimitReport("open_files", f"{confine.OPEN_FILES} a process", "rlimit", False),
            LimitReport("tmp_size", format_size(self.tmp_size), "the kubelet, which evicts", False),
            LimitReport("home_size", format_size(self.home_size), "the kubelet, which evicts", False),
            LimitReport("life", f"{self.life:g} s", "the kubelet", False),
        ]

    def _limit_of_processes(self) -> LimitReport:
        if self.user_namespaces:
            return LimitReport("processes", str(confine.PROCESSES), "rlimit of the pod's users", False)
        return LimitReport("processes", "the node's podPidsLimit", "the kubelet, where it has one", True)

    def _settings(self) -> Settings:
        limits = Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)[:-1]}
        return Settings(**own, limits=limits)

    # -- inner workings -----------------------------------------------------------------------------

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _look(self, api: Api) -> Look:
        namespace, _, service = self.canary.partition("/")
        return Look(api, self._settings(), self.policy, (namespace, service))

    async def _follow(self, api: Api) -> Controls:
        """Watch the pods of this instance."""
        self._watch = PodWatch(api, self._pods, f"{names.INSTANCE}={self.instance}", self._told, self.log)
        await self._watch.start()
        return Controls(api, self._settings(), self._pods, self.control_age)

    async def _look_around(self, api: Api, controls: Controls) -> Sequence[Check]:
        """All checks, and an executor that is made to be looked at where they are well."""
        look = self._look(api)
        checks = [check async for check in before_anything_runs(look, controls)]
        more = [check async for check in beside(look)]
        if all(check.ok for check in checks):
            checks += await self._try(look, controls)
        return [*checks, *more]

    async def _try(self, look: Look, controls: Controls) -> Sequence[Check]:
        request = SandboxRequest(str(uuid.uuid4()), "doctor", ["doctor"], "", {}, "doctor")
        asked = settings.read({}, self._settings())
        try:
            sandbox = await self._create(look.api, controls, request)
        except BackendError as error:
            return [
                Check(
                    "executor", False, str(error), "See that its images can be had and its users are its own."
                )
            ]
        try:
            steps = look_at(sandbox, sandbox.proof["canary"], controls, asked, self._explain)
            return [check async for check in steps]
        finally:
            await asyncio.shield(sandbox.destroy())

    async def _get_ready(self, api: Api) -> None:
        """Follow the pods, prove isolation, and take over what an earlier gateway has left."""
        self._controls = await self._follow(api)
        assert self._watch is not None
        look = self._look(api)
        async for check in before_anything_runs(look, self._controls):
            if not check.ok:
                raise IsolationError(f"{check.detail} {check.remedy}".strip())
        for name in await additional(look):
            self.log.warning("the network policy %s selects executors, too; what it opens is open", name)
        for name, pod in self._watch.pods.items():
            if names.KERNEL_ID in pod["metadata"]["labels"] and reasons.is_running(pod):
                self._sandboxes[name] = self._found(pod)
            else:
                self._sweep(api, name)

    def _found(self, pod: Pod) -> KubernetesSandbox:
        assert self._api is not None
        path = f"{self._pods}/{pod['metadata']['name']}"
        return KubernetesSandbox(self._api, path, pod, self._explain, self.log)

    def _told(self, pod: Pod, deleted: bool) -> None:
        name = pod["metadata"]["name"]
        sandbox = self._sandboxes.get(name)
        if sandbox is not None:
            sandbox.told(pod, deleted)
            if deleted:
                del self._sandboxes[name]
        elif self._controls is not None:
            self._controls.told(pod)

    def _forget(self, name: str) -> None:
        self._sandboxes.pop(name).let_go()

    def _sweep(self, api: Api, name: str) -> None:
        """Delete an orphan: what an earlier gateway has left and cannot be gone on with."""
        self.log.info("the pod %s was left by an earlier gateway and is deleted", name)
        task = asyncio.create_task(_delete(api, f"{self._pods}/{name}", self.log))
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)

    async def _prove(self, api: Api, controls: Controls, asked: Asked) -> Canary:
        try:
            canary = await find_canary(api, *self._look(api).canary)
        except ApiError as error:
            if error.passing:
                raise
            # Said here, for the answer to the new pod is an ApiError too.
            raise IsolationError(
                f"Whether executors are isolated cannot be shown: nobody says where the canary is. {error}"
            ) from error
        await controls.show(asked, canary)
        return canary

    async def _explain(self, error: str) -> str:
        """A relay that is not isolated knows what it reached; the cluster, what may have opened the way."""
        if "is not isolated" not in error or self._api is None:
            return error
        look = self._look(self._api)
        try:
            policy, others = await policy_check(look), await additional(look)
        except ApiError:
            return error
        if not policy.ok:
            return f"{error} {policy.detail} {policy.remedy}"
        if others:
            return f"{error} Beside the policy that denies all, these select executors: {', '.join(others)}."
        return (
            f"{error} The policy that denies all is there, and no other selects executors: the cluster's "
            "network does not enforce policies (K3s' Flannel, for one, does not). Install a CNI that "
            "does, such as Calico or Cilium."
        )


async def _undo(creating: asyncio.Task[Pod], sandbox: KubernetesSandbox) -> None:
    """Delete a pod whose creation may still be under way: a deletion that comes before it finds nothing."""
    await asyncio.wait([creating])
    if not creating.cancelled():
        creating.exception()  # has been seen, or concerns nobody any more
    await sandbox.destroy()


async def _delete(api: Api, path: str, log: Log) -> None:
    try:
        await api.delete(path, 0)
    except ApiError as error:
        log.warning("an orphan cannot be deleted: %s", error)


def _refused(error: ApiError) -> BackendError:
    """What the API server's answer to a new pod is to the client."""
    sentence = reasons.refusal(error)
    if "exceeded quota" in str(error) or error.passing:
        return CapacityError(sentence)
    return SpecError(sentence) if error.status in (403, 422) else BackendError(sentence)
