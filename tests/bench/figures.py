"""Figures of a run: raw, summed up, and as ratios.

A figure's name begins with the protocol, where one was chosen for it: `v1_flood_rate`. The bare kernel's
protocol is `zmq`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: What gateways speak.
PROTOCOLS = ("v1", "legacy")


class Summary(NamedTuple):
    """Of the values of all rounds."""

    median: float
    p95: float
    min: float
    max: float
    n: int


def summary(values: Sequence[float]) -> Summary:
    """Of one value or more."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return Summary(statistics.median(ordered), p95, ordered[0], ordered[-1], len(ordered))


#: Figure -> its summary.
Figures = Mapping[str, Summary]


@dataclass(frozen=True)
class Run:
    """What was measured, of whom."""

    bare: Figures
    ours: Figures
    #: Name -> figures.
    peers: Mapping[str, Figures]


def medians(measured: Sequence[Figures], name: str) -> list[float]:
    """Of every protocol that `name` was measured in, of everyone of whom it was."""
    return [
        figures[f"{protocol}_{name}"].median
        for figures in measured
        for protocol in PROTOCOLS
        if f"{protocol}_{name}" in figures
    ]


def ratios(run: Run) -> dict[str, dict[str, float]]:
    """{figure: {other: our median to the other's}}, where both have one that is not zero."""
    found: dict[str, dict[str, float]] = {}
    for name, value in run.ours.items():
        if "_client_" in name:
            continue  # of the client, not of the gateway
        protocol, _, rest = name.partition("_")
        beside = f"zmq_{rest}" if protocol in PROTOCOLS else name
        for other, theirs in (
            ("bare kernel", run.bare.get(beside)),
            *((peer, figures.get(name)) for peer, figures in run.peers.items()),
        ):
            if theirs is not None and theirs.median and value.median:
                found.setdefault(name, {})[other] = value.median / theirs.median
    return found
