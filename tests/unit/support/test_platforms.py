"""The platform list: what is not run must be listed, and what is listed must be so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import conditions
from tests.support.accounts import Account, Case, read_list

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

#: Stand-ins for the machine: one condition that holds everywhere, and two that hold nowhere.
CONDITIONS = """
from tests.support import conditions
conditions.CONDITIONS["air"] = conditions.Condition(lambda: True, "there is no air")
conditions.CONDITIONS["magic"] = conditions.Condition(lambda: False, "there is no magic")
conditions.CONDITIONS["wings"] = conditions.Condition(lambda: False, "nobody has wings")
pytest_plugins = ["tests.support.platforms"]
"""

LISTED = """
[[case]]
test = "test_it.py::test_spell"
requires = "magic"
reason = "a spell is magic"
stand_in = "test_it.py::test_trick"
"""

SPELL_AND_TRICK = """
import pytest
@pytest.mark.requires("magic")
@pytest.mark.parametrize("n", [1, 2])
def test_spell(n): raise AssertionError("was run")
def test_trick(): pass
"""


SPELL_AND_FLIGHT = """
import pytest
@pytest.mark.requires("magic", "wings")
def test_flight(): raise AssertionError("was run")
def test_trick(): pass
"""

LISTED_FILE = LISTED.replace("::test_spell", "")


def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tests: str, listed: str, *args: str, ci: bool
) -> pytest.RunResult:
    monkeypatch.setenv("CI", "true" if ci else "false")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nplatform_list = list.toml\naddopts = -p no:cacheprovider")
    pytester.makeconftest(CONDITIONS)
    pytester.makefile(".toml", list=listed)
    pytester.makepyfile(test_it=tests)
    return pytester.runpytest_subprocess(*args)


# What the tests say, what the list says, arguments, and the sentence for which a strict run fails (or "").
CASES = {
    "a listed case is not run": (SPELL_AND_TRICK, LISTED, (), ""),
    "an unlisted case": (SPELL_AND_TRICK, "", (), "test_spell[[]1[]] was not run (Skipped: here there is no"),
    "a test that skips itself": (
        "import pytest\ndef test_a(): pytest.skip('tired')",
        "",
        (),
        "test_a was not run (Skipped: tired)",
    ),
    "a file that skips itself": (
        "import pytest\npytest.importorskip('no_such_module')",
        "",
        (),
        "test_it.py was not run (skipped while it was collected)",
    ),
    "a deselected test": (
        "def test_a(): pass\ndef test_b(): pass",
        "",
        ("-k", "test_a"),
        "test_b was not run (des",
    ),
    "an expected failure": (
        "import pytest\n@pytest.mark.xfail(reason='later')\ndef test_a(): assert False\ndef test_b(): pass",
        "",
        (),
        "test_a was not run (expected to fail: later)",
    ),
    "a listed case that could have run, since it no longer needs what the list says": (
        "def test_spell(): pass\ndef test_trick(): pass",
        LISTED,
        (),
        "test_spell could have run: it is on the list and does not require magic",
    ),
    "a listed case that is gone": (
        "def test_trick(): pass",
        LISTED,
        (),
        "test_spell is on the list and does not exist",
    ),
    "a listed case whose file is gone": (
        "def test_trick(): pass",
        LISTED.replace("test_it.py::test_spell", "test_that.py::test_spell"),
        (),
        "test_that.py::test_spell is on the list and does not exist",
    ),
    "a listed case outside of what is asked for": (
        "def test_trick(): pass",
        LISTED.replace("test_it.py::test_spell", "test_that.py::test_spell"),
        ("test_it.py",),
        "",
    ),
    "a listed case beside the one test that is asked for": (
        SPELL_AND_TRICK.replace("test_spell", "test_other"),
        LISTED,
        ("test_it.py::test_trick",),
        "",
    ),
    "a stand-in that is gone": (
        SPELL_AND_TRICK.replace("test_trick", "test_other"),
        LISTED,
        (),
        "test_trick stands in for test_it.py::test_spell and does not exist",
    ),
    "a stand-in that cannot run either": (
        SPELL_AND_TRICK.replace("def test_trick", "@pytest.mark.requires('magic')\ndef test_trick"),
        LISTED
        + LISTED.replace("spell", "trick").replace(
            'stand_in = "test_it.py::test_trick"', 'stand_in = "conftest.py"'
        ),
        (),
        "test_trick stands in for test_it.py::test_spell and was not run",
    ),
    "a file on the list": (SPELL_AND_TRICK, LISTED_FILE, (), ""),
    "a file on the list whose tests need two things": (
        SPELL_AND_FLIGHT,
        LISTED_FILE + LISTED_FILE.replace("magic", "wings"),
        (),
        "",
    ),
    "a file on the list for one of the two things that its tests need": (
        SPELL_AND_FLIGHT,
        LISTED_FILE,
        (),
        "test_flight was not run (Skipped: here there is no magic",
    ),
}


@pytest.mark.parametrize(("tests", "listed", "args", "fault"), CASES.values(), ids=CASES.keys())
def test_what_was_not_run_fails_a_strict_run_unless_it_is_listed(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tests: str,
    listed: str,
    args: tuple[str, ...],
    fault: str,
) -> None:
    result = run(pytester, monkeypatch, tests, listed, *args, ci=True)
    if fault:
        assert result.ret != 0
        result.stdout.fnmatch_lines([f"*{fault}*"])
    else:
        assert result.ret == 0, result.stdout.str()


def test_the_list_is_printed_with_what_became_of_each_case(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(pytester, monkeypatch, SPELL_AND_TRICK, LISTED, ci=False)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_spell: not run: here there is no magic",
            "*needs magic: a spell is magic. In its place: test_it.py::test_trick",
        ]
    )


def test_without_ci_the_faults_are_told_and_do_not_fail(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(pytester, monkeypatch, SPELL_AND_TRICK, "", ci=False)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*not accounted for (fails with CI=true)*", "*was not run*"])


def test_a_condition_that_nobody_defined_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = "import pytest\n@pytest.mark.requires('luck')\ndef test_a(): pass"
    result = run(pytester, monkeypatch, tests, "", ci=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*requires 'luck', which conditions.py does not have"])


@pytest.mark.parametrize("line", ["[[case]]\ntest = 'a'", LISTED.replace("magic", "luck", 1)])
def test_a_line_that_says_too_little_or_names_no_condition_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    result = run(pytester, monkeypatch, "def test_a(): pass", line, ci=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_every_condition_is_one_that_some_listed_case_requires() -> None:
    assert set(conditions.CONDITIONS) == {case.requires for case in read_list(ROOT / "tests/platforms.toml")}


# -- several processes, judged as one -----------------------------------------------------------------------

SPELL = SPELL_AND_TRICK.replace("def test_trick(): pass", "")
LISTED_APART = LISTED.replace('"test_it.py::test_spell', '"one/test_it.py::test_spell').replace(
    '"test_it.py::test_trick', '"two/test_that.py::test_trick'
)

#: What folder "two" has, what is asked of it, what is asked of the judge, and his sentence (or "").
APART = {
    "a stand-in that another process has run": ("def test_trick(): pass", "two", ".", ""),
    "a stand-in that another process has left out": (
        "import pytest\n@pytest.mark.skipif(True, reason='tired')\ndef test_trick(): pass",
        "two",
        ".",
        "two/test_that.py::test_trick stands in for one/test_it.py::test_spell and was not run",
    ),
    "a stand-in that no process was asked for": (
        "def test_trick(): pass\ndef test_a(): pass",
        "two/test_that.py::test_a",
        ".",
        "two/test_that.py::test_trick stands in for one/test_it.py::test_spell and was not run",
    ),
    "a stand-in outside of what is asked for": (
        "def test_trick(): pass\ndef test_a(): pass",
        "two/test_that.py::test_a",
        "one",
        "",
    ),
}


@pytest.mark.parametrize(("tests", "asked_of_two", "asked", "fault"), APART.values(), ids=APART.keys())
def test_a_stand_in_in_another_process_counts_when_all_are_judged(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tests: str,
    asked_of_two: str,
    asked: str,
    fault: str,
) -> None:
    for file, text in (("one/test_it.py", SPELL), ("two/test_that.py", tests)):
        path = pytester.path / file
        path.parent.mkdir()
        path.write_text(text)
    (pytester.path / "accounts").mkdir()
    for name in ("one", asked_of_two):
        # Folder "one" by itself has no fault: it cannot know what became of the stand-in.
        account = f"--account=accounts/{name.partition('/')[0]}.json"
        result = run(pytester, monkeypatch, "", LISTED_APART, account, name, ci=True)
        assert (result.ret == 0) is ("tired" not in tests or name == "one")
    judge = f"""{CONDITIONS}
