"""What the gateway's start depends on and the doctor shows: the cluster, and that it keeps its word.

Each check asks the cluster itself. What whoever runs it may not see is unknown, and what is wrong says what
to do.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from ..base import Check, IsolationError
from . import names, podspec, proof, settings
from .api import Api, ApiError, NotFoundError, Object
from .proof import Controls
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

#: What it must not be: (namespace, group, resource, verbs), "" being the executors' namespace and None all.
_HARMFUL = (
    ("", "", "secrets", ("get", "list", "create")),
    ("", "", "configmaps", ("get", "list")),
    ("", "", "serviceaccounts/token", ("create",)),
    ("", "", "pods", ("update",)),
    ("", "", "pods/attach", ("get", "create")),
    ("", "", "pods/portforward", ("get", "create")),
    ("", "", "pods/proxy", ("get", "create")),
    ("", "", "pods/ephemeralcontainers", ("patch", "update")),
    ("", "", "pods/log", ("get",)),
    ("", "", "services", ("create",)),
    ("", "networking.k8s.io", "networkpolicies", ("create", "update", "patch", "delete")),
    ("", "rbac.authorization.k8s.io", "rolebindings", ("create", "patch")),
    ("", "apps", "deployments", ("create",)),
    ("kube-system", "", "secrets", ("get", "list")),
    ("kube-system", "", "pods", ("create", "delete")),
    (None, "", "pods", ("list", "create")),
    (None, "", "nodes", ("get", "list", "patch")),
    (None, "", "namespaces", ("patch", "delete")),
    (None, "admissionregistration.k8s.io", "validatingadmissionpolicybindings", ("patch", "delete")),
    (None, "rbac.authorization.k8s.io", "clusterrolebindings", ("create", "patch")),
)

#: The gateway's service account, in the canary's namespace (k8s/manifests/gateway).
ACCOUNT = "jupyter-gateway"

_LEVEL = "pod-security.kubernetes.io/enforce"

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
    """The checks of a start. Each is well, or no executor may run."""
    for name, check in _OF_A_START.items():
        yield await seen(name, check(look))
    yield await seen("control", _control(look, controls))


async def beside(look: Look) -> AsyncIterator[Check]:
    """What else a doctor looks at."""
    for name, check in _OF_A_DOCTOR.items():
        yield await seen(name, check(look))


async def seen(name: str, check: Awaitable[Check]) -> Check:
    """A check, which is unknown where the account may not look."""
    try:
        return await check
    except ApiError as error:
        if error.status == 403:
            return Check(name, None, f"It may not be seen. {error}", "Ask with an account that may see it.")
        return Check(name, False, str(error), "See to it that the API server can be reached, and try again.")


async def _version(look: Look) -> Check:
    version = await look.api.get("/version")
    major, minor = (re.match(r"\d+", str(version.get(part, "0"))) for part in ("major", "minor"))
    text = str(version.get("gitVersion"))
    ok = major is not None and minor is not None and (int(major[0]), int(minor[0])) >= (1, _OLDEST)
    remedy = f"Kubernetes 1.{_OLDEST} or later is needed; upgrade the cluster."
    return Check("version", ok, f"Kubernetes {text} at {look.api.host}", "" if ok else remedy)


async def _permissions(look: Look) -> Check:
    account = await _account(look)
    missing = [
        f"{verb} {resource}"
        for group, resource, verbs in NEEDED
        for verb in verbs
        if not await _may(look, group, resource, verb, look.settings.namespace, account)
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


async def _may(look: Look, group: str, resource: str, verb: str, namespace: str, account: str) -> bool:
    """Whether that account may, or this one where it is ""; `namespace` "" is the whole cluster."""
    name, _, sub = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": name, "subresource": sub, "verb": verb}
    spec: Object = {"resourceAttributes": attributes, **({"user": account} if account else {})}
    kind = "SubjectAccessReview" if account else "SelfSubjectAccessReview"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = await look.api.create(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", review)
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


async def _namespace(look: Look) -> Check:
    """Pod Security's own level, beside the admission policy."""
    name = look.settings.namespace
    try:
        namespace = await look.api.get(f"/api/v1/namespaces/{name}")
    except NotFoundError:
        return Check("namespace", False, f"There is no namespace {name}.", _APPLY)
    level = (namespace["metadata"].get("labels") or {}).get(_LEVEL, "none")
    ok = level == "restricted"
    detail = f"the namespace {name} enforces the Pod Security level {level}"
    return Check("namespace", ok, detail, "" if ok else f"It must be restricted. {_APPLY}")


