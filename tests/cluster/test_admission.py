"""The API server takes what the gateway makes, and no pod that differs from it: it says which field is wrong.

Refused are pods in a namespace without Pod Security's own judgement, so that it is ours that is seen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run

from tests.cluster import mutations, pods
from tests.cluster.api import Api
from tests.cluster.installation import Installation, installed
from tests.cluster.kubectl import kubectl
from tests.support.pod_settings import pod_settings
from tests.unit.kubernetes.leaves import HARDENING

pytestmark = pytest.mark.requires("cluster")

CONTAINERS = ("containers", "initContainers")


@pytest.fixture(scope="module")
def classes(cluster: None) -> Iterator[dict[str, str]]:
    """A runtime class that adds to what a pod takes, and a priority class."""
    name = f"class-{secrets.token_hex(3)}"
    meta = {"name": name}
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": meta, "handler": "runc"}
    runtime["overhead"] = {"podFixed": {"memory": "8Mi"}}
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": meta, "value": 7}
    try:
        for each in (runtime, priority):
            kubectl("create", "--filename=-", stdin=each)
        yield {"runtime_class": name, "priority_class": name}
    finally:
        kubectl("delete", "--ignore-not-found", f"runtimeclass/{name}", f"priorityclass/{name}")


@pytest.fixture(scope="module")
def unguarded(api: Api) -> Iterator[Installation]:
    """The manifests, but for Pod Security."""
    with installed() as made:
        label = "pod-security.kubernetes.io/enforce=privileged"
        kubectl("label", "--overwrite", "namespace", made.executors, label)
        kubectl("create", "serviceaccount", "other", "--namespace", made.executors)
        made.wait(api)
        yield made


def refusal(api: Api, place: Installation, pod: dict[str, Any]) -> str:
    return api.post(f"{place.pods}?dryRun=All", pod).refusal


# -- what is taken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("relay", ["injected", "built-in"])
def test_an_executor_with_all_that_a_kernelspec_may_say_is_taken(
    api: Api, installation: Installation, classes: dict[str, str], relay: str
) -> None:
    everything = {
        **classes,
        "relay": relay,
        "image": "registry.example/course:3",
        "queue": "students",
        "node_selector": {"pool": "kernels"},
        "tolerations": [{"key": "kernels", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topology_spread": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "read_only": [
            {"config_map": "a"},
            {"claim": "b"},
            {"image": "registry.example/set:1", "target": "c/d e"},
        ],
    }
    assert refusal(api, installation, pods.executor(installation.executors, everything)) == ""


def test_an_executor_without_users_of_its_own_is_taken(api: Api, installation: Installation) -> None:
    pod = pods.executor(installation.executors, user_namespaces=False)
    assert refusal(api, installation, pod) == ""


@pytest.mark.parametrize("address", ["10.96.0.10", "fd6a::1", "10.96.0.10,fd6a::1"])
def test_a_control_is_taken(api: Api, installation: Installation, address: str) -> None:
    assert refusal(api, installation, pods.control(installation.executors, address, 8080)) == ""


def test_what_kueue_makes_of_an_executor_is_taken(api: Api, installation: Installation) -> None:
    pod = pods.executor(installation.executors, {"queue": "students"})
    pod["metadata"]["labels"]["kueue.x-k8s.io/managed"] = "true"
    pod["metadata"]["finalizers"] = ["kueue.x-k8s.io/managed"]
    pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    assert refusal(api, installation, pod) == ""


def test_an_executor_with_much_data_is_not_too_dear_to_judge(api: Api, installation: Installation) -> None:
    # An expression may cost so much and no more (https://kubernetes.io/docs/reference/using-api/cel/).
    data = [{"config_map": f"a{n}", "target": "/".join(["folder"] * 20 + [str(n)])} for n in range(100)]
    pod = pods.executor(installation.executors, {"read_only": data})
    pod["metadata"]["annotations"] |= {f"integr8scode/{n}": "x" * 1000 for n in range(100)}
    assert refusal(api, installation, pod) == ""


# The fixtures are of the session; the API server judges some fifty pods a second.
@run(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=pod_settings)
def test_whatever_a_kernelspec_says_the_executor_is_taken(
    api: Api, installation: Installation, asked: dict[str, Any]
) -> None:
    assert refusal(api, installation, pods.executor(installation.executors, asked)) == ""


def test_the_namespace_has_pod_security_beside_the_policies(api: Api, installation: Installation) -> None:
    pod = mutations.changed(
        pods.executor(installation.executors), "spec.containers[].securityContext.privileged"
    )
    assert 'violates PodSecurity "restricted:latest"' in refusal(api, installation, pod)


# -- what isolates ----------------------------------------------------------------------------------------


def test_the_tables_have_each_field_that_isolates() -> None:
    assert mutations.CHANGED.keys() == HARDENING.keys()
    assert HARDENING.keys() > mutations.MAY_BE_ABSENT


def test_the_pod_that_is_changed_is_taken_unchanged(api: Api, unguarded: Installation) -> None:
    assert refusal(api, unguarded, pods.executor(unguarded.executors)) == ""


@pytest.mark.parametrize("path", HARDENING)
def test_another_value_of_a_field_that_isolates_is_refused_by_its_name(
    api: Api, unguarded: Installation, path: str
) -> None:
    pod = mutations.changed(pods.executor(unguarded.executors), path)
    assert mutations.named(path) in refusal(api, unguarded, pod)


@pytest.mark.parametrize("path", sorted(HARDENING.keys() - mutations.MAY_BE_ABSENT))
def test_a_pod_without_a_field_that_isolates_is_refused_by_its_name(
    api: Api, unguarded: Installation, path: str
) -> None:
    pod = mutations.removed(pods.executor(unguarded.executors), path)
    assert mutations.named(path) in refusal(api, unguarded, pod)


@pytest.mark.parametrize("path", sorted(mutations.MAY_BE_ABSENT))
def test_what_may_be_absent_means_the_same(api: Api, unguarded: Installation, path: str) -> None:
    pod = mutations.removed(pods.executor(unguarded.executors), path)
    made = api.post(f"{unguarded.pods}?dryRun=All", pod)
    assert made.refusal == ""
    if path == "spec.hostUsers":
        return  # its absence is configured, for clusters that have no user namespaces
    holder: Any = made.object
    *way, last = path.split(".")
    for key in way:
        holder = holder[key]
    assert holder.get(last, False) in (HARDENING[path], unguarded.executors)


# -- what no executor has ---------------------------------------------------------------------------------


@pytest.mark.parametrize("field", mutations.FORBIDDEN)
def test_a_field_of_the_spec_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, field: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"][field] = mutations.FORBIDDEN[field]
    assert f"spec.{field}" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("field", mutations.FORBIDDEN_SECURITY)
def test_a_field_of_the_pods_security_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, field: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["securityContext"][field] = mutations.FORBIDDEN_SECURITY[field]
    assert f"spec.securityContext.{field}" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("place", CONTAINERS)
@pytest.mark.parametrize("field", mutations.FORBIDDEN_CONTAINER_SECURITY)
def test_a_field_of_a_containers_security_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, place: str, field: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"][place][0]["securityContext"][field] = mutations.FORBIDDEN_CONTAINER_SECURITY[field]
    assert f"spec.{place}[0].securityContext.{field}" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("place", CONTAINERS)
@pytest.mark.parametrize("field", mutations.FORBIDDEN_CONTAINER)
def test_a_field_of_a_container_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, place: str, field: str
) -> None:
    # A volume that is a device may neither be mounted too, nor be there with users of the pod's own.
    claim = {"read_only": [{"claim": "a"}]}
    pod = pods.executor(unguarded.executors, claim, user_namespaces=False)
    del pod["spec"]["containers"][0]["volumeMounts"][-1]
    pod["spec"][place][0][field] = mutations.FORBIDDEN_CONTAINER[field]
    assert f"spec.{place}[0].{field}" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("place", CONTAINERS)
def test_a_container_beside_them_is_refused(api: Api, unguarded: Installation, place: str) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"][place].append({**pod["spec"][place][0], "name": "second"})
    assert f"spec.{place} " in refusal(api, unguarded, pod)


@pytest.mark.parametrize("place", CONTAINERS)
@pytest.mark.parametrize("kind", ["limits", "requests"])
def test_a_device_among_the_resources_is_refused(
    api: Api, unguarded: Installation, place: str, kind: str
) -> None:
    pod = pods.executor(unguarded.executors)
    for each in ("limits", "requests")[: 1 if kind == "limits" else 2]:
        pod["spec"][place][0]["resources"][each]["example.org/device"] = "1"
    assert f"spec.{place}[0].resources" in refusal(api, unguarded, pod)


def test_a_container_without_limits_gets_some_and_none_gets_more_than_the_most(
    api: Api, unguarded: Installation
) -> None:
    pod = pods.executor(unguarded.executors)
    del pod["spec"]["containers"][0]["resources"]
    made = api.post(f"{unguarded.pods}?dryRun=All", pod)
    limits = made.object["spec"]["containers"][0]["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory", "ephemeral-storage"}
    pod["spec"]["containers"][0]["resources"] = {"limits": {**limits, "memory": "64Gi"}}
    assert "maximum memory usage per Container is 4Gi" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("kind", mutations.VOLUMES)
def test_a_volume_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, kind: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["volumes"].append({"name": "data-0", **mutations.VOLUMES[kind]})
    assert "spec.volumes[data-0]" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("name", ["tmp", "home", "relay"])
@pytest.mark.parametrize("said", mutations.EMPTY_DIRS)
def test_a_place_to_write_to_without_a_limit_is_refused_by_its_name(
    api: Api, unguarded: Installation, name: str, said: str
) -> None:
    pod = pods.executor(unguarded.executors)
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == name)
    volume["emptyDir"] = mutations.EMPTY_DIRS[said]
    assert f"spec.volumes[{name}]" in refusal(api, unguarded, pod)


def test_a_place_to_write_to_that_is_somewhere_else_than_in_the_pod_is_refused(
    api: Api, unguarded: Installation
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["volumes"][0] = {"name": "tmp", "hostPath": {"path": "/"}}
    assert "spec.volumes[tmp]" in refusal(api, unguarded, pod)


def test_a_volume_of_another_name_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["volumes"].append({"name": "other", "configMap": {"name": "a"}})
    assert "spec.volumes[other]" in refusal(api, unguarded, pod)


def test_a_relays_volume_that_nobody_fills_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["initContainers"] = []
    assert "spec.volumes[relay]" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("said", mutations.MOUNTS)
def test_a_mount_that_no_executor_has_is_refused_by_its_name(
    api: Api, unguarded: Installation, said: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["spec"]["volumes"].append({"name": "data-0", "configMap": {"name": "a"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "data-0", **mutations.MOUNTS[said]})
    assert "spec.containers[0].volumeMounts[data-0]" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("name", ["tmp", "home", "relay"])
def test_a_place_of_the_pods_own_that_is_mounted_elsewhere_is_refused_by_its_name(
    api: Api, unguarded: Installation, name: str
) -> None:
    pod = pods.executor(unguarded.executors)
    (mount,) = (each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == name)
    mount["mountPath"] = "/etc"
    assert f"spec.containers[0].volumeMounts[{name}]" in refusal(api, unguarded, pod)


def test_a_relay_that_the_kernel_may_write_to_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    (mount,) = (each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == "relay")
    del mount["readOnly"]
    assert "spec.containers[0].volumeMounts[relay]" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("label", ["other", "example.org/label"])
def test_another_label_is_refused_by_its_name(api: Api, unguarded: Installation, label: str) -> None:
    pod = pods.executor(unguarded.executors)
    pod["metadata"]["labels"][label] = "true"
    assert f"metadata.labels.{label}:" in refusal(api, unguarded, pod)


def test_a_pod_of_no_gateway_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    del pod["metadata"]["labels"]["integr8scode/instance"]
    assert "metadata.labels.integr8scode/instance" in refusal(api, unguarded, pod)


@pytest.mark.parametrize("annotation", mutations.ANNOTATIONS)
def test_an_annotation_of_somebody_else_is_refused_by_its_name(
    api: Api, unguarded: Installation, annotation: str
) -> None:
    pod = pods.executor(unguarded.executors)
    pod["metadata"]["annotations"][annotation] = "true"
    assert f"metadata.annotations.{annotation}:" in refusal(api, unguarded, pod)


def test_a_finalizer_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    pod["metadata"]["finalizers"] = ["example.org/stay"]
    assert "metadata.finalizers" in refusal(api, unguarded, pod)


def test_a_pod_without_an_end_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.executor(unguarded.executors)
    del pod["spec"]["activeDeadlineSeconds"]
    assert "spec.activeDeadlineSeconds" in refusal(api, unguarded, pod)


# -- a control, which the deny-all policy does not select ---------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "/tmp/.relay", "600", "1048576"],  # noqa: S108
        ["probe", "10.0.0.1"],
        ["probe", "name", "8080"],
        ["probe", "10.0.0.1", "x"],
        ["probe", "10.0.0.1", "8080", "3600"],
        ["connect", "/tmp/.relay"],  # noqa: S108
    ],
    ids=" ".join,
)
def test_a_control_that_does_anything_but_probe_is_refused(
    api: Api, unguarded: Installation, words: list[str]
) -> None:
    pod = pods.control(unguarded.executors, "10.0.0.1", 8080)
    command = pod["spec"]["containers"][0]["command"]
    pod["spec"]["containers"][0]["command"] = command[: command.index("probe")] + words
    assert "spec.containers[0].command" in refusal(api, unguarded, pod)


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "/tmp/.relay", "600"],  # noqa: S108
        ["serve", "/tmp/.relay", "600", "1k"],  # noqa: S108
        ["serve", "/tmp/.relay", "soon", "1048576"],  # noqa: S108
        ["serve", "/tmp/.relay", "600", "1048576", "more"],  # noqa: S108
        ["serve", "/tmp/other", "600", "1048576"],  # noqa: S108
        ["pipe", "/tmp/.relay", "600", "1048576"],  # noqa: S108
    ],
    ids=" ".join,
)
def test_an_executor_that_does_anything_but_serve_is_refused(
    api: Api, unguarded: Installation, words: list[str]
) -> None:
    pod = pods.executor(unguarded.executors)
    command = pod["spec"]["containers"][0]["command"]
    pod["spec"]["containers"][0]["command"] = command[: command.index("serve")] + words
    assert "spec.containers[0].command" in refusal(api, unguarded, pod)


def test_an_executor_that_probes_is_refused(api: Api, unguarded: Installation) -> None:
    pod = pods.control(unguarded.executors, "10.0.0.1", 8080)
    pod["metadata"]["labels"]["component"] = "executor"
    assert "spec.containers[0].command" in refusal(api, unguarded, pod)


@pytest.mark.parametrize(
    "path", sorted(path for path in HARDENING if path not in {"spec.containers[].command"})
)
def test_a_control_is_as_hard_as_an_executor(api: Api, unguarded: Installation, path: str) -> None:
    pod = mutations.changed(pods.control(unguarded.executors, "10.0.0.1", 8080), path)
    assert mutations.named(path) in refusal(api, unguarded, pod)
