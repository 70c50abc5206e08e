"""What the gateway's start depends on and the doctor shows: the cluster, and that it keeps its word.

Each check asks the cluster itself. What whoever runs it may not see is unknown, and what is wrong says what
to do.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from ..base import Check, IsolationError
from . import names, podspec, proof, settings
from .api import Api, ApiError, NotFoundError, Object
from .proof import Canary, Controls
from .settings import Settings

#: The oldest minor version of Kubernetes 1 whose words this backend speaks.
_OLDEST = 33

_APPLY = "Run k8s/setup.sh, which makes it."

#: What the gateway must be allowed in the executors' namespace: (group, resource, verbs).
NEEDED = (
    ("", "pods", ("get", "list", "watch", "create", "delete", "patch")),
    ("", "pods/exec", ("get", "create")),
    ("networking.k8s.io", "networkpolicies", ("get", "list")),
)

#: The kernel id of a pod that is only tried, never made.
_NOBODY = "00000000-0000-0000-0000-000000000000"


class Look(NamedTuple):
    """What checks are made of."""

    api: Api
    settings: Settings
    policy: str
    canary: tuple[str, str]

    @property
    def namespace(self) -> str:
        return f"/api/v1/namespaces/{self.settings.namespace}"

    @property
    def policies(self) -> str:
        return f"/apis/networking.k8s.io/v1/namespaces/{self.settings.namespace}/networkpolicies"


async def before_anything_runs(look: Look, controls: Controls) -> AsyncIterator[Check]:
    """The checks of a start, in the order in which one makes the next one meaningful."""
    for name, check in (
        ("version", _version),
        ("permissions", _permissions),
        ("policy", policy_check),
        ("admission", _admission),
    ):
        yield await _unknown_where_forbidden(name, check, look)
    yield await _control(look, controls)


async def _unknown_where_forbidden(name: str, check: Callable[[Look], Awaitable[Check]], look: Look) -> Check:
    try:
        return await check(look)
    except ApiError as error:
        if error.status == 403:
            return Check(
                name, None, f"It may not be seen. {error}", "Use an account that may, or see to it by hand."
            )
        return Check(name, False, str(error), "See to it that the API server can be reached, and try again.")


async def _version(look: Look) -> Check:
    version = await look.api.get("/version")
    major, minor = (re.match(r"\d+", str(version.get(part, "0"))) for part in ("major", "minor"))
    text = str(version.get("gitVersion"))
    ok = major is not None and minor is not None and (int(major[0]), int(minor[0])) >= (1, _OLDEST)
    remedy = f"Kubernetes 1.{_OLDEST} or later is needed; upgrade the cluster."
    return Check("version", ok, f"Kubernetes {text} at {look.api.host}", "" if ok else remedy)


async def _permissions(look: Look) -> Check:
    missing = [
        f"{verb} {resource}"
        for group, resource, verbs in NEEDED
        for verb in verbs
        if not await _may(look, group, resource, verb)
    ]
    namespace = look.settings.namespace
    if missing:
        return Check(
            "permissions",
            False,
            f"The gateway's account may not {', '.join(missing)} in the namespace {namespace}.",
            "Run k8s/setup.sh, which binds the role that allows it.",
        )
    return Check("permissions", True, f"all that is needed in the namespace {namespace}")


async def _may(look: Look, group: str, resource: str, verb: str) -> bool:
    name, _, sub = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": look.settings.namespace,
                "group": group,
                "resource": name,
                "subresource": sub,
                "verb": verb,
            }
        },
    }
    answer = await look.api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer.get("status", {}).get("allowed"))


async def policy_check(look: Look) -> Check:
    """The deny-all policy is there and is exactly that, for exactly our labels."""
    where = f"the NetworkPolicy {look.policy} in the namespace {look.settings.namespace}"
    try:
        policy = await look.api.get(f"{look.policies}/{look.policy}")
    except NotFoundError:
        return Check("policy", False, f"There is not {where}: nothing denies executors the network.", _APPLY)
    wanted = {
        "podSelector": {"matchLabels": dict(look.settings.labels)},
        "policyTypes": ["Egress", "Ingress"],
    }
    spec = policy["spec"]
    found = {**spec, "policyTypes": sorted(spec.get("policyTypes", []))}
    if found != wanted:
        return Check(
            "policy",
            False,
            f"{where} is not the one that denies everything to pods with the labels "
            f"{dict(look.settings.labels)}: its spec is {spec}.",
            f"{_APPLY} Extra egress belongs in a policy of its own, and other labels in both places.",
        )
    return Check("policy", True, f"{where} denies all traffic")


async def additional(look: Look) -> list[str]:
    """The names of the other policies that select executors."""
    policies = await look.api.get(look.policies)
    return proof.selecting(policies.get("items", []), _labels(look), look.policy)


def _labels(look: Look) -> dict[str, str]:
    return {**look.settings.labels, names.INSTANCE: look.settings.instance, names.KERNEL_ID: _NOBODY}


async def _admission(look: Look) -> Check:
    """An executor is admitted, and the same with one thing more, which hurts nobody, is not."""
    asked = settings.read({}, look.settings)
    pod = podspec.executor(_NOBODY, "none", "doctor", asked, look.settings)
    try:
        await _dry_run(look, pod)
    except ApiError as error:
        if error.status not in (403, 422):
            raise
        return Check(
            "admission",
            False,
            f"The cluster does not admit an executor. {error}",
            f"{_APPLY} Labels, namespace and images of the configuration have to be those of the "
            "admission policy.",
        )
    for what, spoiled in _spoiled(pod).items():
        try:
            await _dry_run(look, spoiled)
        except ApiError as error:
            if error.status in (403, 422) and "ValidatingAdmissionPolicy" in str(error):
                continue
            raise
        return Check(
            "admission",
            False,
            f"The cluster admits a pod in the namespace {look.settings.namespace} that is no executor: one "
            f"with {what}.",
            f"No admission policy matches it. {_APPLY}",
        )
    return Check("admission", True, "executors and nothing else")


def _spoiled(pod: Object) -> dict[str, Object]:
    """What differs -> the executor with that difference, which the Pod Security level would let through."""
    environment, unlabelled = copy.deepcopy(pod), copy.deepcopy(pod)
    environment["spec"]["containers"][0]["env"].append({"name": "ANYTHING", "value": "x"})
    unlabelled["metadata"]["labels"][names.COMPONENT] = "anything"
    return {"another environment variable": environment, "another label": unlabelled}


async def _dry_run(look: Look, pod: Object) -> None:
    await look.api.create(f"{look.namespace}/pods", pod, {"dryRun": "All"})


async def _control(look: Look, controls: Controls) -> Check:
    """The canary is there, and a pod like an executor but for its label reaches it."""
    try:
        canary = await proof.find_canary(look.api, *look.canary)
        await controls.show(settings.read({}, look.settings), canary)
    except IsolationError as error:
        return Check("control", False, str(error), _REMEDY)
    except ApiError as error:
        return Check("control", None if error.status == 403 else False, str(error), _REMEDY)
    return Check("control", True, f"reaches the canary at {_where(canary)}")


_REMEDY = (
    "Apply k8s/manifests/gateway, which has the canary, and see why its pod is not ready or not reached."
)


def _where(canary: Canary) -> str:
    return f"{' and '.join(canary.addresses)}, port {canary.port}"


def as_start_member(canary: Canary, within: float) -> dict[str, Any]:
    """`canary` of CONTROL start (protocol.md 1.5)."""
    return {"addresses": list(canary.addresses), "port": canary.port, "within": within}
