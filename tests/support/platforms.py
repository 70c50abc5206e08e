"""Runs what this machine can run, and accounts for the rest against a checked-in list.

A test says what it needs by `@pytest.mark.requires("root", ...)`; the names are those of `conditions.py`.
What some platform cannot run is listed; `accounts.py` says how. The list is printed after every run. With
`CI=true` the run fails for

- a test that was skipped, deselected, expected to fail or otherwise not run, and is not on the list for
  each condition that it lacks here;
- a line whose test could have run, because it does not require what the line says;
- a line whose test does not exist, although it lies in what was asked for;
- a stand-in that does not exist, or did not run although it lies in what was asked for.

So nothing skips silently, and a test never calls `pytest.skip` itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import conditions
from tests.support.accounts import Account, is_strict, read_list


class PlatformList:
    """The plugin: skips what lacks a condition, keeps the account and prints it."""

    def __init__(self, account: Account, file: Path | None) -> None:
        """`file` is where the account is left for a judge of several."""
        self.account = account
        self.file = file
        self.strict = is_strict()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            names = [name for mark in item.iter_markers("requires") for name in mark.args]
            for name in names:
                if name not in conditions.CONDITIONS:
                    raise pytest.UsageError(
                        f"{item.nodeid} requires {name!r}, which conditions.py does not have"
                    )
            lacking = self.account.collect(item.nodeid, names)
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
        if session.config.getoption("collectonly"):
            return
        if self.file is not None:
            self.account.write(self.file)
        if self.strict and exitstatus == pytest.ExitCode.OK and self.account.faults():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for title, lines in self.account.sections(self.strict):
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)


def _reason(report: pytest.TestReport) -> str:
    """pytest's own reason for a skip, which it keeps as (file, line, text)."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _asked(config: pytest.Config) -> list[str]:
    """What the command line (or `testpaths`) names, as ids below the root."""
    asked = []
    for argument in config.args:
        file, separator, rest = argument.partition("::")
        below_root = os.path.relpath(config.invocation_params.dir / file, config.rootpath)
        asked.append(Path(below_root).as_posix() + separator + rest)
    return asked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("platform_list", "the list of cases that some platform cannot run", "string", "")
    parser.addoption("--account", type=Path, help="leave there what was run, for tests.support.accounts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*names): run only where these conditions hold")
    name = config.getini("platform_list")
    cases = read_list(config.rootpath / name) if name else []
    account = Account(cases, config.rootpath, _asked(config))
    config.pluginmanager.register(PlatformList(account, config.getoption("account")), "platform-list")
