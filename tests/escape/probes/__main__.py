"""The program: `probe` makes attempts, `control` makes them among its own witnesses, `witness` is harmless.

Facts come as one JSON line on stdin, verdicts and facts go as JSON lines to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from typing import NoReturn

from . import (
    devices,
    exhaustion,
    files,
    io_uring,
    keyrings,
    namespaces,
    privileges,
    proc_sys,
    processes,
    raw_calls,
    relay,
    sockets,
    surroundings,
)
from .place import NotHereError, Permit, look
from .table import PROBES, Facts, run
from .witness import Witness

#: The modules whose import fills the table.
FILLED_BY = (
    *(devices, exhaustion, files, io_uring, keyrings, namespaces, privileges, processes),
    *(proc_sys, raw_calls, relay, sockets),
)

NOT_HERE = 3  # exit status


def main() -> int:
    mode, facts = sys.argv[1], json.loads(sys.stdin.readline())
    if mode == "witness":
        return witness(facts)
    try:
        permit = look(facts)
    except NotHereError as reasons:
        print("No probe runs here. " + " ".join(reasons.args), file=sys.stderr)
        return NOT_HERE
    if mode == "control":
        control(facts, permit)
    else:
        probe(facts, permit)
    return 0


def witness(facts: Facts) -> int:
    """Lay out what can be reached; at each line on stdin say what was touched, at its end clean up."""
    laid_out = Witness(facts["host_dir"], facts["calls"])
    try:
        _say(laid_out.facts)
        while True:
            laid_out.serve(until=0)
            if not sys.stdin.readline():
                return 0
            _say(laid_out.report())
    finally:
        laid_out.close()


def control(facts: Facts, permit: Permit) -> None:
    """Probe with the witnesses inside, and with the surroundings that make each attempt possible."""
    surroundings.prepare(permit)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        be_the_witness(facts, tell)
    os.close(tell)
    with os.fdopen(ready) as lines:
        facts |= json.loads(lines.readline())
    surroundings.arrange(facts, permit)
    probe(facts, permit)
    os.kill(child, signal.SIGKILL)


def be_the_witness(facts: Facts, tell: int) -> NoReturn:
    try:
        laid_out = Witness("/witness", facts["calls"])
        os.write(tell, json.dumps(laid_out.facts).encode() + b"\n")
        laid_out.serve(until=os.eventfd(0))
    finally:
        traceback.print_exc()
        os._exit(1)


def probe(facts: Facts, permit: Permit) -> None:
    for name in facts["probes"]:
        _say(run(PROBES[name], facts, permit)._asdict())


def _say(value: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())
