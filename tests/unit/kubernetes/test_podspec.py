"""The pod is what the specification says, and nothing that anybody configures or asks for loosens it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import ArgumentError

from gateway.app import JupyterGateway
from gateway.app_pod import as_yaml
from gateway.backends.base import SandboxRequest, SpecError
from gateway.backends.kubernetes import KubernetesBackend
from gateway.backends.kubernetes import settings as members
from gateway.kernels.registry import Kernels
from tests.support.pod_settings import pod_settings
from tests.unit.kubernetes.leaves import DATA, HARDENING, SCHEDULED, leaves

EVERYTHING: dict[str, Any] = {
    "image": "registry.example/course:3",
    "runtime_class": "gvisor",
    "priority_class": "lessons",
    "queue": "students",
    "node_selector": {"pool": "kernels"},
    "tolerations": [{"key": "kernels", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topology_spread": [{"maxSkew": 1}],
    "read_only": [{"config_map": "a"}, {"claim": "b"}, {"image": "registry.example/set:1", "target": "c"}],
}


def request(settings: dict[str, Any] | None = None, **members: Any) -> SandboxRequest:
    given = {"spec_name": "python3", "argv": ["python3"], "resource_dir": "", "owner": "somebody", **members}
    return SandboxRequest(kernel_id=str(uuid.UUID(int=7)), settings=settings or {}, **given)


def pod(settings: dict[str, Any] | None = None, **traits: Any) -> dict[str, Any]:
    return KubernetesBackend(**traits).pod(request(settings))


def check(made: dict[str, Any]) -> set[str]:
    """Every leaf is in one of the tables, and has the value that it must have; the paths that there are."""
    seen = set()
    for path, value in leaves(made):
        seen.add(path)
        if path == "spec.containers[].command":
            # The largest file is a limit as any other: its last word.
            assert value[-1].isdecimal()
            value = [*value[:-1], HARDENING[path][-1]]
        if path in HARDENING:
            assert value == HARDENING[path], path
        else:
            assert path in DATA or path.startswith(SCHEDULED), f"{path} is in no table"
    return seen


def test_each_field_of_the_specification_is_there() -> None:
    assert check(pod()) >= HARDENING.keys()


def test_a_pod_with_all_that_a_kernelspec_may_say_is_as_hard() -> None:
    assert check(pod(EVERYTHING)) >= HARDENING.keys() | DATA


@given(pod_settings)
def test_whatever_a_kernelspec_says_the_pod_is_as_hard(settings: dict[str, Any]) -> None:
    made = pod(settings)
    seen = check(made)
    injected = settings.get("relay") != "built-in"
    assert seen >= {path for path in HARDENING if injected or "initContainers" not in path}
    assert len(made["spec"]["initContainers"]) == injected
    _check_volumes(made)


def _check_volumes(made: dict[str, Any]) -> None:
    """What can be written is on volumes that have a size, and everything else is shown read-only."""
    spec = made["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (kernel,) = spec["containers"]
    for mount in kernel["volumeMounts"]:
        volume = volumes[mount["name"]]
        if not mount.get("readOnly"):
            assert (mount["name"], mount["mountPath"]) in {("tmp", "/tmp"), ("home", "/home/kernel")}  # noqa: S108
            assert int(volume["emptyDir"]["sizeLimit"]) > 0
        elif mount["name"] != "relay":
            assert mount["mountPath"].startswith("/data/")
    targets = [mount["mountPath"] for mount in kernel["volumeMounts"]]
    assert len(set(targets)) == len(targets)
    assert all(
        volume.keys() - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim", "image"}
        for volume in volumes.values()
    )


# -- nothing loosens it -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", HARDENING)
def test_a_kernelspec_that_names_a_hardening_field_is_refused_by_its_name(path: str) -> None:
    name = path.replace("[]", "").split(".")
    loosened: Any = "anything"
    for key in reversed(name):
        with pytest.raises(SpecError, match=f"no member '{key}'"):
            pod({key: loosened})
        loosened = {key: loosened}


@pytest.mark.parametrize("path", sorted(HARDENING.keys() - {"metadata.namespace"}))
def test_a_configuration_that_names_a_hardening_field_is_refused_by_its_name(path: str) -> None:
    name = path.replace("[]", "").split(".")[-1]
    with pytest.raises(ArgumentError, match=f"no trait '{name}'"):
        JupyterGateway()._check_arguments([f"--KubernetesBackend.{name}=true"])


def test_the_request_and_its_environment_do_not_reach_the_pod(tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": ["python3"], "env": {"runAsUser": "0"}}))
    config = Config(KernelSpecManager={"kernel_dirs": [str(tmp_path / "kernels")]})
    kernels = Kernels(config=config, backend=KubernetesBackend())
    environment = {path.split(".")[-1]: "0" for path in HARDENING} | {
        "HOME": "/",
        "KUBERNETES_SERVICE_HOST": "x",
    }
    plain, loaded = (
        kernels.launch(str(uuid.UUID(int=7)), "python3", env, "somebody") for env in ({}, environment)
    )
    assert kernels.backend.pod(loaded.request) == kernels.backend.pod(plain.request)
    check(kernels.backend.pod(loaded.request))


@pytest.mark.parametrize("hostile", ["", "a\nb: c", "x" * 3000, '"}', "{{ . }}", "\u202e\0"])
def test_an_owner_or_a_name_is_an_annotation_and_nothing_else(hostile: str) -> None:
    made = KubernetesBackend().pod(request(owner=hostile, spec_name=hostile))
    check(made)
    assert set(made["metadata"]["annotations"].values()) == {hostile}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "2GiB"}, ["memory", "2GiB", "at most 1 GiB"]),
        ({"memory": "1MiB"}, ["memory", "at least 64 MiB"]),
        ({"memory_request": "1GiB"}, ["memory_request", "at most 256 MiB"]),
        ({"cpus": 3}, ["cpus", "at most 2"]),
        ({"cpus": float("nan")}, ["cpus", "a number"]),
        ({"tmp_size": 1 << 40}, ["tmp_size", "at most 256 MiB"]),
        ({"file_size": 1 << 40}, ["file_size", "at most 256 MiB"]),
        ({"home_size": -1}, ["home_size", "bytes"]),
        ({"life": 1e9}, ["life", "at most 86400"]),
        ({"processes": 10}, ["processes", "may have"]),
        ({"image": ""}, ["image", "reference"]),
        ({"image": "-x"}, ["image", "reference"]),
        ({"image": "a b"}, ["image", "reference"]),
        ({"image": ["x"]}, ["image", "reference"]),
        ({"relay": "mine"}, ["relay", "'injected' or 'built-in'"]),
        ({"runtime_class": "A/B"}, ["runtime_class", "name"]),
        ({"priority_class": 3}, ["priority_class", "name"]),
        ({"queue": "a b"}, ["queue", "label"]),
        ({"node_selector": {"a": 1}}, ["node_selector", "texts"]),
        ({"tolerations": {}}, ["tolerations", "list of objects"]),
        ({"affinity": []}, ["affinity", "object"]),
        ({"topology_spread": ["a"]}, ["topology_spread", "list of objects"]),
        ({"read_only": {}}, ["read_only", "list"]),
        ({"read_only": [{"host_path": "/"}]}, ["read_only[0]", "config_map, claim, image"]),
        (
            {"read_only": [{"hostPath": {"path": "/"}, "claim": "x"}]},
            ["read_only[0]", "config_map, claim, image"],
        ),
        ({"read_only": [{"config_map": "a", "claim": "b"}]}, ["read_only[0]", "one of"]),
        ({"read_only": [{"config_map": "a", "readOnly": False}]}, ["read_only[0]", "one of"]),
        (
            {"read_only": [{"config_map": "a", "target": "../opt/relay"}]},
            ["read_only[0].target", "below /data"],
        ),
        ({"read_only": [{"config_map": "a", "target": "/etc"}]}, ["read_only[0].target", "below /data"]),
        ({"read_only": [{"config_map": "a", "target": "."}]}, ["read_only[0].target", "below /data"]),
        ({"read_only": [{"image": "a"}]}, ["read_only[0].target", "path below /data"]),
        (
            {"read_only": [{"claim": "a"}, {"claim": "b", "target": "a/b"}]},
            ["read_only[1]", "meets", "/data/a"],
        ),
        ({"read_only": [{"claim": "a"}, {"config_map": "a"}]}, ["read_only[1]", "meets", "/data/a"]),
        ({"transport": "udp"}, ["transport", "'ipc' or 'tcp'"]),
        ({"sign": 1}, ["sign", "true or false"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused_by_name_and_with_what_is_allowed(
    settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SpecError) as refused:
        pod(settings)
    assert all(word in str(refused.value) for word in words), refused.value


def test_the_manual_explains_every_member_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
    section = text.partition("## What a kernelspec may say")[2].partition("\n## ")[0]
    found = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(found) == sorted(members.KNOWN)


def test_a_kernelspec_that_needs_its_own_folder_is_refused() -> None:
    with pytest.raises(SpecError, match=r"\{resource_dir\}.*image"):
        KubernetesBackend().pod(request(argv=["sh", "/specs/mine/run"], resource_dir="/specs/mine"))


# -- the configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        ("namespace", "A"),
        ("namespace", ""),
        ("instance", ""),
        ("instance", "a b"),
        ("image", ""),
        ("relay_image", "a b"),
        ("labels", {"app": "integr8s"}),
        ("labels", {"app": "integr8s", "component": "control"}),
        ("orphan_timeout", 0),
        ("life", 0),
        ("memory", 1),
        ("file_size", 1),
        ("image_pull_policy", "Sometimes"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_its_name(trait: str, value: object) -> None:
    with pytest.raises(TraitError, match=trait):
        KubernetesBackend(**{trait: value})


def test_configured_names_and_limits_reach_the_pod() -> None:
    labels = {"app": "x", "component": "y"}
    made = pod(namespace="other", instance="second", labels=labels, user_namespaces=False, file_size="1MiB")
    assert made["metadata"]["namespace"] == "other"
    labels = made["metadata"]["labels"]
    assert (labels["app"], labels["component"], labels["integr8scode/instance"]) == ("x", "y", "second")
    assert "hostUsers" not in made["spec"]
    assert made["spec"]["containers"][0]["command"][-1] == str(1 << 20)


def test_a_kernelspecs_largest_file_is_told_to_its_relay() -> None:
    assert pod({"file_size": "1MiB"})["spec"]["containers"][0]["command"][-1] == str(1 << 20)


def test_a_request_never_exceeds_its_limit() -> None:
    resources = pod({"memory": "64MiB", "cpus": 0.05})["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == str(64 << 20)
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == "50m"


def test_the_yaml_is_the_pod_and_has_no_references() -> None:
    made = pod(EVERYTHING)
    text = as_yaml(made)
    assert yaml.safe_load(text) == made
    assert "&id" not in text


def test_who_has_no_cluster_does_not_pay_for_its_client() -> None:
    """The client of the API costs 54 MB and most of a second."""
    code = "import sys, gateway.app as app; app.JupyterGateway(); print([*sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"kubernetes", "aiohttp", "yaml"} & set(ast.literal_eval(result.stdout))
