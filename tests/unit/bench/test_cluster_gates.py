"""The bench of executors fails where a gate is missed, and says then whose processor time a flood took."""

from __future__ import annotations

import pytest

from tests.bench import report
from tests.bench.cluster.gates import gates
from tests.bench.cluster.pods import BarePods, OpenPod
from tests.bench.cluster.targets import Embedded
from tests.bench.figures import PROTOCOLS, Figures, Run, summary
from tests.bench.gates import exit_status

Values = dict[str, list[float]]

BARE: Values = {"cold_start": [0.4], "zmq_round_trip": [0.005], "twenty_start": [6.0]}
PODS: Values = {"running": [0.8], "built_in_running": [0.6], "twenty_running": [9.0]}
OPEN_POD: Values = {"zmq_round_trip": [0.004], "stream": [6e7]}


def summed(values: Values) -> Figures:
    return {name: summary(of_rounds) for name, of_rounds in values.items()}


def measured(**ours: list[float]) -> Run:
    """A run in which every gate holds, but for what is given for this gateway in place of it."""
    values: Values = {
        "cold_start": [1.0],
        "built_in_cold_start": [0.8],
        "twenty_start": [10.0],
        "twenty_failed": [0.0],
        "twenty_memory": [8e7],
        "twenty_descriptors": [3.0],
    }
    embedded: Values = {}
    for protocol in PROTOCOLS:
        values |= {
            f"{protocol}_round_trip": [0.005],
            f"{protocol}_flood_lost": [0.0],
            f"{protocol}_flood_rate": [30_000.0],
            f"{protocol}_flood_cpu_per_message": [0.000004],
            f"{protocol}_flood_kubelet_cpu_per_message": [0.000012],
            f"{protocol}_big_output": [5e7],
            f"{protocol}_client_flood_rate": [1e6],
            f"{protocol}_client_big_output": [1e10],
        }
        embedded |= {f"{protocol}_flood_rate": [40_000.0], f"{protocol}_client_flood_rate": [1e6]}
    peers = {BarePods.name: PODS, OpenPod.name: OPEN_POD, Embedded.name: embedded}
    return Run(summed(BARE), summed(values | ours), {name: summed(each) for name, each in peers.items()})


def missed(run: Run) -> list[str]:
    return [gate.name for gate in gates(run) if not gate.ok]


def test_a_run_in_which_all_gates_hold_ends_well() -> None:
    assert missed(measured()) == []
    assert exit_status(gates(measured())) == 0


# At the bound and just beyond it; the kernel inside a pod is the faster of the direct ones. In each row the
# bound is the number that its name states, so that a bound that is moved is noticed here.
@pytest.mark.parametrize(
    ("figure", "holds", "misses"),
    [
        pytest.param("cold_start", [1.43], [1.45], id="0.8 + 1.1 x 0.4 + 0.2 s"),
        pytest.param("built_in_cold_start", [1.23], [1.25], id="0.6 + 1.1 x 0.4 + 0.2 s, built in"),
        pytest.param("twenty_failed", [0.0, 0.0], [0.0, 1.0], id="one start that fails in one round"),
        pytest.param("twenty_start", [14.9], [15.1], id="20 at once as long as 9 + 6 s"),
        pytest.param("v1_round_trip", [0.0069], [0.0071], id="a round trip 3 ms beyond the direct one"),
        pytest.param("legacy_round_trip", [0.0069], [0.0071], id="and in the legacy protocol"),
        pytest.param(
            "v1_round_trip", [0.005] * 9 + [0.0099], [0.005] * 9 + [0.0101], id="its p95 6 ms beyond"
        ),
        pytest.param("v1_flood_lost", [0.0, 0.0], [0.0, 1.0], id="one message lost in one round"),
        pytest.param("legacy_flood_lost", [0.0, 0.0], [0.0, 1.0], id="and in the legacy protocol"),
        pytest.param("v1_flood_rate", [20_000.0], [19_999.0], id="half the embedded backend's rate"),
        pytest.param("legacy_flood_rate", [20_000.0], [19_999.0], id="and in the legacy protocol"),
        pytest.param("v1_big_output", [4.21e7], [4.19e7], id="0.7 of the bare exec stream"),
        pytest.param("legacy_big_output", [4.21e7], [4.19e7], id="and in the legacy protocol"),
        pytest.param("v1_client_flood_rate", [36_001.0], [35_999.0], id="a client 1.2 times as fast"),
    ],
)
def test_each_gate_holds_at_its_bound_and_fails_the_bench_beyond(
    figure: str, holds: list[float], misses: list[float]
) -> None:
    assert missed(measured(**{figure: holds})) == []
    run = measured(**{figure: misses})
    assert len(missed(run)) == 1
    assert exit_status(gates(run)) == 1


def test_the_direct_kernel_is_the_one_that_answers_sooner() -> None:
    run = measured(v1_round_trip=[0.0069], legacy_round_trip=[0.0069])
    slow = {**run.peers[OpenPod.name], "zmq_round_trip": summary([0.009])}
    fast = {**run.bare, "zmq_round_trip": summary([0.003])}
    assert missed(Run(run.bare, run.ours, {**run.peers, OpenPod.name: slow})) == []
    assert len(missed(Run(fast, run.ours, run.peers))) == 2


def test_a_slow_flood_is_told_with_whose_processor_time_it_took() -> None:
    run = measured(legacy_flood_rate=[10_000.0])
    said = "\n".join(report.text(run, gates(run), ()))
    assert "MISSED legacy: rate of a flood / embedded backend" in said
    assert "Processor time a message, in us: kubelet 12, gateway 4." in said
