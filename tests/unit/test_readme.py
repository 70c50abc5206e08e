"""The pages name what there is: tests, paths, settings and their defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from traitlets.config import Configurable

from gateway.app import JupyterGateway
from gateway.app_announce import lab_line

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "k8s/README.md", "docs/kubernetes.md")
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


@pytest.mark.parametrize(
    ("page", "target"),
    [(page, target) for page, text in TEXT.items() for target in re.findall(r"\]\(([^)#:]+)\)", text)],
)
def test_a_link_to_a_file_leads_to_one(page: str, target: str) -> None:
    assert (ROOT / page).parent.joinpath(target).exists()


@dataclass(frozen=True)
class Row:
    """A row of README's table of settings: what it names, in order, and the text of its defaults."""

    settings: tuple[tuple[str, str], ...]  # (class, trait)
    defaults: str

    def __str__(self) -> str:
        return ",".join(trait for _, trait in self.settings)


def table() -> list[Row]:
    """The rows; an option is the trait that it sets, and `.name` belongs to the class named before it."""
    rows = []
    for line in TEXT["README.md"].splitlines():
        if line.startswith("| `"):
            named, defaults = (cell.strip() for cell in line.split("|")[1:3])
            found, owner = [], ""
            for option, cls, trait in re.findall(r"`(?:--([\w-]+)|(\w*)\.(\w+))`", named):
                if option:
                    target = JupyterGateway.aliases.get(option, JupyterGateway.flags.get(option))
                    (setting,) = [target] if isinstance(target, str) else _traits_of(target)
                    cls, _, trait = setting.partition(".")
                owner = cls or owner
                found.append((owner, trait))
            if found:
                rows.append(Row(tuple(found), defaults))
    return rows


def _traits_of(flag: tuple[dict[str, dict[str, object]], str]) -> list[str]:
    return [f"{cls}.{trait}" for cls, traits in flag[0].items() for trait in traits]


def words_for(value: object) -> set[str]:
    """What README may say for a default."""
    if value is None:
        return {"random"}  # the token's
    if isinstance(value, list):
        return {", ".join(value) or "none"}
    if not value:  # also 0, which switches off what is counted
        return {"none", "off", "never", "no limit"}
    text = {f"{value:g}" if isinstance(value, float) else str(value)}
    if isinstance(value, int | float):
        units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "day": 86400}
        text |= {f"{value / size:g} {unit}" for unit, size in units.items()}
    return text


CLASSES: dict[str, type[Configurable]] = {cls.__name__: cls for cls in JupyterGateway().classes}


def test_the_table_has_the_settings() -> None:
    assert len(table()) > 15


@pytest.mark.parametrize("row", table(), ids=str)
def test_a_setting_that_is_named_exists_and_has_the_default_that_is_told(row: Row) -> None:
    values = []
    for owner, trait in row.settings:
        assert trait in CLASSES[owner].class_traits(config=True)
        values.append(getattr(CLASSES[owner](), trait))
    told = row.defaults.split(", ") if len(values) > 1 else [row.defaults]
    if len(told) == 1:  # for all of them
        told *= len(values)
    for value, text in zip(values, told, strict=True):
        assert text in words_for(value), f"{text!r} is told for {value!r}"


@pytest.mark.parametrize("option", re.findall(r"`--([\w-]+)`", TEXT["README.md"]))
def test_an_option_that_is_named_exists(option: str) -> None:
    assert option in JupyterGateway.aliases or option in JupyterGateway.flags or option == "help-all"
