"""Runs the bench: interleaved rounds over all targets, medians and spread, ratios, gates, JSON.

Absolute times say little on a shared machine, so every gate is a ratio to the bare kernel or to the better
peer of the same run. Exits with 1 on a missed gate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import client, measures
from .targets import Target, targets, write_spec

MS = 1000
MIB = 1024 * 1024

Figures = dict[str, dict[str, list[float]]]


def run(all_targets: list[Target], rounds: int) -> Figures:
    """Every figure of every target: {target: {figure: [value of each round]}}."""
    figures: Figures = {target.name: {} for target in all_targets}

    def note(target: Target, name: str, *values: float) -> None:
        figures[target.name].setdefault(name, []).extend(values)

    for number in range(1, rounds + 1):
        for target in all_targets:
            print(f"round {number} of {rounds}: {target.name}", file=sys.stderr, flush=True)
            for _ in range(3):
                note(target, "cold_start", measures.cold_start(target))
            with target.kernel() as connection:
                note(target, "round_trip", *measures.round_trips(connection))
                for name, value in measures.flood(target, connection).items():
                    note(target, f"flood_{name}", value)
                note(target, "big_output", measures.big_output(connection))
            if target.v1:
                with target.kernel(v1=False) as connection:
                    for name, value in measures.flood(target, connection).items():
                        note(target, f"legacy_flood_{name}", value)
    for target in all_targets:
        if target.pid is not None:
            print(f"slow reader and 20 kernels: {target.name}", file=sys.stderr, flush=True)
            for name, value in measures.twenty_kernels(target).items():
                note(target, f"twenty_{name}", value)
            with target.kernel() as connection:
                for name, value in measures.slow_reader(target, connection).items():
                    note(target, f"slow_{name}", value)
    return figures


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "min": ordered[0],
        "max": ordered[-1],
        "n": len(ordered),
    }


def gates(result: dict[str, dict[str, dict[str, float]]], ceiling: float) -> list[dict[str, Any]]:
    """Each gate with what was measured, its bound, and whether it holds."""
    bare, ours, *peers = result.values()

    def median(of: dict[str, dict[str, float]], name: str) -> float:
        return of[name]["median"]

    def at_most(name: str, value: float, bound: float, unit: str) -> dict[str, Any]:
        return {
            "gate": name,
            "value": value,
            "bound": bound,
            "rule": "<=",
            "unit": unit,
            "ok": value <= bound,
        }

    def at_least(name: str, value: float, bound: float, unit: str) -> dict[str, Any]:
        return {
            "gate": name,
            "value": value,
            "bound": bound,
            "rule": ">=",
            "unit": unit,
            "ok": value >= bound,
        }

    def best(name: str, choose: Any) -> float:
        return float(choose(median(peer, name) for peer in peers))

    cold, direct = median(ours, "cold_start"), median(bare, "cold_start")
    listed = [
        at_most("cold start / bare kernel", cold / direct, 1.25, "x"),
        at_most("cold start / better peer", cold / best("cold_start", min), 1.0, "x"),
        at_most(
            "round trip beyond the bare kernel, median",
            (median(ours, "round_trip") - median(bare, "round_trip")) * MS,
            1.5,
            "ms",
        ),
        at_most(
            "round trip beyond the bare kernel, p95",
            (ours["round_trip"]["p95"] - bare["round_trip"]["p95"]) * MS,
            4.0,
            "ms",
        ),
        at_least(
            "10 MiB output / better peer", median(ours, "big_output") / best("big_output", max), 1.0, "x"
        ),
        at_most("growth for a slow reader", ours["slow_growth"]["max"] / MIB, 64, "MiB"),
        at_most("bytes lost for a slow reader", ours["slow_lost_bytes"]["max"], 0, "bytes"),
        at_most(
            "memory with 20 kernels / better peer",
            median(ours, "twenty_memory") / best("twenty_memory", min),
            1.0,
            "x",
        ),
        at_most("descriptors per kernel", ours["twenty_descriptors"]["max"], 5, ""),
    ]
    for kind in ("flood", "legacy_flood"):
        rate = median(ours, f"{kind}_rate")
        listed += [
            at_most(f"{kind}: messages lost", ours[f"{kind}_lost"]["max"], 0, ""),
            at_least(f"{kind}: rate / better peer", rate / best("flood_rate", max), 4.0, "x"),
            at_most(
                f"{kind}: processor time per message / better peer",
                median(ours, f"{kind}_cpu_per_message") / best("flood_cpu_per_message", min),
                1 / 6,
                "x",
            ),
            at_least(f"{kind}: the client's own rate / measured", ceiling / rate, 1.0, "x"),
        ]
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kernel-python", required=True, help="interpreter with ipykernel, for every target")
    parser.add_argument("--kernel-gateway", required=True, help="the jupyter-kernelgateway command")
    parser.add_argument("--enterprise-gateway", required=True, help="the jupyter-enterprisegateway command")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every figure")
    options = parser.parse_args()
    ceiling = client.ceiling()
    with tempfile.TemporaryDirectory(prefix="jsg-bench-") as folder:
        specs = write_spec(Path(folder), options.kernel_python)
        all_targets = targets(
            specs, options.kernel_python, options.kernel_gateway, options.enterprise_gateway
        )
        started = []
        try:
            for target in all_targets:
                target.start()
                started.append(target)
            figures = run(all_targets, options.rounds)
        finally:
            for target in started:
                target.stop()
    result = {
        name: {figure: summary(values) for figure, values in measured.items()}
        for name, measured in figures.items()
    }
    listed = gates(result, ceiling)
    for name, measured in result.items():
        print(f"\n{name}")
        for figure, values in measured.items():
            print(
                f"  {figure:28} median {values['median']:14.6g}  p95 {values['p95']:14.6g}  "
                f"min {values['min']:14.6g}  max {values['max']:14.6g}  n {values['n']}"
            )
    print(f"\nthe client alone takes {ceiling:,.0f} messages/s")
    for gate in listed:
        mark = "ok    " if gate["ok"] else "MISSED"
        print(f"{mark} {gate['gate']}: {gate['value']:.4g} {gate['rule']} {gate['bound']:.4g} {gate['unit']}")
    if options.json:
        options.json.write_text(json.dumps({"figures": result, "gates": listed, "client": ceiling}, indent=2))
    return 0 if all(gate["ok"] for gate in listed) else 1


if __name__ == "__main__":
    sys.exit(main())
