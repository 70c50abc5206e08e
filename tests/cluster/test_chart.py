"""The chart on a cluster: by deploy.sh from nothing, changed, tested, uninstalled; and after setup.sh.

The images are the project's; a gateway is the one that its users get, in its pod, with its own account.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from urllib.error import HTTPError

import pytest

from tests.cluster.deployed import import_images
from tests.cluster.installation import absent
from tests.cluster.kubectl import kubectl, until
from tests.cluster.operator import CHART, K8S, RELEASE, Operator, run, told

pytestmark = pytest.mark.requires("cluster", "own-cluster")

#: One static program, no Python, no shell.
NO_PYTHON = "localhost/pause:1"


@pytest.fixture(scope="module")
def nothing(cluster: None) -> Iterator[Operator]:
    """A cluster without any of the objects."""
    import_images()
    with absent() as names, names.overlay() as overlay:
        yield Operator(names, overlay)


@pytest.fixture(scope="module")
def first(nothing: Operator) -> str:
    """What deploy.sh has said that deployed it all."""
    return nothing.deploy(f"--set-json=prePuller.images={json.dumps([NO_PYTHON])}", doctor=True)


@pytest.fixture
def operator(first: str, nothing: Operator) -> Operator:
    """Somebody whose gateway is deployed."""
    return nothing


# -- deploy.sh ------------------------------------------------------------------------------------------


def test_a_dry_run_of_deploy_makes_nothing(nothing: Operator, request: pytest.FixtureRequest) -> None:
    assert "first" not in request.fixturenames
    assert nothing.objects() == []
    said = nothing.deploy("--dry-run")
    assert {*told(said).values()} == {"to be created", "left to the chart"}
    assert "kind: Deployment" in said
    assert nothing.objects() == []


def test_deploy_leaves_to_the_chart_what_is_its_own_and_ends_by_the_doctor(
    first: str, operator: Operator
) -> None:
    hub, kernels = operator.namespace, operator.installation.executors
    said = told(first)
    assert said[f"ServiceAccount {hub}/jupyter-gateway"] == "left to the chart"
    assert said[f"NetworkPolicy {kernels}/executor-deny-all"] == "created"
    assert said[f"Namespace {hub}"] == "created"
    # All that the kustomization has is there: the rest came with the chart.
    assert operator.get("serviceaccount", "jupyter-gateway")["metadata"]["labels"]["helm.sh/chart"]
    assert len(operator.objects()) == len(said)
    findings = first.partition("The doctor's findings:\n")[2]
    assert "ok       ingress" in findings
    assert "FAILED" not in findings


def test_helms_test_starts_a_kernel_and_leaves_nothing(operator: Operator) -> None:
    said = operator.helm("test", RELEASE, "--timeout=4m")
    assert said.count("Phase:          Succeeded") == 2
    assert operator.get("pod", "start-a-kernel") == {}
    assert operator.get("networkpolicy", "start-a-kernel") == {}
    assert operator.executors() == []


def test_helms_test_fails_where_no_kernel_starts(operator: Operator) -> None:
    quota = ("quota", "executors", "--namespace", operator.installation.executors, "--type=merge")
    kubectl("patch", *quota, '--patch={"spec": {"hard": {"pods": "0"}}}')
    try:
        argv = ["helm", f"--namespace={operator.namespace}", "test", RELEASE, "--timeout=4m"]
        assert subprocess.run(argv, capture_output=True).returncode != 0
        logs = kubectl("logs", "--namespace", operator.namespace, "start-a-kernel")
        assert "exceeded quota" in logs
    finally:
        kubectl("patch", *quota, '--patch={"spec": {"hard": {"pods": "55"}}}')


def test_the_images_are_pulled_also_one_without_python(operator: Operator) -> None:
    def ready() -> bool:
        status = operator.get("daemonset", "pre-puller")["status"]
        return bool(status["desiredNumberScheduled"] == status["numberReady"] == 1)

    until(ready, "the pre-puller is not ready")
    words = ("--namespace", operator.namespace, "--selector=component=pre-puller", "--output=json")
    (pod,) = json.loads(kubectl("get", "pods", *words))["items"]
    pulled = pod["status"]["initContainerStatuses"]
    assert NO_PYTHON in [each["image"] for each in pulled]
    assert [each["state"]["terminated"]["exitCode"] for each in pulled] == [0, 0, 0]


def test_deployed_again_nothing_changes(operator: Operator) -> None:
    token, pod, before = operator.token, operator.gateway(), operator.versions()
    said = told(operator.deploy(f"--set-json=prePuller.images={json.dumps([NO_PYTHON])}"))
    assert {*said.values()} == {"unchanged", "left to the chart"}
    assert (operator.token, operator.gateway()) == (token, pod)
    assert operator.versions() == before


# -- upgrades -------------------------------------------------------------------------------------------


def test_a_kernelspec_is_added_and_removed_without_a_restart(operator: Operator) -> None:
    spec = {"argv": ["other", "{connection_file}"], "display_name": "Other", "language": "other"}
    pod, token = operator.gateway(), operator.token
    with operator.client() as client:

        def names() -> set[str]:
            # A change of the pod has the kubelet look at its volumes now, and not within a minute or two.
            mark = f"seen={len(list(client.ask('GET', '/api/kernelspecs')))}"
            kubectl("annotate", "pod", pod, "--namespace", operator.namespace, "--overwrite", mark)
            kubectl("annotate", "pod", pod, "--namespace", operator.namespace, "seen-")
            return {*client.ask("GET", "/api/kernelspecs")["kernelspecs"]}

        assert names() == {"python3"}
        operator.upgrade(f"--set-json=kernelspecs.other={json.dumps(spec)}")
        until(lambda: names() == {"python3", "other"}, "the new kernelspec is not seen")
        operator.upgrade()
        until(lambda: names() == {"python3"}, "the kernelspec that is gone is still seen")
    assert (operator.gateway(), operator.token) == (pod, token)


def test_a_setting_restarts_the_gateway_and_kernel_and_token_stay(operator: Operator) -> None:
    pod, token = operator.gateway(), operator.token
    with operator.client() as client:
        kernel = client.start()
    operator.upgrade("--set=config.Kernels.max_kernels=1")
    assert operator.gateway() != pod
    assert operator.token == token
    with operator.client() as client:
        until(lambda: client.state(kernel) == "idle", "the kernel is not gone on with")
        client.ask("DELETE", f"/api/kernels/{kernel}")
    until(lambda: operator.executors() == [], "the executor stays")


def test_a_gateway_that_does_not_start_says_why(operator: Operator) -> None:
    words = ("--set=config.KubernetesBackend.policy=other", "--timeout=30s")
    overlay = f"--kustomization={operator.overlay}"
    try:
        result = run(K8S / "deploy.sh", overlay, *words)
        assert result.returncode == 1
        assert "There is not the NetworkPolicy other" in result.stdout
        assert "The chart is not well deployed" in result.stderr
    finally:
        operator.upgrade()


# -- the end --------------------------------------------------------------------------------------------


def test_uninstalled_no_executor_is_left_and_the_policies_stay(operator: Operator) -> None:
    with operator.client() as client:
        kernel = client.start()
    assert operator.executors() == [f"kernel-{kernel}"]
    operator.helm("uninstall", RELEASE)
    assert operator.executors() == []
    for kind, name in (
        ("serviceaccount", "jupyter-gateway"),
        ("job", "delete-executors"),
        ("deployment", "gateway"),
        ("deployment", "canary"),
        ("daemonset", "pre-puller"),
    ):
        assert operator.get(kind, name) == {}
    kubectl("get", "networkpolicy", "executor-deny-all", "--namespace", operator.installation.executors)


# -- setup.sh, then Helm --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(cluster: None) -> Iterator[Operator]:
    """Somebody who has run setup.sh from nothing, and installed the chart by Helm, with a token of theirs."""
    import_images()
    with absent() as names, names.overlay() as overlay:
        made = Operator(names, overlay, "mine")
        made.setup()
        secret = ("create", "secret", "generic", "mine", "--namespace", made.namespace)
        kubectl(*secret, "--from-literal=token=chosen-by-hand")
        values = ("keepExecutors=true", "prePuller.enabled=false", "token.existingSecret=mine")
        made.install(*(f"--set={each}" for each in values))
        yield made


def test_after_setup_helm_takes_over_what_both_make_and_setup_leaves_it(installed: Operator) -> None:
    for kind, name in (
        ("serviceaccount", "jupyter-gateway"),
        ("deployment", "canary"),
        ("service", "canary"),
    ):
        found = installed.get(kind, name)["metadata"]
        assert found["labels"]["helm.sh/chart"].startswith("integr8scode-")
        assert found["annotations"]["meta.helm.sh/release-name"] == RELEASE
    before = installed.versions()
    said = told(installed.setup())
    left = {what for what, became in said.items() if became == "left to the chart"}
    assert {what.rpartition("/")[2] for what in left} == {"jupyter-gateway", "canary"}
    assert len(left) == 3
    assert {became for what, became in said.items() if what not in left} == {"unchanged"}
    assert installed.versions() == before


def test_a_token_of_ones_own_is_the_only_one(installed: Operator) -> None:
    assert installed.get("secret", "gateway-token") == {}
    with installed.client() as client:
        client.ask("GET", "/api/kernels")
        with pytest.raises(HTTPError, match="403"):
            replace(client, token=client.token[::-1]).ask("GET", "/api/kernels")


def test_helm_may_then_change_what_setup_has_made(installed: Operator) -> None:
    # By a tag that is another name of the same image, or of none: only what the object says counts here.
    image = "localhost/jupyter-sandbox-gateway/relay:other"
    installed.helm("upgrade", RELEASE, CHART, "--reuse-values", f"--set=images.relay={image}")
    assert _image(installed) == image
    installed.helm("rollback", RELEASE, "--wait", "--timeout=3m")
    assert _image(installed) != image


def test_uninstalled_executors_stay_where_it_was_asked_for(installed: Operator) -> None:
    with installed.client() as client:
        kernel = client.start()
    installed.helm("uninstall", RELEASE)
    assert installed.executors() == [f"kernel-{kernel}"]


def _image(operator: Operator) -> str:
    deployment = operator.get("deployment", "canary")
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return image