async def _excess(look: Look) -> Check:
    """What the gateway's account may do beyond what it needs."""
    account = await _account(look)
    found = []
    for namespace, group, resource, verbs in _HARMFUL:
        where = look.settings.namespace if namespace == "" else namespace or ""
        for verb in verbs:
            if await _may(look, group, resource, verb, where, account):
                found.append(f"{verb} {resource} in {where or 'the whole cluster'}")
    if found:
        return Check(
            "excess",
            False,
            f"{account or 'The account'} may do what no gateway needs: {', '.join(found)}.",
            "Take the role or binding away that allows it; k8s/manifests/executors/role.yaml is all it "
            "needs.",
        )
    tried = sum(len(verbs) for *_, verbs in _HARMFUL)
    return Check("excess", True, f"nothing beyond what is needed, of {tried} tried")


async def _account(look: Look) -> str:
    """The gateway's user name, where this is not the gateway's account itself; else ""."""
    review: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await look.api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    name = str(answer["status"]["userInfo"].get("username", ""))
    if name.startswith("system:serviceaccount:"):
        return ""
    return f"system:serviceaccount:{look.canary[0]}:{ACCOUNT}"


async def _additional(look: Look) -> Check:
    chosen = await additional(look)
    if not chosen:
        return Check("additional", True, "no other policy selects executors")
    opened = "; ".join(f"{name} opens {_opened(spec)}" for name, spec in chosen.items())
    return Check("additional", True, f"beside the deny-all policy, for executors: {opened}")


def _opened(spec: Object) -> str:
    ways = {kind: spec.get(kind) for kind in ("ingress", "egress") if spec.get(kind)}
    return json.dumps(ways, sort_keys=True) if ways else "nothing"


async def _quota(look: Look) -> Check:
    quotas = (await look.api.get(f"{look.namespace}/resourcequotas")).get("items", [])
    full = [
        f"{name}: {used} of {quota['status']['hard'][name]} in {quota['metadata']['name']}"
        for quota in quotas
        for name, used in (quota.get("status", {}).get("used") or {}).items()
        if name == "pods" and int(used) >= int(quota["status"]["hard"][name])
    ]
    if full:
        return Check("quota", False, f"There is no room for another kernel ({', '.join(full)}).", "Raise it.")
    if not quotas:
        return Check("quota", False, "Nothing bounds what kernels take of the cluster together.", _APPLY)
    bounds = (
        f"{used} of {quota['status']['hard'][name]} {name}"
        for quota in quotas
        for name, used in sorted((quota.get("status", {}).get("used") or {}).items())
    )
    return Check("quota", True, ", ".join(bounds))


async def additional(look: Look) -> dict[str, Object]:
    """Name -> spec of the other policies that select executors."""
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
    return Check("control", True, f"reaches the canary at {canary}")


_REMEDY = (
    "Apply k8s/manifests/gateway, which has the canary, and see why its pod is not ready or not reached."
)


_OF_A_START: dict[str, Callable[[Look], Awaitable[Check]]] = {
    "version": _version,
    "permissions": _permissions,
    "policy": policy_check,
    "admission": _admission,
}
_OF_A_DOCTOR: dict[str, Callable[[Look], Awaitable[Check]]] = {
    "excess": _excess,
    "namespace": _namespace,
    "additional": _additional,
    "quota": _quota,
}