import pathlib, sys
from tests.support import accounts
accounts.ROOT = pathlib.Path.cwd()
sys.argv = ["", "list.toml", "accounts", {asked!r}]
accounts.main()
"""
    for ci in ("true", "false"):
        env = {**os.environ, "CI": ci}
        ended = subprocess.run([sys.executable, "-c", judge], env=env, capture_output=True, text=True)
        assert "one/test_it.py::test_spell: not run: here there is no magic" in ended.stdout, ended.stderr
        assert fault in ended.stdout
        assert ("not accounted for" in ended.stdout) is bool(fault)
        assert ended.returncode == (1 if fault and ci == "true" else 0)


@pytest.mark.parametrize(
    ("left", "missed"), [([], ["a/test_it.py", "a/test_gone.py"]), (["a/test_it.py"], ["a/test_gone.py"])]
)
def test_what_is_left_to_another_run_is_its_to_account_for_and_nothing_else(
    tmp_path: Path, left: list[str], missed: list[str]
) -> None:
    (tmp_path / "test_b.py").touch()
    cases = [Case(f"a/test_{name}.py", "root", "why", "test_b.py") for name in ("it", "gone")]
    faults = Account(cases, tmp_path, ["a"], left).faults()
    assert faults == [f"{test} is on the list and does not exist" for test in missed]
