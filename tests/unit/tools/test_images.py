"""The images' recipes are anybody's to build; an image is kept under a key of all that it is built from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import images
from tools.machine import ROOT

EVERY = pytest.mark.parametrize("name", images.NAMES)


def recipe(name: str) -> str:
    return (ROOT / "k8s/images" / name / "Dockerfile").read_text()


def test_every_recipe_is_built() -> None:
    assert {path.parent.name for path in (ROOT / "k8s/images").glob("*/Dockerfile")} == {*images.NAMES}


@EVERY
def test_the_base_is_an_argument(name: str) -> None:
    bases = re.findall(r"^FROM (\S+)", recipe(name), re.MULTILINE)
    assert bases[0] == "${BASE}"
    assert {*bases} <= {"${BASE}", "scratch"}


@EVERY
def test_nobody_but_an_ordinary_user_is_left_at_the_end(name: str) -> None:
    last_stage = recipe(name).rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)", last_stage, re.MULTILINE) == ["1000:1000"]
    assert "RUN" not in last_stage


@EVERY
def test_all_that_is_copied_is_let_into_the_context_and_is_in_the_key(name: str) -> None:
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    let_in = [ROOT / line.removeprefix("!") for line in rest if line.startswith("!")]
    files = list(images.copied(name))
    assert files
    for file in files:
        assert any(file.is_relative_to(place) for place in let_in), file


@EVERY
def test_whatever_an_image_is_built_from_is_in_its_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = images.key(name, "base")
    assert images.key(name, "other base") != before
    read = Path.read_bytes
    for changed in (ROOT / "k8s/images" / name / "Dockerfile", *images.copied(name)):
        monkeypatch.setattr(
            Path, "read_bytes", lambda path, changed=changed: read(path) + b"!" * (path == changed)
        )
        assert images.key(name, "base") != before, changed
    monkeypatch.setattr(Path, "read_bytes", read)
    assert images.key(name, "base") == before


def test_the_tag_is_the_projects_version() -> None:
    from gateway import __version__

    assert images.reference("relay") == f"localhost/jupyter-sandbox-gateway/relay:{__version__}"
