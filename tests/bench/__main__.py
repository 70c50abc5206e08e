"""Runs the bench: interleaved rounds over all targets, medians and spread, ratios, gates, JSON.

Exits with 1 on a missed gate, and so also where the client was too slow for what it measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from . import report
from .figures import Run, summary
from .gates import exit_status, gates
from .rounds import Rounds, Values
from .targets import Bare, EnterpriseGateway, KernelGateway, Ours, running, write_spec

CORES = 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    for name, told in (
        ("--kernel-python", "interpreter with ipykernel, for every target"),
        ("--kernel-gateway", "the jupyter-kernelgateway command"),
        ("--enterprise-gateway", "the jupyter-enterprisegateway command"),
    ):
        # Absolute: a kernelspec takes no relative program, and each server runs in a folder of its own.
        parser.add_argument(name, required=True, type=os.path.abspath, help=told)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args()


def keep_to_cores() -> None:
    """The gates are for two cores; what this process starts inherits the limit."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:CORES])
    if len(cores) < CORES:
        print(f"The gates are for {CORES} cores; this machine has {len(cores)}.", file=sys.stderr)


def measure(options: argparse.Namespace) -> Values:
    """The values of all rounds; nothing that was started is left."""
    with tempfile.TemporaryDirectory(prefix="jsg-bench-") as folder, contextlib.ExitStack() as stack:
        specs = write_spec(Path(folder), options.kernel_python)
        bare = Bare(options.kernel_python)
        ours = Ours([sys.executable, "-m", "gateway"], specs)
        peers = [
            KernelGateway([options.kernel_gateway], specs),
            EnterpriseGateway([options.enterprise_gateway], specs),
        ]
        for server in (ours, *peers):
            stack.enter_context(running(server))
        return Rounds(bare, ours, peers).run(options.rounds)


def main() -> int:
    # An exit, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    options = parse()
    keep_to_cores()
    values = measure(options)
    figures = {
        name: {figure: summary(of_rounds) for figure, of_rounds in measured.items()}
        for name, measured in values.items()
    }
    run = Run(bare=figures.pop(Bare.name), ours=figures.pop(Ours.name), peers=figures)
    listed = gates(run)
    for line in report.text(run, listed):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(run, listed, values), indent=2))
    return exit_status(listed)


if __name__ == "__main__":
    sys.exit(main())
