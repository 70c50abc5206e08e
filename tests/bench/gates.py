"""The gates: what has to hold between figures of the same run.

Absolute figures say little on a shared machine, so each gate that is not about bytes or losses relates to the
bare kernel or to the better peer. Better means the best of all peers in all protocols that they speak: ours
is held to it in each protocol, so that no protocol may be the slow one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from .figures import PROTOCOLS, Run, medians

MS = 1000
MIB = 1024 * 1024

#: How much faster than what it measured the client has to be. At 1 it would itself be what was measured. A
#: client that is 1.2 times as fast has waited for a sixth of the time; less than that is within the spread of
#: these rates on a quiet machine, and nobody could say any more for whom the clock ran.
CLIENT_MARGIN = 1.2

_RULES = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}


@dataclass(frozen=True)
class Gate:
    """`value` has to be `rule` (`<=`, `<` or `>=`) `bound`; `otherwise` says what a miss means."""

    name: str
    value: float
    rule: str
    bound: float
    unit: str = ""
    otherwise: str = ""

    @property
    def ok(self) -> bool:
        return bool(_RULES[self.rule](self.value, self.bound))

    def __str__(self) -> str:
        mark = "ok    " if self.ok else "MISSED"
        line = f"{mark} {self.name}: {self.value:.4g} {self.rule} {self.bound:.4g} {self.unit}".rstrip()
        return line if self.ok or not self.otherwise else f"{line}\n       {self.otherwise}"


def gates(run: Run) -> list[Gate]:
    """All of them."""
    listed = [*_start(run), *_slow_reader(run), *_weight(run)]
    for protocol in PROTOCOLS:
        listed += [
            *_round_trip(run, protocol),
            *_flood(run, protocol),
            *_big_output(run, protocol),
            *client_margins(run, protocol),
        ]
    return listed


def exit_status(listed: Sequence[Gate]) -> int:
    """Of the program: 1 if any gate was missed."""
    return 0 if all(gate.ok for gate in listed) else 1


def _start(run: Run) -> list[Gate]:
    ours = run.ours["cold_start"].median
    peers = min(peer["cold_start"].median for peer in run.peers.values())
    return [
        Gate("cold start / bare kernel", ours / run.bare["cold_start"].median, "<=", 1.25, "x"),
        Gate("cold start / better peer", ours / peers, "<", 1, "x"),
    ]


def _round_trip(run: Run, protocol: str) -> list[Gate]:
    ours, bare = run.ours[f"{protocol}_round_trip"], run.bare["zmq_round_trip"]
    name = f"{protocol}: round trip beyond the bare kernel's"
    return [
        Gate(f"{name}, median", (ours.median - bare.median) * MS, "<=", 1.5, "ms"),
        Gate(f"{name}, p95", (ours.p95 - bare.p95) * MS, "<=", 4, "ms"),
    ]


def _flood(run: Run, protocol: str) -> list[Gate]:
    peers = list(run.peers.values())
    rate = run.ours[f"{protocol}_flood_rate"].median / max(medians(peers, "flood_rate"))
    cost = run.ours[f"{protocol}_flood_cpu_per_message"].median / min(medians(peers, "flood_cpu_per_message"))
    return [
        Gate(f"{protocol}: messages lost of a flood", run.ours[f"{protocol}_flood_lost"].max, "<=", 0),
        Gate(f"{protocol}: rate of a flood / better peer", rate, ">=", 4, "x"),
        Gate(f"{protocol}: processor time per message / better peer", cost, "<=", 1 / 6, "x"),
    ]


def _big_output(run: Run, protocol: str) -> list[Gate]:
    better = max(medians(list(run.peers.values()), "big_output"))
    ours = run.ours[f"{protocol}_big_output"].median
    return [Gate(f"{protocol}: rate of 10 MiB outputs / better peer", ours / better, ">=", 1, "x")]


def _slow_reader(run: Run) -> list[Gate]:
    """The worst of all rounds and sizes."""
    slow = {name: value.max for name, value in run.ours.items() if name.startswith("slow_")}
    growth = max(value for name, value in slow.items() if name.endswith("_growth") and "relay" not in name)
    lost = max(value for name, value in slow.items() if name.endswith("_lost"))
    return [
        Gate("growth for a slow reader, at worst", growth / MIB, "<=", 64, "MiB"),
        Gate("messages lost for a slow reader", lost, "<=", 0),
    ]


def _weight(run: Run) -> list[Gate]:
    peers = min(peer["twenty_memory"].median for peer in run.peers.values())
    ours = run.ours["twenty_memory"].median
    return [
        Gate("memory with 20 kernels / better peer", ours / peers, "<=", 1, "x"),
        Gate("descriptors per kernel", run.ours["twenty_descriptors"].max, "<=", 5),
    ]


def client_margins(run: Run, protocol: str) -> list[Gate]:
    """Whether the client outran each server that it measured."""
    listed = []
    for figure, what in (("flood_rate", "a flood"), ("big_output", "10 MiB outputs")):
        margins = [
            measured[f"{protocol}_client_{figure}"].median / measured[f"{protocol}_{figure}"].median
            for measured in (run.ours, *run.peers.values())
            if f"{protocol}_{figure}" in measured
        ]
        listed.append(
            Gate(
                f"{protocol}: rate of the client by itself / as measured, {what}",
                min(margins),
                ">=",
                CLIENT_MARGIN,
                "x",
                f"The client is too slow to measure this: the {protocol} figures of {what} may be its own.",
            )
        )
    return listed
