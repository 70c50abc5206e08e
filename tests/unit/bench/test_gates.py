"""The bench fails where a gate is missed, and says so where its own client is what was measured."""

from __future__ import annotations

import pytest

from tests.bench import report
from tests.bench.figures import PROTOCOLS, Run, ratios, summary
from tests.bench.gates import Gate, exit_status, gates

MIB = 1024 * 1024

Values = dict[str, list[float]]


def server(speed: float) -> Values:
    """What a server could have measured: everything `speed` times as good as a bad one's."""
    values: Values = {
        "cold_start": [1.0 / speed],
        "twenty_memory": [100 * MIB / speed],
        "twenty_descriptors": [10 / speed],
    }
    for size in ("4KiB", "1MiB"):
        values |= {f"slow_{size}_growth": [500 * MIB / speed], f"slow_{size}_lost": [0.0]}
    for protocol in PROTOCOLS:
        values |= {
            f"{protocol}_round_trip": [0.040 / speed],
            f"{protocol}_flood_lost": [0.0],
            f"{protocol}_flood_rate": [1000.0 * speed],
            f"{protocol}_flood_cpu_per_message": [0.001 / speed],
            f"{protocol}_big_output": [1e7 * speed],
            f"{protocol}_client_flood_rate": [1e6],
            f"{protocol}_client_big_output": [1e10],
        }
    return values


def measured(**ours: list[float]) -> Run:
    """A run in which every gate holds, but for what is given for this gateway in place of it."""
    bare: Values = {"cold_start": [0.1], "zmq_round_trip": [0.004]}
    peers = {"one": server(1), "other": server(1.25)}
    return Run(
        bare={name: summary(values) for name, values in bare.items()},
        ours={name: summary(values) for name, values in (server(10) | ours).items()},
        peers={
            peer: {name: summary(values) for name, values in figures.items()}
            for peer, figures in peers.items()
        },
    )


def missed(run: Run) -> list[str]:
    return [gate.name for gate in gates(run) if not gate.ok]


def test_a_run_in_which_all_gates_hold_ends_well() -> None:
    assert missed(measured()) == []
    assert exit_status(gates(measured())) == 0


# At the bound and just beyond it; the better peer is 1.25 times as good as the other. In each row the bound
# is the number that the gate's docstring or name states, so that a bound that is moved is noticed here.
@pytest.mark.parametrize(
    ("figure", "holds", "misses"),
    [
        pytest.param("cold_start", [0.124], [0.126], id="a cold start 1.25 times the bare kernel's"),
        pytest.param("v1_round_trip", [0.0054], [0.0056], id="a round trip 1.5 ms beyond the bare kernel's"),
        pytest.param("legacy_round_trip", [0.0054], [0.0056], id="and in the legacy protocol"),
        pytest.param(
            "v1_round_trip", [0.005] * 9 + [0.0079], [0.005] * 9 + [0.0081], id="its p95 4 ms beyond"
        ),
        pytest.param("v1_flood_lost", [0.0, 0.0], [0.0, 1.0], id="one message lost in one round"),
        pytest.param("legacy_flood_lost", [0.0, 0.0], [0.0, 1.0], id="and in the legacy protocol"),
        pytest.param("v1_flood_rate", [5000.0], [4999.0], id="4 times the better peer's rate"),
        pytest.param("legacy_flood_rate", [5000.0], [4999.0], id="and in the legacy protocol"),
        pytest.param(
            "v1_flood_cpu_per_message", [0.00013], [0.00014], id="a sixth of the better peer's processor time"
        ),
        pytest.param("legacy_flood_cpu_per_message", [0.00013], [0.00014], id="and in the legacy protocol"),
        pytest.param("v1_big_output", [1.25e7], [1.24e7], id="the better peer's rate of large outputs"),
        pytest.param("slow_4KiB_growth", [0.0, 64.0 * MIB], [0.0, 64.1 * MIB], id="64 MiB in one round"),
        pytest.param("slow_1MiB_growth", [64.0 * MIB], [64.1 * MIB], id="and with large messages"),
        pytest.param("slow_4KiB_lost", [0.0], [1.0], id="one message lost for a slow reader"),
        pytest.param("twenty_memory", [80.0 * MIB], [80.1 * MIB], id="the better peer's memory"),
        pytest.param("twenty_descriptors", [4.0, 5.0], [4.0, 5.05], id="5 descriptors for a kernel"),
        pytest.param("v1_client_flood_rate", [12000.0], [11999.0], id="a client 1.2 times as fast"),
        pytest.param("legacy_client_big_output", [1.2e8], [1.19e8], id="and with large outputs"),
    ],
)
def test_each_gate_holds_at_its_bound_and_fails_the_bench_beyond(
    figure: str, holds: list[float], misses: list[float]
) -> None:
    assert missed(measured(**{figure: holds})) == []
    run = measured(**{figure: misses})
    assert len(missed(run)) == 1
    assert exit_status(gates(run)) == 1


