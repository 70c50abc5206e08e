"""Runs what this machine can run, and accounts for the rest against a checked-in list.

A test says what it needs by `@pytest.mark.requires("root", ...)`; the names are those of `conditions.py`.
tests/platforms.toml lists each case that some platform cannot run::

    [[case]]
    test = "tests/integration/test_x.py::test_y"   # or a whole file or folder; without parameters
    requires = "root"                               # the condition whose absence stops it
    reason = "why it cannot do without"
    stand_in = "tests/unit/test_z.py::test_w"       # what shows it where it cannot run

The list is printed after every run. With `CI=true` the run fails for

- a test that was skipped, deselected, expected to fail or otherwise not run, and is not on the list for
  each condition that it lacks here;
- a line whose test could have run, because it does not require what the line says;
- a line whose test does not exist, although its file was collected;
- a stand-in that does not exist, or did not run although its file was collected.

So nothing skips silently, and a test never calls `pytest.skip` itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import conditions

#: How many faults a run tells that does not fail for them; `-k` leaves hundreds.
_TOLD = 5

#: What became of a case whose test was not collected.
_ABSENT = "not part of this run"

_MEMBERS = {"test", "requires", "reason", "stand_in"}


@dataclass(frozen=True)
class Case:
    """One line of the list."""

    test: str
    requires: str
    reason: str
    stand_in: str

    def covers(self, test: str) -> bool:
        """Whether the test, an id without parameters, is the one listed or lies within it."""
        return test == self.test or test.startswith((self.test + "::", self.test.rstrip("/") + "/"))


def read_list(path: Path) -> list[Case]:
    """The cases of a platform list; raises `pytest.UsageError` for a line that says too little."""
    cases = []
    for entry in tomllib.loads(path.read_text()).get("case", []):
        if set(entry) != _MEMBERS or not all(isinstance(v, str) and v for v in entry.values()):
            raise pytest.UsageError(f"{path}: a case has exactly {sorted(_MEMBERS)}, none empty: {entry}")
        if entry["requires"] not in conditions.CONDITIONS:
            raise pytest.UsageError(f"{path}: there is no condition {entry['requires']!r}")
        cases.append(Case(**entry))
    return cases


def without_parameters(nodeid: str) -> str:
    """`a.py::test_b[c]` -> `a.py::test_b`."""
    return nodeid.split("[", 1)[0]


class Account:
    """What was collected, what ran, and what the list says about the rest."""

    def __init__(self, cases: Sequence[Case], root: Path) -> None:
        self.cases = cases
        self.root = root
        self.lacking: dict[str, list[str]] = {}  # test id -> conditions that do not hold here
        self.required: dict[str, set[str]] = {}  # test without parameters -> all conditions it names
        self.ran: set[str] = set()
        self.not_run: dict[str, str] = {}  # test id -> why

    def collect(self, item: pytest.Item) -> list[str]:
        """Note a test; the conditions that it lacks here."""
        names = [name for mark in item.iter_markers("requires") for name in mark.args]
        for name in names:
            if name not in conditions.CONDITIONS:
                raise pytest.UsageError(f"{item.nodeid} requires {name!r}, which conditions.py does not have")
        self.required.setdefault(without_parameters(item.nodeid), set()).update(names)
        lacking = [name for name in names if not conditions.holds(name)]
        if lacking:
            self.lacking[item.nodeid] = lacking
        return lacking

    def here(self, case: Case) -> str:
        """What became of a listed case in this run, in words."""
        ids = [nodeid for nodeid in self.ran | set(self.not_run) if case.covers(without_parameters(nodeid))]
        if not ids:
            return _ABSENT
        if conditions.holds(case.requires):
            return "run here"
        return f"not run: here {conditions.CONDITIONS[case.requires].lacking}"

    def faults(self) -> list[str]:
        """Every sentence for which a run with `CI=true` fails."""
        return [*self._unlisted(), *self._stale(), *self._without_stand_in()]

    def _unlisted(self) -> list[str]:
        faults = []
        for nodeid, why in sorted(self.not_run.items()):
            test = without_parameters(nodeid)
            listed = {case.requires for case in self.cases if case.covers(test)}
            lacking = self.lacking.get(nodeid, [])
            if not lacking or not set(lacking) <= listed:
                faults.append(f"{nodeid} was not run ({why}) and the list does not say so")
        return faults

    def _stale(self) -> list[str]:
        faults = []
        for case in self.cases:
            matching = [test for test in self.required if case.covers(test)]
            if not matching:
                if self._collected(case.test):
                    faults.append(f"{case.test} is on the list and does not exist")
            elif not any(case.requires in self.required[test] for test in matching):
                faults.append(
                    f"{case.test} could have run: it is on the list and does not require {case.requires}"
                )
        return faults

    def _without_stand_in(self) -> list[str]:
        faults = []
        ran = {without_parameters(nodeid) for nodeid in self.ran}
        for case in self.cases:
            file, _, name = case.stand_in.partition("::")
            path = self.root / file
            if not path.exists() or (name and f"def {name.split('::')[-1]}(" not in path.read_text()):
                faults.append(f"{case.stand_in} stands in for {case.test} and does not exist")
            elif (
                "not run" in self.here(case)
                and self._collected(case.stand_in)
                and not any(test == case.stand_in or test.startswith(case.stand_in + "::") for test in ran)
            ):
                faults.append(f"{case.stand_in} stands in for {case.test} and was not run")
        return faults

    def _collected(self, test: str) -> bool:
        """Whether the file of a listed test was part of this run."""
        file = test.split("::", 1)[0]
        return any(known.split("::", 1)[0] == file for known in self.required)


class PlatformList:
    """The plugin: skips what lacks a condition, keeps the account and prints it."""

    def __init__(self, account: Account, strict: bool) -> None:
        self.account = account
        self.strict = strict

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            lacking = self.account.collect(item)
            if lacking:
                reason = "; ".join(f"here {conditions.CONDITIONS[name].lacking}" for name in lacking)
                item.add_marker(pytest.mark.skip(reason=reason))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self.account.not_run[item.nodeid] = "deselected"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.account.not_run[report.nodeid] = "skipped while it was collected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            why = f"expected to fail: {report.wasxfail}" if hasattr(report, "wasxfail") else _reason(report)
            self.account.not_run[report.nodeid] = why
        elif report.when == "call" or report.failed:
            self.account.ran.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        collect_only = session.config.getoption("collectonly")
        if self.strict and exitstatus == pytest.ExitCode.OK and not collect_only and self.account.faults():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("cases that some platform cannot run")
        absent = 0
        for case in self.account.cases:
            what = self.account.here(case)
            if what == _ABSENT:
                absent += 1
                continue
            terminalreporter.line(f"{case.test}: {what}")
            terminalreporter.line(f"    needs {case.requires}: {case.reason}. In its place: {case.stand_in}")
        if absent:
            terminalreporter.line(f"and {absent} that are {_ABSENT}")
        faults = self.account.faults()
        if faults:
            terminalreporter.section("not accounted for" + ("" if self.strict else " (fails with CI=true)"))
            for fault in faults if self.strict else faults[:_TOLD]:
                terminalreporter.line(fault, red=self.strict)
            if not self.strict and len(faults) > _TOLD:
                terminalreporter.line(f"and {len(faults) - _TOLD} more")


def _reason(report: pytest.TestReport) -> str:
    """pytest's own reason for a skip, which it keeps as (file, line, text)."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("platform_list", "the list of cases that some platform cannot run", "string", "")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*names): run only where these conditions hold")
    name = config.getini("platform_list")
    cases = read_list(config.rootpath / name) if name else []
    strict = os.environ.get("CI") == "true"
    config.pluginmanager.register(PlatformList(Account(cases, config.rootpath), strict), "platform-list")
