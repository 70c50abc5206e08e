"""Where the token comes from, and what is no token."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app_listen import StartError
from gateway.app_token import VARIABLE, find


def test_it_comes_from_the_option_or_the_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert find("from-option", "", {}).value == "from-option"
    assert find(None, str(file), {}).value == "from-file"
    assert find(None, "", {VARIABLE: "from-environment"}).value == "from-environment"


@pytest.mark.parametrize(
    ("option", "file", "variable"),
    [
        ("", "token-file", None),
        ("", "", "from-environment"),
        ("", "", ""),
        ("from-option", "token-file", None),
        ("from-option", "", "from-environment"),
        (None, "token-file", "from-environment"),
        (None, "token-file", ""),
        ("", "token-file", "from-environment"),
    ],
)
def test_two_places_are_an_error_that_names_them(
    option: str | None, file: str, variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token-file").write_text("from-file")
    environment = {} if variable is None else {VARIABLE: variable}
    places = {"--token": option is not None, "'token-file'": bool(file), VARIABLE: variable is not None}
    given = [place for place, is_given in places.items() if is_given]
    with pytest.raises(StartError, match="more than once") as error:
        find(option, file, environment)
    assert [place for place in places if place in str(error.value)] == given


def test_without_any_it_is_random_and_not_chosen() -> None:
    first, second = find(None, "", {}), find(None, "", {})
    assert first.value != second.value
    assert len(first.value) == 48
    assert not first.chosen


def test_an_empty_option_switches_authentication_off() -> None:
    token = find("", "", {})
    assert token.value == ""
    assert token.chosen


@pytest.mark.parametrize("text", ["", " \n", "two words", "naïve", "line\nline"])
def test_a_file_without_a_token_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(StartError, match=str(file)):
        find(None, str(file), {})


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        find(None, str(tmp_path / "token"), {})


def test_an_empty_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(StartError, match=VARIABLE):
        find(None, "", {VARIABLE: ""})


def test_a_token_is_never_part_of_its_text() -> None:
    assert "secret" not in repr(find("secret", "", {}))
