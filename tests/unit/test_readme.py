"""README and CONTRIBUTING name what there is: tests, paths, settings and their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from traitlets.config import Configurable

from gateway.app import JupyterGateway
from gateway.app_announce import lab_line

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "k8s/README.md")
TEXT = {page: (ROOT / page).read_text() for page in PAGES}


def words(pattern: str) -> list[tuple[str, str]]:
    """(page, word) of what is set in code and looks like `pattern`."""
    return sorted(
        {(page, word) for page, text in TEXT.items() for word in re.findall(f"`({pattern})`", text)}
    )


@pytest.fixture(scope="module")
def every_test() -> str:
    return "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize(("page", "name"), words(r"test_\w+"))
def test_a_test_that_is_named_exists(page: str, name: str, every_test: str) -> None:
    assert f"def {name}(" in every_test


@pytest.mark.parametrize(
    ("page", "path"), words(r"(?:tests|gateway|kernelspecs|notebooks|requirements)/[\w./-]*")
)
def test_a_path_that_is_named_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists()


def test_what_is_said_of_the_printed_lab_line_is_in_it() -> None:
    line = lab_line(
        Path("jupyter"), "http://127.0.0.1:8888/", "", Path("scratch"), as_root=False, display=False
    )
    said = re.findall(r"has `([^`]+)`", (ROOT / "docs" / "security.md").read_text())
    assert said
    assert [setting for setting in said if setting not in line] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", "".join(TEXT.values())))
def test_a_link_to_a_file_leads_to_one(target: str) -> None:
    assert (ROOT / target).exists()


def settings() -> list[tuple[str, str]]:
    """(class, trait) of every setting in README's table; `.name` belongs to the class named before it."""
    found = []
    for line in TEXT["README.md"].splitlines():
        if line.startswith("| `"):
            owner = ""
            for cls, trait in re.findall(r"`(\w*)\.(\w+)`", line.split("|")[1]):
                owner = cls or owner
                found.append((owner, trait))
    return found


@pytest.mark.parametrize(("owner", "trait"), settings())
def test_a_setting_that_is_named_exists(owner: str, trait: str) -> None:
    classes: dict[str, type[Configurable]] = {cls.__name__: cls for cls in JupyterGateway().classes}
    assert trait in classes[owner].class_traits(config=True)


@pytest.mark.parametrize("option", re.findall(r"`--([\w-]+)`", TEXT["README.md"]))
def test_an_option_that_is_named_exists(option: str) -> None:
    assert option in JupyterGateway.aliases or option in JupyterGateway.flags or option == "help-all"
