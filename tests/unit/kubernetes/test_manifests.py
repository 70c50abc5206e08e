"""The manifests of k8s/ are the specification to the word, and fit what the gateway makes by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from gateway.backends.kubernetes import KubernetesBackend, names, trial
from tests.cluster import pods
from tests.unit.kubernetes.leaves import HARDENING

MANIFESTS = Path(__file__).parents[3] / "k8s" / "manifests"

#: reference/network-isolation.md.
DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "executor-deny-all", "namespace": "integr8scode"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "integr8s", "component": "executor"}},
        "policyTypes": ["Ingress", "Egress"],
    },
}

#: Bytes, and thousandths of a processor.
_UNITS = {"m": 1, "Mi": 1 << 20, "Gi": 1 << 30}


def objects(folder: str) -> list[dict[str, Any]]:
    """Everything that a kustomization lists."""
    listed = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((MANIFESTS / folder / name).read_text())]


def named(folder: str, kind: str, name: str) -> dict[str, Any]:
    (found,) = (x for x in objects(folder) if (x["kind"], x["metadata"]["name"]) == (kind, name))
    return found


def amount(quantity: str, unit: int = 1) -> int:
    for suffix, factor in _UNITS.items():
        if quantity.endswith(suffix):
            return int(quantity.removesuffix(suffix)) * factor
    return int(quantity) * unit


def resources() -> dict[str, int]:
    """What one executor takes, by the quota's names."""
    (container,) = pods.executor("integr8scode")["spec"]["containers"]
    return {
        f"{kind}.{name}": amount(quantity, 1000 if name == "cpu" else 1)
        for kind, quantities in container["resources"].items()
        for name, quantity in quantities.items()
    }


@pytest.mark.parametrize("folder", ["executors", "admission", "gateway"])
def test_each_file_is_listed(folder: str) -> None:
    listed = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())["resources"]
    files = {path.name for path in (MANIFESTS / folder).iterdir()} - {"kustomization.yaml"}
    assert sorted(listed) == sorted(files)


def test_the_deny_all_policy_is_the_specifications() -> None:
    assert named("executors", "NetworkPolicy", "executor-deny-all") == DENY_ALL


def test_the_backends_defaults_are_what_the_policy_selects() -> None:
    backend = KubernetesBackend()
    assert backend.namespace == DENY_ALL["metadata"]["namespace"]
    assert backend.labels == DENY_ALL["spec"]["podSelector"]["matchLabels"]


@pytest.mark.parametrize(
    ("folder", "name"), [("executors", "integr8scode"), ("gateway", "integr8scode-gateway")]
)
@pytest.mark.parametrize("mode", ["enforce", "audit", "warn"])
def test_both_namespaces_are_restricted(folder: str, name: str, mode: str) -> None:
    labels = named(folder, "Namespace", name)["metadata"]["labels"]
    assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "latest"


@pytest.mark.parametrize("folder", ["executors", "gateway"])
def test_no_account_gives_its_token_to_pods_by_itself(folder: str) -> None:
    accounts = [each for each in objects(folder) if each["kind"] == "ServiceAccount"]
    assert "default" in [each["metadata"]["name"] for each in accounts]
    assert [each["automountServiceAccountToken"] for each in accounts] == [False] * len(accounts)


def test_nothing_gives_rights_in_the_whole_cluster() -> None:
    kinds = {each["kind"] for folder in ("executors", "admission", "gateway") for each in objects(folder)}
    assert not [kind for kind in kinds if kind.startswith("ClusterRole")]
    assert {"Role", "RoleBinding"} <= kinds


def test_the_quota_is_room_for_50_kernels_and_5_controls() -> None:
    hard = named("executors", "ResourceQuota", "executors")["spec"]["hard"]
    assert int(hard["pods"]) == 55
    for name, each in resources().items():
        assert 55 * each <= amount(hard[name], 1000 if "cpu" in name else 1) < 56 * each, name


def test_the_most_that_a_container_may_have_is_more_than_the_gateways_limits() -> None:
    (limits,) = named("executors", "LimitRange", "executors")["spec"]["limits"]
    for name, each in resources().items():
        kind, _, resource = name.partition(".")
        if kind == "limits":
            assert amount(limits["max"][resource], 1000 if resource == "cpu" else 1) >= each, name


def test_every_policy_refuses_where_it_cannot_judge_and_is_in_force_in_the_executors_namespace() -> None:
    policies = [each for each in objects("admission") if each["kind"] == "ValidatingAdmissionPolicy"]
    bindings = [each["spec"] for each in objects("admission") if each["kind"].endswith("Binding")]
    assert len(policies) == 3
    assert {each["spec"]["failurePolicy"] for each in policies} == {"Fail"}
    assert {each["policyName"] for each in bindings} == {each["metadata"]["name"] for each in policies}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "integr8scode"}}
    for each in bindings:
        assert each["validationActions"] == ["Deny"]
        assert each["matchResources"] == {"namespaceSelector": selector}


def test_the_canary_is_as_hard_as_an_executor_and_of_this_version() -> None:
    deployment = named("gateway", "Deployment", "canary")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == KubernetesBackend().relay_image
    assert container["image"].endswith(f":{__version__}")
    assert container["command"] == [*names.PROGRAM, "canary", "8080"]
    prefix = "spec.containers[].securityContext."
    wanted = {path.removeprefix(prefix): x for path, x in HARDENING.items() if path.startswith(prefix)}
    for path, value in wanted.items():
        found: Any = container["securityContext"]
        for key in path.split("."):
            found = found[key]
        assert found == value, path
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys()


def test_the_controls_policy_opens_the_ways_to_the_canary_and_to_what_a_doctor_has_listen() -> None:
    policy = named("executors", "NetworkPolicy", "control-canary-only")["spec"]
    rule, inner = policy["egress"]
    (executors,) = inner["to"]
    assert executors == {"podSelector": {"matchLabels": {"app": "integr8s", "component": "executor"}}}
    assert inner["ports"] == [{"protocol": "TCP", "port": trial.PORT}]
    (peer,) = rule["to"]
    service = named("gateway", "Service", "canary")
    assert peer["podSelector"]["matchLabels"] == service["spec"]["selector"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert namespace == service["metadata"]["namespace"]
    assert [each["port"] for each in rule["ports"]] == [each["port"] for each in service["spec"]["ports"]]
