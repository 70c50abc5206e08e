"""`jupyter gateway pod`: a pod as YAML, or a sentence that says why there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    for name, settings in {"python3": {"memory": "512MiB"}, "greedy": {"memory": "999GiB"}}.items():
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": ["python"], "metadata": {"sandbox": settings}}
        (folder / "kernel.json").write_text(json.dumps(spec))
    return tmp_path


def run(specs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.defpath,
        "HOME": str(specs),
        "JUPYTER_PATH": str(specs),
        "JUPYTER_NO_CONFIG": "1",
    }
    command = [sys.executable, "-m", "gateway", "pod", *words]
    root = Path(__file__).parents[3]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_it_prints_the_pod_of_a_kernelspec_and_nothing_else(specs: Path) -> None:
    result = run(specs, "python3", "--KubernetesBackend.namespace=mine")
    pod = yaml.safe_load(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert (pod["kind"], pod["metadata"]["namespace"]) == ("Pod", "mine")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == str(512 << 20)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "nothing"),
        (["greedy"], "metadata.sandbox.memory is '999GiB' and may be at most 1 GiB"),
        ([], "Name one kernelspec"),
        (["python3", "greedy"], "Name one kernelspec"),
        (["python3", "--KubernetesBackend.privileged=true"], "has no trait 'privileged'"),
        (["python3", "--KubernetesBackend.labels={}"], "labels must have 'component'"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(specs: Path, words: list[str], sentence: str) -> None:
    result = run(specs, *words)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
