"""Environments are made once, and again when what they are made from changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tools import environments, lock
from tools.environments import Environment
from tools.machine import ROOT, SetupError


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment of nothing, so that nothing is fetched."""
    environments.uv()
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "lock.txt").write_text("")
    return Environment(tmp_path / ".venv", tmp_path / "lock.txt", with_project=False)


def test_an_environment_is_made_once_and_anew_when_its_lock_changes(wanted: Environment) -> None:
    assert environments.make(wanted)
    assert (wanted.bin / "python").exists()
    assert not environments.make(wanted)
    (wanted.folder / "left").write_text("")
    wanted.lock.write_text("# changed\n")
    assert environments.make(wanted)
    assert not (wanted.folder / "left").exists()


def test_one_that_is_to_have_kernels_is_made_again(wanted: Environment) -> None:
    assert environments.make(dataclasses.replace(wanted, has_kernels=False))
    assert environments.make(wanted)
    assert not environments.make(wanted)


def test_one_that_could_not_be_made_whole_is_made_again(wanted: Environment) -> None:
    wanted.lock.write_text("no-digest==1.0\n")
    with pytest.raises(SetupError, match="--require-hashes"):
        environments.make(wanted)
    wanted.lock.write_text("")
    assert environments.make(wanted)


@pytest.mark.parametrize("name", lock.LOCKS)
def test_no_lock_names_a_registry_and_every_line_has_a_digest(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    for requirement in text.replace("\\\n", "").splitlines():
        assert requirement.lstrip().startswith("#") or "--hash=sha256:" in requirement, requirement


def test_make_lock_resolves_every_lock_there_is_from_sources_there_are() -> None:
    found = [*(ROOT / "requirements").glob("*.txt"), *(ROOT / "kernelspecs").glob("*/requirements.txt")]
    assert {str(file.relative_to(ROOT)) for file in found} == set(lock.LOCKS)
    for sources in lock.LOCKS.values():
        assert all(source.startswith("--") or (ROOT / source).exists() for source in sources)
