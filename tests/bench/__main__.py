"""Runs the bench: interleaved rounds over all targets, medians and spread, ratios, gates, JSON.

Exits with 1 on a missed gate, and so also where the client was too slow for what it measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from . import program, report
from .figures import Run
from .gates import gates
from .record import Values
from .rounds import Rounds
from .targets import Bare, EnterpriseGateway, KernelGateway, Ours, running, write_spec


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    program.add_options(parser)
    for name, told in (
        ("--kernel-gateway", "the jupyter-kernelgateway command"),
        ("--enterprise-gateway", "the jupyter-enterprisegateway command"),
    ):
        parser.add_argument(name, required=True, type=os.path.abspath, help=told)
    return parser.parse_args()


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
    options = parse()
    program.prepare()
    values = measure(options)
    figures = program.summaries(values)
    run = Run(bare=figures.pop(Bare.name), ours=figures.pop(Ours.name), peers=figures)
    return program.conclude(run, gates(run), values, report.NOTES, options.json)


if __name__ == "__main__":
    sys.exit(main())
