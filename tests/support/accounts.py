"""What was run, and what a checked-in list says about the rest.

tests/platforms.toml lists each case that some platform cannot run::

    [[case]]
    test = "tests/integration/test_x.py::test_y"   # or a whole file or folder; without parameters
    requires = "root"                               # the condition whose absence stops it
    reason = "why it cannot do without"
    stand_in = "tests/unit/test_z.py::test_w"       # what shows it where it cannot run

`make test` runs each folder in a process of its own, and a stand-in may lie in another folder than the case.
So each process writes its account to a file, and at the end all of them are judged as one::

    python -m tests.support.accounts [--left=PATH]... LIST FOLDER PATH...

FOLDER holds the accounts, the PATHs are what was asked for, but for what is left to a run that is judged by
itself. The list is printed with what became of each case, and with `CI=true` the exit status is 1 where there
is a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import conditions

ROOT = Path(__file__).parents[2]

#: How many faults a run tells that does not fail for them; `-k` leaves hundreds.
_TOLD = 5

_MEMBERS = {"test", "requires", "reason", "stand_in"}


def is_strict() -> bool:
    """Whether a fault fails the run."""
    return os.environ.get("CI") == "true"


def lies_in(test: str, place: str) -> bool:
    """Whether a test, an id without parameters, is `place` or lies in that folder, file or class.

    All lie in ".".
    """
    return place == "." or test == place or test.startswith((place + "::", place.rstrip("/") + "/"))


def without_parameters(nodeid: str) -> str:
    """`a.py::test_b[c]` -> `a.py::test_b`."""
    return nodeid.split("[", 1)[0]


@dataclass(frozen=True)
class Case:
    """One line of the list."""

    test: str
    requires: str
    reason: str
    stand_in: str


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


class Account:
    """What was asked for, collected and run, and what the list says about the rest."""

    def __init__(
        self, cases: Sequence[Case], root: Path, asked: Sequence[str], left: Sequence[str] = ()
    ) -> None:
        """`asked` names the files, folders and tests of this run, as ids below `root`, and `left` those of
        them that another run has."""
        self.cases = cases
        self.root = root
        self.asked = asked
        self.left = left
        self.lacking: dict[str, list[str]] = {}  # test id -> conditions that do not hold here
        self.required: dict[str, set[str]] = {}  # test without parameters -> all conditions it names
        self.ran: set[str] = set()
        self.not_run: dict[str, str] = {}  # test id -> why

    def collect(self, nodeid: str, names: Iterable[str]) -> list[str]:
        """Note a test and the conditions that it names; those of them that do not hold here."""
        self.required.setdefault(without_parameters(nodeid), set()).update(names)
        lacking = [name for name in names if not conditions.holds(name)]
        if lacking:
            self.lacking[nodeid] = lacking
        return lacking

    def write(self, file: Path) -> None:
        """Leave to a judge what was collected and run."""
        required = {test: sorted(names) for test, names in self.required.items()}
        members = {"lacking": self.lacking, "required": required, "ran": sorted(self.ran)}
        file.write_text(json.dumps({**members, "not_run": self.not_run}))

    def add(self, file: Path) -> None:
        """Take in what `write` has left."""
        other = json.loads(file.read_text())
        self.lacking |= other["lacking"]
        self.ran |= set(other["ran"])
        self.not_run |= other["not_run"]
        for test, names in other["required"].items():
            self.required.setdefault(test, set()).update(names)

    def sections(self, strict: bool) -> list[tuple[str, list[str]]]:
        """What is printed after a run, by title: what became of each case, and the faults where there are."""
        lines, absent = [], 0
        for case in self.cases:
            if not self._is_part(case):
                absent += 1
                continue
            here = f"not run: here {conditions.CONDITIONS[case.requires].lacking}"
            lines.append(f"{case.test}: {'run here' if conditions.holds(case.requires) else here}")
            lines.append(f"    needs {case.requires}: {case.reason}. In its place: {case.stand_in}")
        if absent:
            lines.append(f"and {absent} that are not part of this run")
        sections = [("cases that some platform cannot run", lines)]
        faults = self.faults()
        if faults and strict:
            sections.append(("not accounted for", faults))
        elif faults:
            more = [f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else []
            sections.append(("not accounted for (fails with CI=true)", [*faults[:_TOLD], *more]))
        return sections

    def faults(self) -> list[str]:
        """Every sentence for which a run with `CI=true` fails."""
        return [*self._unlisted(), *self._stale(), *self._without_stand_in()]

    def _unlisted(self) -> list[str]:
        faults = []
        for nodeid, why in sorted(self.not_run.items()):
            test = without_parameters(nodeid)
            listed = {case.requires for case in self.cases if lies_in(test, case.test)}
            lacking = self.lacking.get(nodeid, [])
            if not lacking or not set(lacking) <= listed:
                faults.append(f"{nodeid} was not run ({why}) and the list does not say so")
        return faults

    def _stale(self) -> list[str]:
        faults = []
        for case in self.cases:
            matching = [test for test in self.required if lies_in(test, case.test)]
            if not matching:
                if self._is_asked(case.test):
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
                self._is_part(case)
                and not conditions.holds(case.requires)
                and self._is_asked(case.stand_in)
                and not any(lies_in(test, case.stand_in) for test in ran)
            ):
                faults.append(f"{case.stand_in} stands in for {case.test} and was not run")
        return faults

    def _is_part(self, case: Case) -> bool:
        """Whether something of a listed case was run or left out here."""
        return any(lies_in(without_parameters(nodeid), case.test) for nodeid in {*self.ran, *self.not_run})

    def _is_asked(self, test: str) -> bool:
        left = any(lies_in(test, place) for place in self.left)
        return not left and any(lies_in(test, place) for place in self.asked)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--left", action="append", default=[])
    parser.add_argument("list", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("asked", nargs="+")
    words = parser.parse_args()
    account = Account(read_list(words.list), ROOT, words.asked, words.left)
    for file in sorted(words.folder.glob("*.json")):
        account.add(file)
    for title, lines in account.sections(is_strict()):
        print(f"== {title}", *lines, sep="\n")
    sys.exit(1 if is_strict() and account.faults() else 0)


if __name__ == "__main__":
    main()
