"""Where the token comes from, and what is no token."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app_listen import StartError
from gateway.app_token import VARIABLE, find


def test_the_option_comes_before_the_file_and_the_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    environment = {VARIABLE: "from-environment"}
    assert find("from-option", str(file), environment).value == "from-option"
    assert find(None, str(file), environment).value == "from-file"
    assert find(None, "", environment).value == "from-environment"


def test_without_any_it_is_random_and_not_chosen() -> None:
    first, second = find(None, "", {}), find(None, "", {})
    assert first.value != second.value
    assert len(first.value) == 48
    assert not first.chosen


def test_an_empty_option_switches_authentication_off() -> None:
    token = find("", "", {VARIABLE: "from-environment"})
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
