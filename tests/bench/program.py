"""What the programs of the bench share: their first steps, and how they end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import report
from .figures import Figures, Run, summary
from .gates import Gate, exit_status
from .record import Values

CORES = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every bench."""
    # Absolute: a kernelspec takes no relative program, and each server runs in a folder of its own.
    parser.add_argument(
        "--kernel-python", required=True, type=os.path.abspath, help="interpreter with ipykernel"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every figure")


def prepare() -> None:
    """Have SIGTERM end what was started, and keep to two cores, with all that is started from here."""
    # An exit, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:CORES])
    if len(cores) < CORES:
        print(f"The gates are for {CORES} cores; this machine has {len(cores)}.", file=sys.stderr)


def summaries(values: Values) -> dict[str, Figures]:
    """{target: {figure: summary}}"""
    return {
        name: {figure: summary(of_rounds) for figure, of_rounds in measured.items()}
        for name, measured in values.items()
    }


def conclude(
    run: Run, listed: Sequence[Gate], values: Values, notes: Sequence[str], file: Path | None
) -> int:
    """Print all of it, write it as JSON where a file is named, and return the exit status."""
    for line in report.text(run, listed, notes):
        print(line)
    if file:
        file.write_text(json.dumps(report.as_json(run, listed, values, notes), indent=2))
    return exit_status(listed)
