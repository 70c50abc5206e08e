"""`make test` runs what it is asked to, says what it cannot, and tells at the end how each step went."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import check, lanes
from tools.machine import ROOT


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def result_of(monkeypatch: pytest.MonkeyPatch, commands: dict[str, check.Command], *paths: str) -> object:
    """The exit status of a run of these commands with nothing to set up and nothing to account for."""
    monkeypatch.setattr(check, "set_up", lambda paths: None)
    monkeypatch.setattr(check, "needs_cluster", lambda paths: False)
    monkeypatch.setattr(check, "commands", lambda paths, accounts: commands)
    monkeypatch.setattr(check, "judge", lambda paths, accounts: python("print('all was run')"))
    monkeypatch.setattr(check.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["check", *paths])
    with pytest.raises(SystemExit) as end:
        check.main()
    return end.value.code


@pytest.mark.parametrize("paths", [(), ("tests/unit",)], ids=["side by side", "one after the other"])
def test_what_fails_is_told_and_the_rest_goes_on_and_what_each_says_stays_together(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], paths: tuple[str, ...]
) -> None:
    talk = (
        "import time\nfor n in range(3): print('{0}', n, flush=True); time.sleep(0.1)\nraise SystemExit({1})"
    )
    commands = {name: python(talk.format(name, int(name == "two"))) for name in ("one", "two", "three")}
    assert result_of(monkeypatch, commands, *paths) == 1
    said = capfd.readouterr().out
    for name in commands:
        assert f"--- {name}\n{name} 0\n{name} 1\n{name} 2\n" in said
    table = {line.split(" s  ")[1]: line.split()[0] for line in said.splitlines()[-6:-1]}
    told = {"set up": "ok", "one": "ok", "two": "FAILED", "three": "ok", "what was not run": "ok"}
    assert table == told
    assert said.index("all was run") > said.index("three 2")


def test_a_run_of_which_all_ends_well_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert result_of(monkeypatch, {"one": python("")}) == 0


def test_a_run_that_is_stopped_ends_what_it_has_begun() -> None:
    mark = secrets.token_hex(8)
    code = (
        "import sys\nfrom tools import lanes\n"
        f"sleep = (sys.executable, '-c', 'import time; time.sleep(1000)', '{mark}')\n"
        "for row in lanes.run({'quick': (sys.executable, '-c', ''), 'slow': sleep, 'slower': sleep}, 2):\n"
        "    raise SystemExit(row.name)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stderr == "quick\n"
    assert not [words for words in command_lines() if mark in words]


def command_lines() -> Iterator[str]:
    """Of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text()


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


def test_one_test_can_be_asked_for_and_is_run_by_its_folders_command(tmp_path: Path) -> None:
    test = f"{Path(__file__).relative_to(ROOT)}::test_a_run_of_which_all_ends_well_ends_well"
    commands = check.commands([test], tmp_path)
    assert list(commands) == ["tests/unit"]
    assert commands["tests/unit"][-1] == check.judge([test], tmp_path)[-1] == test


def files(path: Path) -> list[Path]:
    """Those of tests in a folder, or the file itself."""
    return [path] if path.is_file() else list(path.rglob("test_*.py"))


def test_every_file_of_tests_is_one_commands_and_its_account_is_judged(tmp_path: Path) -> None:
    commands = check.tests([], tmp_path)
    run = [file for words in commands.values() for path in words[5:] for file in files(ROOT / path)]
    left = [ROOT / file for file in check.left_to_ordinary_user()]
    assert sorted(run + left) == sorted((ROOT / "tests").rglob("test_*.py"))
    assert set(commands) <= set(check.commands([], tmp_path))
    accounts = [word for words in commands.values() for word in words if word.startswith("--account=")]
    assert len(set(accounts)) == len(commands)
    assert all(Path(account.removeprefix("--account=")).parent == tmp_path for account in accounts)
    assert check.judge([], tmp_path)[-2:] == (str(tmp_path), "tests")


@pytest.mark.parametrize(
    ("paths", "needs"), [([], True), (["tests/unit", "tests/cluster"], True), (["tests/unit"], False)]
)
def test_a_cluster_is_made_for_the_tests_that_ask_for_one(paths: list[str], needs: bool) -> None:
    assert check.needs_cluster(paths) is needs


@pytest.mark.parametrize("path", check.AS_ORDINARY_USER)
def test_what_runs_as_an_ordinary_user_exists(path: str) -> None:
    assert check.has_tests(path)


def test_root_leaves_out_only_what_an_ordinary_user_runs_and_never_what_needs_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert {*check.AS_ROOT} <= {*check.AS_ORDINARY_USER}
    left = check.left_to_ordinary_user()
    assert left
    for file in left:
        assert not re.search(r"requires\(\"(root|cgroup)", (ROOT / file).read_text()), file
    assert {f"--left={file}" for file in left} <= {*check.judge([], tmp_path)}
    assert not [word for word in check.judge(["tests/e2e"], tmp_path) if word.startswith("--left")]


def test_what_begins_first_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert {*check._FIRST} <= {*check.commands([], tmp_path)}


def test_what_stops_a_part_of_the_cluster_has_no_other_pods_beside_it(tmp_path: Path) -> None:
    words = (".stop(", "stopped(")
    every = (ROOT / "tests/cluster").rglob("*.py")
    stopping = [file for file in every if any(word in file.read_text() for word in words)]
    assert len(stopping) > 1
    assert {str(file.parent.relative_to(ROOT)) for file in stopping} == {check.DISRUPTIVE}
    commands = check.commands([], tmp_path)
    pods = {name for name, words in commands.items() if any("tests/cluster" in word for word in words)}
    assert {*check.behind(commands)[check.DISRUPTIVE], check.DISRUPTIVE} == pods


def test_a_command_begins_when_those_it_is_behind_have_ended_and_holds_up_no_other(tmp_path: Path) -> None:
    folder = f"import pathlib, sys, time\nfolder = pathlib.Path({str(tmp_path)!r})\n"
    commands = {
        "last": python(f"{folder}sys.exit(not (folder / 'ended').exists())"),
        "slow": python(
            f"{folder}while not (folder / 'begun').exists(): time.sleep(0.01)\n"
            "time.sleep(0.3)\n(folder / 'ended').touch()"
        ),
        "quick": python(f"{folder}(folder / 'begun').touch()"),
    }
    rows = [*lanes.run(commands, 2, {"last": ["slow", "quick"]})]
    assert [(row.name, row.well) for row in rows] == [("quick", True), ("slow", True), ("last", True)]
