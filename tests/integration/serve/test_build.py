"""`kernelspecs/build` as it is typed, with the lock cut down to one package: by pip, and by uv."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateways import ROOT
from tools import environments, packages

#: A package of the lock that needs no other.
PACKAGE = "comm"


def by_pip(_: Path) -> dict[str, str]:
    """The environment of who types it."""
    return {name: value for name, value in os.environ.items() if name != "UV"}


def by_uv(cache: Path) -> dict[str, str]:
    """That of what uv starts; its cache is filled by the build."""
    return {**packages.for_uv(os.environ), "UV": environments.uv(), "UV_CACHE_DIR": str(cache)}


@pytest.fixture
def kernelspecs(tmp_path: Path) -> Path:
    """A copy of the folder, whose lock has one package."""
    copied = tmp_path / "kernelspecs"
    shutil.copytree(ROOT / "kernelspecs", copied)
    lock = copied / "python3" / "requirements.txt"
    found = re.search(rf"^{PACKAGE}==.*?(?=^\S)", lock.read_text(), re.M | re.S)
    assert found is not None
    lock.write_text(found[0])
    return copied


def build(kernelspecs: Path, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """By somebody who shows others nothing, as sandboxes' users are."""
    words = (kernelspecs / "build", folder, sys.executable)
    return subprocess.run(words, env=environment, capture_output=True, text=True, umask=0o077)


def built_at(folder: Path) -> int:
    return (folder / "built").stat().st_mtime_ns


@pytest.mark.parametrize("environment", [by_pip, by_uv])
def test_a_build_makes_what_is_locked_and_a_kernelspec_that_runs_in_it(
    kernelspecs: Path, tmp_path: Path, environment: Callable[[Path], dict[str, str]]
) -> None:
    folder = tmp_path / "made" / "python3"
    done = build(kernelspecs, folder, environment(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    spec = json.loads((folder / "share/jupyter/kernels/python3/kernel.json").read_text())
    python = spec["argv"][0]
    assert Path(python).parent == folder / "bin"
    assert (folder / "bin" / "pip").exists() == (environment is by_pip)
    (package,) = folder.glob(f"lib/python*/site-packages/{PACKAGE}")
    assert [file for file in (package, *package.rglob("*")) if not file.stat().st_mode & 0o004] == []
    code = f"import {PACKAGE} as it; print(it.__cached__)"
    cached = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert Path(cached).stat().st_mtime_ns < built_at(folder), "it was not compiled with the build"


def test_what_is_up_to_date_stays_and_what_failed_is_made_again(kernelspecs: Path, tmp_path: Path) -> None:
    folder, lock = tmp_path / "python3", kernelspecs / "python3" / "requirements.txt"
    good, uv = lock.read_text(), by_uv(tmp_path / "cache")
    assert build(kernelspecs, folder, uv).returncode == 0
    at = built_at(folder)
    assert build(kernelspecs, folder, uv).returncode == 0
    assert built_at(folder) == at

    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", good))
    refused = build(kernelspecs, folder, uv)
    assert refused.returncode != 0
    assert "hash" in refused.stderr.lower()
    lock.write_text(good)
    assert build(kernelspecs, folder, uv).returncode == 0
    assert built_at(folder) > at
