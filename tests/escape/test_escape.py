"""Nothing gets out of a sandbox: each attempt is shown able to succeed, and fails inside.

The table of attempts is tests/escape/probes. Those whose control cannot succeed here are in
unprovable.toml, with the reason, and are not counted.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.escape.attempts import Outcome
from tests.escape.probes.table import CLASSES, PROBES, Probe

LEAST, LEAST_OF_A_CLASS = 100, 8

#: Seconds that a neighbour may take to show that it is well, on a machine that does other things too.
SOON = 10.0

UNPROVABLE: dict[str, dict[str, Any]] = {
    line["name"]: line
    for line in tomllib.loads(Path(__file__).with_name("unprovable.toml").read_text())["probe"]
}

OF_THE_WHOLE_SANDBOX = [row for row in PROBES.values() if row.limit]


def _id(row: Probe) -> str:
    return f"{row.kind.replace(' ', '-')}-{row.name}"


@pytest.mark.parametrize("row", [row for row in PROBES.values() if not row.limit], ids=_id)
def test_an_attempt_is_refused_in_a_sandbox(row: Probe, outcome: Outcome) -> None:
    verdict = outcome.sandbox[row.name]
    assert verdict["outcome"] == "refused", f"It does not hold that {row.proves}: {verdict['evidence']}"


@pytest.mark.requires("cgroup")
@pytest.mark.parametrize("row", OF_THE_WHOLE_SANDBOX, ids=_id)
def test_an_attempt_to_exhaust_what_control_groups_limit_is_refused(row: Probe, outcome: Outcome) -> None:
    assert row.limit not in outcome.best_effort
    verdict = outcome.sandbox[row.name]
    assert verdict["outcome"] == "refused", f"It does not hold that {row.proves}: {verdict['evidence']}"


def test_a_limit_that_does_not_hold_is_one_that_the_backend_calls_best_effort(outcome: Outcome) -> None:
    for row in OF_THE_WHOLE_SANDBOX:
        verdict = outcome.sandbox[row.name]
        assert verdict["outcome"] in ("refused", "succeeded"), verdict
        assert verdict["outcome"] == "refused" or row.limit in outcome.best_effort, verdict


@pytest.mark.parametrize("row", PROBES.values(), ids=_id)
def test_an_attempt_succeeds_where_nothing_forbids_it(row: Probe, outcome: Outcome) -> None:
    verdict, line = outcome.control[row.name], UNPROVABLE.get(row.name)
    if line is None:
        assert verdict["outcome"] == "succeeded", verdict
    elif verdict["outcome"] == "succeeded":
        assert line["platforms"] == "some", f"The list says that it cannot: {line['reason']}"
    else:
        assert verdict["evidence"] in line["evidence"], verdict


def test_there_are_enough_attempts_of_each_class(outcome: Outcome) -> None:
    shown = Counter(
        row.kind for row in PROBES.values() if outcome.control[row.name]["outcome"] == "succeeded"
    )
    for kind in CLASSES:
        print(f"{kind}: {shown[kind]} shown, {sum(row.kind == kind for row in PROBES.values())} in all")
    assert sum(shown.values()) >= LEAST
    assert not {kind: shown[kind] for kind in CLASSES if shown[kind] < LEAST_OF_A_CLASS}


def test_the_list_of_those_that_cannot_be_shown_is_about_attempts_that_there_are() -> None:
    assert set(UNPROVABLE) <= set(PROBES)
    assert {line["platforms"] for line in UNPROVABLE.values()} == {"all", "some"}
    assert all(line["reason"] and line["evidence"] for line in UNPROVABLE.values())


def test_every_witness_can_be_reached_from_outside_of_a_sandbox(outcome: Outcome) -> None:
    """Or the facts that probes are given would lead nowhere, and everything would look refused."""
    assert len(outcome.unreachable) > 30
    assert not {name: why for name, why in outcome.unreachable.items() if why}
    assert not outcome.unheard


def test_nothing_outside_was_reached_or_changed(outcome: Outcome) -> None:
    assert outcome.touched
    assert not any(outcome.touched.values()), outcome.touched


def test_the_machine_is_as_it_was(outcome: Outcome) -> None:
    assert outcome.host_after == outcome.host_before


@pytest.mark.parametrize("name", [row.name for row in PROBES.values() if row.kind == "exhaustion"])
def test_a_neighbour_is_well_after_an_attempt_to_exhaust(name: str, outcome: Outcome) -> None:
    well = outcome.neighbour[name]
    assert isinstance(well, float), well
    assert well < SOON


def test_the_gateway_keeps_no_descriptor_of_what_has_ended(outcome: Outcome) -> None:
    assert outcome.descriptors_after <= outcome.descriptors_before
