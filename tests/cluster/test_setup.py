"""k8s/setup.sh makes all of the manifests, from nothing and again, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.deployed import deployed, import_images
from tests.cluster.installation import absent
from tests.cluster.kubectl import kubectl
from tests.cluster.operator import K8S, Client, Operator, run, told

pytestmark = pytest.mark.requires("cluster", "own-cluster")


@pytest.fixture(scope="module")
def operator(cluster: None) -> Iterator[Operator]:
    """On a cluster without any of the objects."""
    import_images()
    with absent() as names, names.overlay() as overlay:
        yield Operator(names, overlay)


@pytest.fixture(scope="module")
def wanted(operator: Operator) -> set[str]:
    """Every object of the kustomization, as setup.sh calls it."""
    words = ("create", "--dry-run=client", "--kustomize", str(operator.overlay), "--output=json")
    found = set()
    for line in kubectl(*words).replace("}\n{", "}\0{").split("\0"):
        each = json.loads(line)
        metadata = each["metadata"]
        found.add(f"{each['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}")
    return found


@pytest.fixture(scope="module")
def dry(operator: Operator) -> str:
    """What a dry run has said before anything was there."""
    return operator.setup("--dry-run")


@pytest.fixture(scope="module")
def first(operator: Operator, dry: str) -> str:
    """What setup.sh has said that made it all."""
    assert operator.objects() == []
    return operator.setup(doctor=True)


def test_a_dry_run_names_every_object_and_makes_none(
    dry: str, wanted: set[str], operator: Operator, request: pytest.FixtureRequest
) -> None:
    assert told(dry) == dict.fromkeys(wanted, "to be created")
    # `first` has looked that there was nothing, before it made it.
    request.getfixturevalue("first")


def test_it_makes_every_object_and_says_so(first: str, wanted: set[str], operator: Operator) -> None:
    # Kubernetes itself has made these in the new namespaces, with a token for whoever takes it.
    accounts = {what for what in wanted if re.fullmatch(r"ServiceAccount \S+/default", what)}
    assert len(accounts) == 2
    said = told(first)
    assert said.keys() == wanted
    assert {what for what in wanted - accounts if said[what] != "created"} == set()
    assert len(operator.objects()) == len(wanted)


def test_what_is_there_is_what_the_manifests_say(first: str, operator: Operator) -> None:
    argv = ["kubectl", "diff", "--server-side", "--force-conflicts", "--kustomize", str(operator.overlay)]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_it_ends_by_the_doctor_who_finds_nothing_wrong(first: str) -> None:
    findings = first.partition("The doctor's findings:\n")[2].splitlines()
    checks = {
        line.split(maxsplit=1)[1].split("  ")[0]: line.split()[0] for line in findings if line[:1].strip()
    }
    assert {name for name, verdict in checks.items() if verdict not in ("ok", "limit")} == set()
    assert {"policy", "admission", "egress", "ingress"} <= checks.keys()


def test_a_second_time_it_changes_nothing(first: str, wanted: set[str], operator: Operator) -> None:
    before = operator.versions()
    assert told(operator.setup()) == dict.fromkeys(wanted, "unchanged")
    assert operator.versions() == before
    assert operator.get("deployment", "canary")["metadata"]["generation"] == 1


def test_what_somebody_has_changed_is_shown_by_a_dry_run_and_then_mended(
    first: str, operator: Operator
) -> None:
    executors = operator.installation.executors
    what = f"ResourceQuota {executors}/executors"

    def pods() -> str:
        return kubectl(
            "get", "quota", "executors", "--namespace", executors, "--output=jsonpath={.spec.hard.pods}"
        )

    kubectl(
        *("patch", "quota", "executors", "--namespace", executors, "--type=merge"),
        '--patch={"spec": {"hard": {"pods": "1"}}}',
    )
    dry = operator.setup("--dry-run")
    assert told(dry)[what] == "to be changed"
    assert re.search(r'^ +-.*pods: "1"$', dry, re.M)
    assert re.search(r'^ +\+.*pods: "55"$', dry, re.M)
    assert pods() == "1"
    said = told(operator.setup())
    assert {each for each, became in said.items() if became != "unchanged"} == {what}
    assert pods() == "55"


def test_a_gateway_outside_starts_a_kernel_with_the_account_that_it_made(
    first: str, operator: Operator, tmp_path: Path
) -> None:
    shutil.copy(K8S.parent / "kernelspecs/python3/kernel.json", tmp_path / "python3.json")
    with deployed(operator.installation, tmp_path) as there:
        traits = [f"--KubernetesBackend.{name}={value}" for name, value in there.traits.items()]
        argv = [sys.executable, "-m", "gateway", "--backend=kubernetes", "--port=0", *traits]
        environment = {**os.environ, "JUPYTER_GATEWAY_TOKEN": "word"}
        with subprocess.Popen(
            [*argv, f"--KernelSpecs.files={tmp_path}"], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                found = re.match(r"URL: (http://127\.0\.0\.1:\d+)/\n", process.stdout.readline())
                assert found is not None
                client = Client(found[1], "word")
                kernel = client.start()
                assert operator.executors() == [f"kernel-{kernel}"]
                client.ask("DELETE", f"/api/kernels/{kernel}")
            finally:
                process.terminate()


def test_for_the_chart_it_leaves_out_what_the_chart_makes(first: str, operator: Operator) -> None:
    said = told(operator.setup("--for-chart"))
    hub = operator.namespace
    assert {what for what, became in said.items() if became == "left to the chart"} == {
        f"ServiceAccount {hub}/jupyter-gateway",
        f"Deployment {hub}/canary",
        f"Service {hub}/canary",
    }


# -- what it cannot work with ---------------------------------------------------------------------------


def test_without_kubectl_it_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    for name in ("dirname", "mktemp", "rm"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    result = run(K8S / "setup.sh", env={"PATH": str(tmp_path)})
    assert (result.returncode, result.stdout) == (1, "")
    assert "kubectl is not on the PATH" in result.stderr


def test_without_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": ""}}],
        "current-context": "none",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    result = run(K8S / "setup.sh", "--dry-run")
    assert (result.returncode, result.stdout) == (1, "")
    assert "The cluster does not answer" in result.stderr


@pytest.mark.parametrize(
    ("client", "server", "said"),
    [
        (36, "32", "The cluster is of version 1.32; 1.33 or later is needed."),
        (36, "32+", "The cluster is of version 1.32; 1.33 or later is needed."),
        (31, "33", "kubectl is of version 1.31; 1.32 or later is needed."),
    ],
)
def test_a_version_that_is_too_old_is_refused(client: int, server: str, said: str, tmp_path: Path) -> None:
    # A stand-in for kubectl, that only tells versions.
    versions = {"clientVersion": {"major": "1", "minor": str(client)}, "kustomizeVersion": "v5.8.1"}
    versions["serverVersion"] = {"major": "1", "minor": server}
    (tmp_path / "versions").write_text(json.dumps(versions, indent=2))
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\n[ "$1" = version ] && cat {tmp_path}/versions\n')
    (tmp_path / "kubectl").chmod(0o755)
    result = run(K8S / "setup.sh", env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)})
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr


def test_an_option_that_there_is_not_is_refused() -> None:
    result = run(K8S / "setup.sh", "--dry")
    assert result.returncode == 1
    assert "There is no option --dry." in result.stderr


def test_without_the_gateways_program_it_says_how_to_run_the_doctor_later(
    first: str, operator: Operator, tmp_path: Path
) -> None:
    (tmp_path / "kubectl").symlink_to(str(shutil.which("kubectl")))
    # kubectl keeps a cache where its home is, or else where it is started.
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "KUBECONFIG": os.environ["KUBECONFIG"]}
    result = run(K8S / "setup.sh", f"--kustomization={operator.overlay}", env=env)
    assert result.returncode == 0, result.stderr
    assert "jupyter gateway doctor --backend=kubernetes" in result.stdout
