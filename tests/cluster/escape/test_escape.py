"""Nothing gets out of a pod: the attempts of tests/escape, made in executors.

Those that a pod lets through are in let_through.toml, with the reason and the test that shows what they would
be good for to be shut, and are not counted. Where a limit ends the pod or its kernel and not the attempt (the
disk's always, memory's where Linux chooses so), that is a refusal, if the reason says so.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.escape import test_escape as suite
from tests.escape.attempts import Outcome
from tests.escape.probes.table import CLASSES, PROBES, Probe

pytestmark = pytest.mark.requires("cluster", "pod-users")

ROOT = Path(__file__).parents[3]

LET_THROUGH: dict[str, dict[str, Any]] = {
    line["name"]: line
    for line in tomllib.loads(Path(__file__).with_name("let_through.toml").read_text())["probe"]
}

#: Attempt -> what the reason says of a pod, or of its kernel, that ends by it.
ENDS_BY = {
    **dict.fromkeys(("fill_the_temporary_folder", "fill_the_home"), "its node evicted it"),
    **{row.name: "memory" for row in PROBES.values() if row.name.startswith("take_")},
}

test_an_attempt_succeeds_where_nothing_forbids_it = suite.test_an_attempt_succeeds_where_nothing_forbids_it
test_every_witness_can_be_reached_from_outside_of_a_sandbox = (
    suite.test_every_witness_can_be_reached_from_outside_of_a_sandbox
)
test_nothing_outside_was_reached_or_changed = suite.test_nothing_outside_was_reached_or_changed
test_the_machine_is_as_it_was = suite.test_the_machine_is_as_it_was
test_a_neighbour_is_well_after_an_attempt_to_exhaust = (
    suite.test_a_neighbour_is_well_after_an_attempt_to_exhaust
)


def _is_refused(row: Probe, verdict: dict[str, str]) -> bool:
    ended = verdict["outcome"] == "ended" and ENDS_BY.get(row.name, "no way") in verdict["evidence"]
    return ended or verdict["outcome"] == "refused"


@pytest.mark.parametrize(
    "row", [row for row in PROBES.values() if row.name not in LET_THROUGH], ids=suite._id
)
def test_an_attempt_is_refused_in_a_pod(row: Probe, outcome: Outcome) -> None:
    verdict = outcome.sandbox[row.name]
    assert _is_refused(row, verdict), f"It does not hold that {row.proves}: {verdict}"


@pytest.mark.parametrize("name", LET_THROUGH)
def test_an_attempt_that_is_let_through_is_listed_for_that(name: str, outcome: Outcome) -> None:
    verdict = outcome.sandbox[name]
    expected = ("succeeded",) if LET_THROUGH[name]["platforms"] == "all" else ("succeeded", "refused")
    assert verdict["outcome"] in expected, f"The list says that it is let through: {verdict}"


def test_the_list_of_those_let_through_has_reasons_and_names_tests() -> None:
    assert set(LET_THROUGH) <= set(PROBES)
    assert {line["platforms"] for line in LET_THROUGH.values()} <= {"all", "some"}
    for line in LET_THROUGH.values():
        file, _, test = line["shut_by"].partition("::")
        assert line["reason"]
        assert f"def {test}(" in (ROOT / file).read_text(), line


def test_there_are_enough_attempts_of_each_class_in_pods(outcome: Outcome) -> None:
    shown = Counter(
        row.kind
        for row in PROBES.values()
        if row.name not in LET_THROUGH and outcome.control[row.name]["outcome"] == "succeeded"
    )
    for kind in CLASSES:
        print(f"{kind}: {shown[kind]} shown, {sum(row.kind == kind for row in PROBES.values())} in all")
    assert sum(shown.values()) >= suite.LEAST
    assert not {kind: shown[kind] for kind in CLASSES if shown[kind] < suite.LEAST_OF_A_CLASS}
