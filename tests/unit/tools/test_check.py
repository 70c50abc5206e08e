"""`make test` runs what it is asked to, says what it cannot, and tells at the end how each step went."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import check
from tools.machine import ROOT, SetupError


def result_of(
    monkeypatch: pytest.MonkeyPatch, every_step: dict[str, Callable[[], bool]], *paths: str
) -> object:
    """The exit status of a run with these steps and nothing to set up."""
    monkeypatch.setattr(check, "set_up", lambda paths: None)
    monkeypatch.setattr(check, "steps", lambda paths, accounts: every_step)
    monkeypatch.setattr(check.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["check", *paths])
    with pytest.raises(SystemExit) as end:
        check.main()
    return end.value.code


def test_a_step_that_cannot_be_done_is_told_and_fails_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def impossible() -> bool:
        raise SetupError("No account could be made.")

    steps = {"first": lambda: True, "as an ordinary user": impossible, "last": lambda: True}
    assert result_of(monkeypatch, steps) == 1
    said = capsys.readouterr().out
    assert "No account could be made." in said
    table = [line.split()[0] for line in said.splitlines()[-4:]]
    assert table == ["ok", "ok", "FAILED", "ok"]


def test_a_run_whose_steps_all_end_well_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert result_of(monkeypatch, {"one": lambda: True}) == 0


@pytest.mark.parametrize(
    "path",
    ["tests/no_such_folder", "tests/unit/no_such_file.py", "tests/no/test_x.py::test_y", "tests/bench"],
)
def test_a_path_without_tests_is_an_error_that_names_it(path: str) -> None:
    command = [sys.executable, "-m", "tools.check", "tests/unit", path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.strip() == f"There are no tests in {path!r}."
    assert result.stdout == ""


def test_one_test_can_be_asked_for_and_is_run_by_its_folders_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = []
    monkeypatch.setattr(check, "command", lambda *words: commands.append(words))
    test = f"{Path(__file__).relative_to(ROOT)}::test_a_run_whose_steps_all_end_well_ends_well"
    assert list(check.steps([test], tmp_path)) == ["tests/unit", "what was not run"]
    assert all(words[-1] == test for words in commands)


def test_every_folder_that_has_tests_has_a_step_and_its_account_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(check, "command", lambda *words: words)
    commands = check.tests([], tmp_path)
    *folders, judge = commands
    assert set(folders) == {
        f"tests/{file.relative_to(ROOT / 'tests').parts[0]}" for file in (ROOT / "tests").rglob("test_*.py")
    }
    accounts = [word for words in commands.values() for word in words if word.startswith("--account=")]
    assert len(set(accounts)) == len(folders)
    assert all(Path(account.removeprefix("--account=")).parent == tmp_path for account in accounts)
    assert commands[judge][-2:] == (str(tmp_path), "tests")


@pytest.mark.parametrize("path", check.AS_ORDINARY_USER)
def test_what_runs_again_as_an_ordinary_user_exists(path: str) -> None:
    assert check.has_tests(path)
