"""What has to hold of executors, each beside what there is without the gateway, measured in the same run."""

from __future__ import annotations

from ..figures import PROTOCOLS, Run, Summary
from ..gates import MS, Gate, client_margins
from .pods import BarePods, OpenPod
from .targets import Embedded

#: The last part of a figure's name that says what of a flood's processor time was whose.
_COST = "cpu_per_message"


def gates(run: Run) -> list[Gate]:
    """All of them."""
    listed = [_start(run, ""), _start(run, "built_in_"), *_many(run)]
    for protocol in PROTOCOLS:
        listed += [
            *_round_trip(run, protocol),
            *_flood(run, protocol),
            _big_output(run, protocol),
            *client_margins(run, protocol),
        ]
    return listed


def _start(run: Run, kind: str) -> Gate:
    """The proof of isolation included."""
    running = run.peers[BarePods.name][f"{kind}running"].median
    bound = running + 1.1 * run.bare["cold_start"].median + 0.2
    name = f"{kind.replace('_', ' ')}cold start; bare pod running + 1.1 bare kernel's start + 200 ms"
    return Gate(name, run.ours[f"{kind}cold_start"].median, "<=", bound, "s")


def _many(run: Run) -> list[Gate]:
    bound = run.peers[BarePods.name]["twenty_running"].median + run.bare["twenty_start"].median
    return [
        Gate("starts that failed of 20 at once", run.ours["twenty_failed"].max, "<=", 0),
        Gate(
            "20 starts at once; 20 bare pods and 20 bare kernels at once",
            run.ours["twenty_start"].median,
            "<=",
            bound,
            "s",
        ),
    ]


def _direct(run: Run) -> Summary:
    """The same kernel reached directly, on this machine or in a pod: where it answers sooner."""
    found = (figures["zmq_round_trip"] for figures in (run.bare, run.peers[OpenPod.name]))
    return min(found, key=lambda each: each.median)


def _round_trip(run: Run, protocol: str) -> list[Gate]:
    ours, direct = run.ours[f"{protocol}_round_trip"], _direct(run)
    name = f"{protocol}: round trip beyond the direct one"
    return [
        Gate(f"{name}, median", (ours.median - direct.median) * MS, "<=", 3, "ms"),
        Gate(f"{name}, p95", (ours.p95 - direct.p95) * MS, "<=", 6, "ms"),
    ]


def _flood(run: Run, protocol: str) -> list[Gate]:
    embedded = run.peers[Embedded.name][f"{protocol}_flood_rate"].median
    rate = run.ours[f"{protocol}_flood_rate"].median / embedded
    return [
        Gate(f"{protocol}: messages lost of a flood", run.ours[f"{protocol}_flood_lost"].max, "<=", 0),
        Gate(f"{protocol}: rate of a flood / embedded backend", rate, ">=", 0.5, "x", profile(run, protocol)),
    ]


def profile(run: Run, protocol: str) -> str:
    """Whose processor time a message of the flood takes, in microseconds, the most first."""
    prefix = f"{protocol}_flood_"
    spent = {
        name.removeprefix(prefix).removesuffix(_COST).rstrip("_") or "gateway": value.median * 1e6
        for name, value in run.ours.items()
        if name.startswith(prefix) and name.endswith(_COST)
    }
    told = (f"{name} {spent[name]:.3g}" for name in sorted(spent, key=lambda each: -spent[each]))
    return f"Processor time a message, in us: {', '.join(told)}."


def _big_output(run: Run, protocol: str) -> Gate:
    stream = run.peers[OpenPod.name]["stream"].median
    ours = run.ours[f"{protocol}_big_output"].median
    return Gate(f"{protocol}: rate of 10 MiB outputs / bare exec stream", ours / stream, ">=", 0.7, "x")