def test_a_cold_start_as_slow_as_a_peers_is_a_miss() -> None:
    run = measured()
    bare = {**run.bare, "cold_start": summary([10.0])}
    as_slow = {**run.ours, "cold_start": summary([0.8])}
    assert missed(Run(bare, as_slow, run.peers)) == ["cold start / better peer"]


def test_the_better_peer_counts_in_the_protocol_in_which_it_is_best() -> None:
    run = measured(v1_flood_rate=[10_000.0], legacy_flood_rate=[10_000.0])
    faster = {**run.peers["one"], "legacy_flood_rate": summary([2600.0])}
    assert missed(Run(run.bare, run.ours, {**run.peers, "one": faster})) == [
        "v1: rate of a flood / better peer",
        "legacy: rate of a flood / better peer",
    ]


def test_a_relays_growth_is_a_figure_and_no_gate() -> None:
    run = measured(slow_4KiB_relay_growth=[900.0 * MIB], v1_flood_relay_cpu_per_message=[1.0])
    assert missed(run) == []
    assert any("slow_4KiB_relay_growth" in line for line in report.text(run, gates(run), report.NOTES))


def test_a_client_that_is_too_slow_is_told_in_words() -> None:
    run = measured(legacy_client_flood_rate=[11_000.0])
    said = "\n".join(report.text(run, gates(run), report.NOTES))
    assert "MISSED legacy: rate of the client by itself" in said
    assert "The client is too slow to measure this: the legacy figures of a flood may be its own." in said
    assert "1 of 22 gates missed" in said
    fast_enough = measured()
    assert "too slow" not in "\n".join(report.text(fast_enough, gates(fast_enough), report.NOTES))


def test_a_client_too_slow_for_a_peer_is_told_too() -> None:
    run = measured()
    slow = {**run.peers["one"], "v1_client_flood_rate": summary([1100.0])}
    listed = gates(Run(run.bare, run.ours, {**run.peers, "one": slow}))
    assert exit_status(listed) == 1
    assert any("too slow" in str(gate) for gate in listed)


def test_a_figure_that_is_no_number_is_a_miss() -> None:
    assert not Gate("a gate", float("nan"), "<=", 1).ok
    assert not Gate("a gate", float("nan"), ">=", 1).ok


def test_the_spread_is_of_all_rounds() -> None:
    assert summary([3.0, 1.0, 2.0]) == (2.0, 3.0, 1.0, 3.0, 3)
    assert summary([float(each) for each in range(100)]).p95 == 95


def test_a_ratio_is_to_the_same_protocol_of_others_and_to_the_bare_kernels_own() -> None:
    found = ratios(measured())
    assert found["legacy_round_trip"] == pytest.approx({"bare kernel": 1.0, "one": 0.1, "other": 0.125})
    assert "v1_client_flood_rate" not in found
