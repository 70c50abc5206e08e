"""A part is built once, from what its key says, whole or not at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tools.cluster import parts
from tools.cluster.parts import Part
from tools.machine import SetupError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jupyter-sandbox-gateway" / "cluster"


def built(monkeypatch: pytest.MonkeyPatch, *wanted: Part) -> dict[str, Path]:
    monkeypatch.setattr(parts, "parts", lambda: list(wanted))
    return parts.build()


def shell(script: str, *, name: str = "x") -> Part:
    return Part(name, (("sh", "-euc", script, "{out}"),))


def test_a_part_that_is_there_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = shell(f'echo again >> {tmp_path}/log; echo made > "$0"/file')
    first, second = built(monkeypatch, part), built(monkeypatch, part)
    assert first == second
    assert (first["x"] / "file").read_text() == "made\n"
    assert (tmp_path / "log").read_text() == "again\n"


def test_a_part_with_another_recipe_is_another_one_and_leaves_the_rest_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = shell(f"echo other >> {tmp_path}/log", name="other")
    before = built(monkeypatch, shell("true"), other)
    after = built(monkeypatch, shell("true # changed"), other)
    assert before["x"] != after["x"]
    assert before["other"] == after["other"]
    assert (tmp_path / "log").read_text() == "other\n"


@pytest.mark.parametrize(
    "change",
    [{"environment": {"CGO_ENABLED": "0"}}, {"module": "etcd"}, {"files": ("pause.c",)}, {"commands": ()}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_part_is_built_from_is_in_its_key(change: dict[str, object]) -> None:
    part = shell("true")
    assert replace(part, **change).key() != part.key()  # type: ignore[arg-type]


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    part = shell(f'echo half > "$0"/file; test -e {tmp_path}/now')
    with pytest.raises(SetupError, match=r"The cluster's x could not be built"):
        built(monkeypatch, part)
    assert [path.name for path in cache.iterdir()] == ["x.lock"]
    (tmp_path / "now").touch()
    assert (built(monkeypatch, part)["x"] / "file").exists()


def test_what_a_killed_build_has_left_is_removed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    left = cache / ".x-left"
    left.mkdir(parents=True)
    built(monkeypatch, shell("true"))
    assert not left.exists()


def test_two_builders_build_a_part_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The first builds until it is seen to build.
    script = f"echo built >> {tmp_path}/log; until test -e {tmp_path}/go; do :; done"
    monkeypatch.setattr(parts, "parts", lambda: [shell(script)])
    threads = [threading.Thread(target=parts.build) for _ in range(2)]
    for thread in threads:
        thread.start()
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.parametrize("says", ["", "go1.20.3", "devel"])
def test_a_go_that_is_too_old_or_missing_is_told_with_what_to_do(
    says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if says:
        program = tmp_path / "go"
        program.write_text(f"#!/bin/sh\necho {says}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=None)
    with pytest.raises(SetupError, match=r"built by Go 1\.21 or later, which is not here: install it"):
        parts.check_go()


def test_the_version_of_kubernetes_is_the_go_mods() -> None:
    assert parts.kubernetes_version().startswith("v1.36.")


def test_parts_have_names_of_their_own() -> None:
    names = [part.name for part in parts.parts()]
    assert len(names) == len({*names})
