"""What Helm makes of the chart: no cluster is asked, but Helm comes with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from gateway.app import JupyterGateway
from gateway.backends.kubernetes import names
from gateway.backends.kubernetes.podspec import SECURITY
from tests.cluster.kubectl import kubectl
from tests.cluster.operator import CHART, K8S, RELEASE, run, well

pytestmark = pytest.mark.requires("cluster")

Object = dict[str, Any]

HUB = "integr8scode-gateway"
TEMPLATE = ("template", RELEASE, str(CHART), f"--namespace={HUB}")

#: Values that have every template made and every list filled.
EVERYTHING: Object = {
    "images": {"pullSecrets": ["mine"]},
    "gateway": {"nodeSelector": {"pool": "hub"}, "tolerations": [{"key": "hub", "operator": "Exists"}]},
    "service": {"type": "NodePort", "annotations": {"a": "b"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "kernels.example.org",
        "tlsSecret": "certificate",
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prePuller": {"images": ["localhost/pause:1"], "nodeSelector": {"pool": "kernels"}},
}


def rendered(tmp_path: Path, values: Object | None = None) -> dict[str, Object]:
    """ "Kind name" -> object, with these values."""
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values or {}))
    found = yaml.safe_load_all(well("helm", *TEMPLATE, f"--values={file}"))
    objects = [each for each in found if each]
    # The ServiceAccount is there twice: the second is for when the first is gone.
    return {f"{each['kind']} {each['metadata']['name']}": each for each in reversed(objects)}


def config(objects: dict[str, Object]) -> Object:
    text = objects["ConfigMap gateway-config"]["data"]["jupyter_gateway_config.json"]
    found: Object = json.loads(text)
    return found


def pod_specs(objects: dict[str, Object]) -> dict[str, Object]:
    """Of everything that makes pods."""
    return {
        name: each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
        for name, each in objects.items()
        if each["kind"] in ("Pod", "Deployment", "DaemonSet", "Job")
    }


def test_helm_finds_nothing_wrong() -> None:
    said = well("helm", "lint", "--strict", CHART)
    assert "0 chart(s) failed" in said


def test_the_chart_is_of_the_gateways_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_container_is_hardened_as_an_executors_is(values: Object, tmp_path: Path) -> None:
    specs = pod_specs(rendered(tmp_path, values))
    assert specs.keys() == {
        "Deployment canary",
        "Deployment gateway",
        "DaemonSet pre-puller",
        "Job delete-executors",
        "Pod start-a-kernel",
    }
    for name, spec in specs.items():
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"] == SECURITY, name
            assert {*container["resources"]["limits"]} == {"cpu", "memory", "ephemeral-storage"}, name
        assert spec["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 1000}.items()
        assert spec["enableServiceLinks"] is False
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        assert all({"hostPath"}.isdisjoint(volume) for volume in spec.get("volumes", []))


def test_only_what_asks_the_api_server_has_a_token(tmp_path: Path) -> None:
    specs = pod_specs(rendered(tmp_path))
    holders = {name for name, spec in specs.items() if spec["automountServiceAccountToken"]}
    assert holders == {"Deployment gateway", "Job delete-executors"}


def test_nothing_of_the_executors_namespace_is_the_charts(tmp_path: Path) -> None:
    objects = rendered(tmp_path, EVERYTHING)
    assert {each["metadata"]["namespace"] for each in objects.values()} == {HUB}
    kinds = {each["kind"] for each in objects.values()}
    assert kinds.isdisjoint({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Namespace"})


def test_the_operators_guide_names_each_object_and_its_owner(tmp_path: Path) -> None:
    rows = re.findall(
        r"^\| (\w+)/(\S+) \| (\S*) *\| (setup\.sh|chart)(.*) \|$",
        (K8S.parent / "docs/kubernetes.md").read_text(),
        re.M,
    )
    told = {(kind, name, namespace): (owner, also) for kind, name, namespace, owner, also in rows}
    assert len(told) == len(rows)

    def keys(objects: Iterable[Object]) -> set[tuple[str, str, str]]:
        return {
            (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace", ""))
            for each in objects
        }

    setups = keys(yaml.safe_load_all(kubectl("kustomize", str(K8S / "manifests"))))
    charts = keys(rendered(tmp_path, EVERYTHING).values())
    assert {key for key, (owner, _) in told.items() if owner == "chart"} == charts
    assert {key for key, (owner, _) in told.items() if owner == "setup.sh"} == setups - charts
    assert {key for key, (_, also) in told.items() if "without a release setup.sh" in also} == setups & charts


@pytest.mark.parametrize("name", ["ServiceAccount jupyter-gateway", "Deployment canary", "Service canary"])
def test_what_setup_makes_too_is_the_same_but_for_whose_it_is(name: str, tmp_path: Path) -> None:
    manifests = yaml.safe_load_all(kubectl("kustomize", str(K8S / "manifests")))
    found = {f"{each['kind']} {each['metadata']['name']}": each for each in manifests}
    ours, charts = found[name], rendered(tmp_path)[name]
    # Helm gives its annotations itself.
    assert ours["metadata"].pop("annotations") == {
        "meta.helm.sh/release-name": RELEASE,
        "meta.helm.sh/release-namespace": HUB,
    }
    assert charts["metadata"]["labels"].pop("helm.sh/chart") == f"integr8scode-{__version__}"
    assert ours == charts


def test_the_python_kernel_is_that_of_the_project(tmp_path: Path) -> None:
    kernelspecs = rendered(tmp_path)["ConfigMap gateway-kernelspecs"]["data"]
    project = json.loads((K8S.parent / "kernelspecs/python3/kernel.json").read_text())
    assert {name: json.loads(text) for name, text in kernelspecs.items()} == {"python3.json": project}


def test_the_relay_is_started_as_the_gateway_starts_it(tmp_path: Path) -> None:
    puller = pod_specs(rendered(tmp_path))["DaemonSet pre-puller"]
    assert puller["initContainers"][0]["command"] == [*names.PROGRAM, "install", names.INSTALL]


def test_every_image_that_a_kernelspec_names_is_pulled_once(tmp_path: Path) -> None:
    specs = {
        name: {
            "argv": ["k"],
            "display_name": name,
            "language": "any",
            "metadata": {"sandbox": {"image": image}},
        }
        for name, image in (("one", "localhost/a:1"), ("two", "localhost/b:1"), ("three", "localhost/a:1"))
    }
    values = {"kernelspecs": specs, "prePuller": {"images": ["localhost/b:1", "localhost/c:1"]}}
    puller = pod_specs(rendered(tmp_path, values))["DaemonSet pre-puller"]
    executor = f"localhost/jupyter-sandbox-gateway/executor:{__version__}"
    pulled = [each["image"] for each in puller["initContainers"][1:]]
    assert sorted(pulled) == sorted([executor, "localhost/a:1", "localhost/b:1", "localhost/c:1"])


def test_one_word_sets_where_all_images_are(tmp_path: Path) -> None:
    values = {"images": {"registry": "registry.example/kernels", "tag": "2"}}
    objects = rendered(tmp_path, values)
    images = {c["image"] for spec in pod_specs(objects).values() for c in spec["containers"]}
    assert images == {f"registry.example/kernels/{name}:2" for name in ("gateway", "relay")}
    assert config(objects)["KubernetesBackend"]["image"] == "registry.example/kernels/executor:2"


def test_the_gateway_knows_every_setting_and_the_charts_come_last(tmp_path: Path) -> None:
    values = {
        "config": {
            "Kernels": {"max_kernels": 7},
            "KubernetesBackend": {"memory": "2GiB", "life": 60},
            "WebOptions": {"allowed_hosts": ["other.example.org"]},
        },
        "ingress": {"enabled": True, "host": "kernels.example.org"},
        "executors": {"namespace": "kernels", "instance": "mine"},
    }
    (tmp_path / "made.json").write_text(json.dumps(config(rendered(tmp_path, values))))
    app = JupyterGateway()
    app.initialize([f"--config={tmp_path / 'made.json'}"])
    assert (app.ip, app.port, app.backend) == ("", 8888, "kubernetes")
    assert app.config.Kernels.max_kernels == 7
    assert {"gateway", "kernels.example.org", "other.example.org"} <= {*app.config.WebOptions.allowed_hosts}
    backend = app.make_backend()
    wanted = {"namespace": "kernels", "instance": "mine", "life": 60, "canary": f"{HUB}/canary"}
    assert {name: getattr(backend, name) for name in wanted} == wanted


def test_a_monitor_sends_the_token(tmp_path: Path) -> None:
    values = {"serviceMonitor": {"enabled": True}, "token": {"existingSecret": "mine"}}
    objects = rendered(tmp_path, values)
    assert "Secret gateway-token" not in objects
    (endpoint,) = objects["ServiceMonitor gateway"]["spec"]["endpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "mine", "key": "token"}}
    service = objects["Service gateway"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    selector = objects["ServiceMonitor gateway"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ('anything="x"', "anything"),
        ('executors.namespace="Kernels"', "/executors/namespace"),
        ('executors.instance=""', "/executors/instance"),
        ('executors.image="x"', "/executors"),
        ('images.registry="https://registry.example"', "/images/registry"),
        ('images.tag="a b"', "/images/tag"),
        ('images.pullPolicy="Sometimes"', "/images/pullPolicy"),
        ('images.gateway="-x"', "/images/gateway"),
        ('images.pullSecrets="mine"', "/images/pullSecrets"),
        ('config.kernels={"max_kernels":1}', "/config"),
        ("config.Kernels=7", "/config/Kernels"),
        ('config.Kernels={"max-kernels":1}', "/config/Kernels"),
        ("config.JupyterGateway=7", "/config/JupyterGateway"),
        ("config.JupyterGateway.port=80", "/config/JupyterGateway/port"),
        ('config.JupyterGateway.token="x"', "/config/JupyterGateway/token"),
        ('config.JupyterGateway.base_url="/x"', "/config/JupyterGateway/base_url"),
        ('config.KubernetesBackend.namespace="x"', "/config/KubernetesBackend/namespace"),
        ('config.KubernetesBackend.labels={"app":"x"}', "/config/KubernetesBackend/labels"),
        ('config.KubernetesBackend.canary="a/b"', "/config/KubernetesBackend/canary"),
        ('kernelspecs.python3.argv="python"', "/kernelspecs/python3/argv"),
        ('kernelspecs.python3.argv=["{resource_dir}/k"]', "/kernelspecs/python3/argv/0"),
        ('kernelspecs.other={"argv":["k"]}', "/kernelspecs/other"),
        ('kernelspecs.python3.metdata={"sandbox":{}}', "/kernelspecs/python3"),
        ('kernelspecs={"a/b":{"argv":["k"],"display_name":"k","language":"k"}}', "/kernelspecs"),
        ('kernelspecs.python3.env={"A":1}', "/kernelspecs/python3/env/A"),
        ('token.value="x"', "/token"),
        ("gateway.replicas=2", "/gateway"),
        ('gateway.resources.limits.cpu="lots"', "/gateway/resources/limits/cpu"),
        ('gateway.tolerations=[{"kay":"x"}]', "/gateway/tolerations/0"),
        ('service.type="ExternalName"', "/service/type"),
        ("ingress.enabled=true", "/ingress/host"),
        ('serviceMonitor.interval="often"', "/serviceMonitor/interval"),
        ('prePuller.enabled="yes"', "/prePuller/enabled"),
        ('keepExecutors="yes"', "/keepExecutors"),
    ],
)
def test_a_wrong_value_is_refused_and_named(value: str, where: str) -> None:
    name, _, given = value.partition("=")
    result = run("helm", *TEMPLATE, f"--set-json={name}={given}")
    assert result.returncode != 0
    assert where in result.stderr
    # And it is this value that is wrong.
    assert run("helm", *TEMPLATE).returncode == 0


@pytest.mark.parametrize(("config", "seconds"), [({}, 45), ({"JupyterGateway": {"drain_grace": 90}}, 105)])
def test_the_gateway_gets_the_time_to_drain(config: Object, seconds: int, tmp_path: Path) -> None:
    spec = pod_specs(rendered(tmp_path, {"config": config}))["Deployment gateway"]
    assert spec["terminationGracePeriodSeconds"] == seconds


def test_the_policies_know_the_gateway_by_its_labels(tmp_path: Path) -> None:
    labels = rendered(tmp_path)["Deployment gateway"]["spec"]["template"]["metadata"]["labels"]
    policies = yaml.safe_load_all((K8S / "manifests/gateway/network-policies.yaml").read_text())
    (policy,) = (each for each in policies if each["metadata"]["name"] == "gateway")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
