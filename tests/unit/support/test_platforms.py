"""The platform list: what is not run must be listed, and what is listed must be so."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]

#: Stand-ins for the machine: one condition that holds everywhere, and one that holds nowhere.
CONDITIONS = """
from tests.support import conditions
conditions.CONDITIONS["air"] = conditions.Condition(lambda: True, "there is no air")
conditions.CONDITIONS["magic"] = conditions.Condition(lambda: False, "there is no magic")
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
    "a file on the list whose tests need two things": (
        SPELL_AND_TRICK,
        LISTED.replace("::test_spell", ""),
        (),
        "",
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
