"""What the API server refuses of a pod that is there, of administrators too; and what it lets through."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from typing import Any

import pytest

from gateway.backends.kubernetes import names
from tests.cluster import pods
from tests.cluster.api import Api
from tests.cluster.installation import Installation, installed
from tests.cluster.kubectl import kubectl, until

pytestmark = pytest.mark.requires("cluster")


@pytest.fixture(scope="module")
def path(api: Api, installation: Installation) -> str:
    """Of an executor that no node will run."""
    pod = pods.executor(installation.executors, {"node_selector": {"there": "is-none"}})
    assert api.post(installation.pods, pod).refusal == ""
    return f"{installation.pods}/{pod['metadata']['name']}"


def dry(path: str) -> str:
    return f"{path}?dryRun=All"


# -- changes ----------------------------------------------------------------------------------------------

KEPT = ("app", "component", names.INSTANCE, names.KERNEL_ID)


@pytest.mark.parametrize("label", KEPT)
@pytest.mark.parametrize("value", [None, "other", "control"])
@pytest.mark.parametrize("part", ["", "/status"])
def test_a_label_by_which_a_pod_is_known_does_not_change(
    api: Api, path: str, label: str, value: str | None, part: str
) -> None:
    # An executor that becomes a control has the wrong command as well. Of two policies that refuse, the API
    # server tells the words of one, and not always of the same.
    refusal = api.patch(dry(path + part), {"metadata": {"labels": {label: value}}}).refusal
    assert f"metadata.labels.{label}" in refusal


@pytest.mark.parametrize("part", ["", "/status"])
def test_no_label_joins_that_another_policy_may_select(api: Api, path: str, part: str) -> None:
    refusal = api.patch(dry(path + part), {"metadata": {"labels": {"egress": "allowed"}}}).refusal
    assert "metadata.labels.egress:" in refusal


@pytest.mark.parametrize("part", ["", "/status"])
@pytest.mark.parametrize("name", ["k8s.v1.cni.cncf.io/networks", "v1.multus-cni.io/default-network"])
def test_no_other_network_is_asked_for(api: Api, path: str, part: str, name: str) -> None:
    refusal = api.patch(dry(path + part), {"metadata": {"annotations": {name: "lan"}}}).refusal
    assert f"metadata.annotations.{name}:" in refusal


@pytest.mark.parametrize(
    "metadata",
    [
        {"annotations": {names.OWNER: "another"}},
        {"annotations": {"cni.projectcalico.org/podIP": "10.0.0.1/32"}},
        {"annotations": {names.SPEC: None}},
        {"labels": {"topology.kubernetes.io/zone": "here"}},
        {"labels": {"kueue.x-k8s.io/managed": "true"}, "finalizers": ["kueue.x-k8s.io/managed"]},
    ],
    ids=json.dumps,
)
def test_other_metadata_may_change(api: Api, path: str, metadata: dict[str, Any]) -> None:
    assert api.patch(dry(path), {"metadata": metadata}).refusal == ""


def test_no_owner_joins(api: Api, path: str) -> None:
    owner = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "a",
        "uid": "00000000-0000-0000-0000-000000000007",
    }
    refusal = api.patch(dry(path), {"metadata": {"ownerReferences": [owner]}}).refusal
    assert "metadata.ownerReferences" in refusal


def test_no_finalizer_joins(api: Api, path: str) -> None:
    refusal = api.patch(dry(path), {"metadata": {"finalizers": ["example.org/stay"]}}).refusal
    assert "metadata.finalizers" in refusal


@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_an_image_does_not_change(api: Api, path: str, place: str) -> None:
    pod = api.get(path).object
    pod["spec"][place][0]["image"] = "registry.example/other:1"
    assert "image of a container" in api.put(dry(path), pod).refusal


def test_the_end_may_come_earlier(api: Api, path: str) -> None:
    assert api.patch(dry(path), {"spec": {"activeDeadlineSeconds": 60}}).refusal == ""


def test_no_container_joins(api: Api, path: str) -> None:
    # As hard as the others, so that Pod Security has nothing to say.
    kernel = api.get(path).object["spec"]["containers"][0]
    debugger = {name: kernel[name] for name in ("image", "command", "securityContext")} | {"name": "debugger"}
    refusal = api.patch(
        dry(f"{path}/ephemeralcontainers"), {"spec": {"ephemeralContainers": [debugger]}}
    ).refusal
    assert "spec.ephemeralContainers" in refusal


def test_the_resources_do_not_change(api: Api, path: str) -> None:
    pod = api.get(path).object
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "4"
    assert "spec.containers[0].resources" in api.put(dry(f"{path}/resize"), pod).refusal


@pytest.mark.parametrize(
    "metadata", [{"labels": {"egress": "allowed"}}, {"annotations": {"k8s.v1.cni.cncf.io/networks": "lan"}}]
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_node_is_given_without_further_words(
    api: Api, installation: Installation, path: str, metadata: dict[str, Any], alone: bool
) -> None:
    name = path.rpartition("/")[2]
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, **metadata},
        "target": {"kind": "Node", "name": "none"},
    }
    where = f"/api/v1/namespaces/{installation.executors}/bindings" if alone else f"{path}/binding"
    assert "metadata of a binding" in api.post(dry(where), binding).refusal
    binding["metadata"] = {"name": name, "labels": {"topology.kubernetes.io/zone": "here"}}
    assert api.post(dry(where), binding).refusal == ""


# -- ways in ----------------------------------------------------------------------------------------------

LINK: dict[str, Any] = {
    "container": names.CONTAINER,
    "command": names.CONNECT,
    "stdin": "true",
    "stdout": "true",
    "stderr": "true",
}


def asked(path: str, way: str, **words: Any) -> str:
    return f"{path}/{way}?{urllib.parse.urlencode(words, doseq=True)}"


def test_a_link_to_the_relay_is_let_through(api: Api, path: str) -> None:
    for answer in (api.get(asked(path, "exec", **LINK)), api.post(asked(path, "exec", **LINK))):
        # Behind admission: it has no node yet.
        assert "does not have a host assigned" in answer.refusal


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"command": ["sh"]}, "command"),
        ({"command": [*names.CONNECT, "more"]}, "command"),
        ({"command": names.CONNECT[:-1]}, "command"),
        ({"command": [*names.PROGRAM, "serve", names.RUN, "600", "1048576"]}, "command"),
        ({"command": [" ".join(names.CONNECT)]}, "command"),
        ({"container": "relay"}, "container"),
        ({"container": ""}, "container"),
        ({"tty": "true", "stderr": "false"}, "tty"),
        ({"stdin": "false"}, "stdin"),
        ({"stdout": "false"}, "stdout"),
    ],
    ids=str,
)
def test_nothing_else_is_run_in_a_pod(api: Api, path: str, change: dict[str, Any], named: str) -> None:
    where = asked(path, "exec", **{**LINK, **change})
    for answer in (api.get(where), api.post(where)):
        assert "ValidatingAdmissionPolicy" in answer.refusal
        assert named in answer.refusal.partition("denied request: ")[2]


@pytest.mark.parametrize("way", ["attach", "portforward", "proxy", "proxy/path"])
def test_there_is_no_other_way_to_a_pod(api: Api, path: str, way: str) -> None:
    words = {"ports": "80"} if way == "portforward" else {"stdin": "true", "stdout": "true"}
    for answer in (api.get(asked(path, way, **words)), api.post(asked(path, way, **words))):
        assert f"pods/{way.partition('/')[0]}: the only way" in answer.refusal


def test_there_is_no_way_through_a_service(api: Api, installation: Installation) -> None:
    where = f"/api/v1/namespaces/{installation.executors}/services/any/proxy"
    assert "services/proxy: the only way" in api.get(where).refusal


def test_there_is_no_service(api: Api, installation: Installation) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "any"}}
    service["spec"] = {"selector": {"app": "integr8s"}, "ports": [{"port": 80}]}
    refusal = api.post(dry(f"/api/v1/namespaces/{installation.executors}/services"), service).refusal
    assert "exceeded quota: executors" in refusal


# -- what goes on -----------------------------------------------------------------------------------------


def test_scheduler_kubelet_and_deletion_do_their_work(api: Api, installation: Installation) -> None:
    # The image has no relay: the container cannot start, which is all that a node has to tell here.
    pod = pods.executor(installation.executors, {"relay": "built-in", "image": "localhost/base:1"})
    assert api.post(installation.pods, pod).refusal == ""
    path = f"{installation.pods}/{pod['metadata']['name']}"

    def status() -> dict[str, Any]:
        found: dict[str, Any] = api.get(path).object["status"]
        return found

    until(lambda: status()["phase"] == "Failed", f"the pod does not end: {status()}")
    (container,) = status()["containerStatuses"]
    assert "/opt/relay/bin/ld.so" in container["state"]["terminated"]["message"]
    kubectl("delete", "--namespace", installation.executors, "pod", pod["metadata"]["name"])
    assert api.get(path).status == 404


def test_a_pod_of_an_earlier_version_lives_on_and_is_judged_again_where_its_spec_changes(api: Api) -> None:
    with installed() as place:
        place.wait(api)
        pod = pods.executor(place.executors, {"node_selector": {"no": "such"}})
        del pod["spec"]["containers"][0]["command"][-1]
        kubectl("delete", "validatingadmissionpolicybinding", place.policies[0])
        until(lambda: not api.post(dry(place.pods), pod).refusal, "the policy is still in force")
        assert api.post(place.pods, pod).refusal == ""
        with place.overlay() as folder:
            kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", str(folder))
        place.wait(api)
        assert "spec.containers[0].command" in api.post(dry(place.pods), pod).refusal

        words = ("--namespace", place.executors, "pod", pod["metadata"]["name"])
        kubectl("annotate", *words, "integr8scode/sessions=[]")
        with pytest.raises(AssertionError, match=r"spec\.containers\[0\]\.command"):
            kubectl("patch", *words, '--patch={"spec": {"activeDeadlineSeconds": 60}}')


def test_in_other_namespaces_the_policies_say_nothing(api: Api) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "any", "labels": {"any": "label"}},
        "spec": {"containers": [{"name": "any", "image": "localhost/base:1"}]},
    }
    assert api.post(dry("/api/v1/namespaces/default/pods"), pod).refusal == ""


def test_the_expressions_are_right_for_every_type_that_they_meet(installation: Installation) -> None:
    for name in installation.policies:

        def checked(name: str = name) -> dict[str, Any]:
            found = json.loads(kubectl("get", "validatingadmissionpolicy", name, "--output=json"))
            status: dict[str, Any] = found.get("status", {})
            return status

        until(lambda look=checked: "typeChecking" in look(), f"{name} is not checked")
        assert "expressionWarnings" not in checked()["typeChecking"]


def test_applied_again_nothing_changes(installation: Installation) -> None:
    with installation.overlay() as folder:
        argv = ["kubectl", "diff", "--server-side", "--force-conflicts", "--kustomize", str(folder)]
        result = subprocess.run(argv, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
