"""Runs the bench of executors on the cluster of KUBECONFIG: rounds, medians and spread, gates, JSON.

Exits with 1 on a missed gate, and so also where the client was too slow for what it measured.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from tests.cluster.api import connected
from tests.cluster.deployed import deployed
from tests.cluster.installation import installed

from .. import program
from ..figures import Run
from ..record import Values
from ..targets import Bare, running, write_spec
from .gates import gates
from .pods import BarePods, OpenPod, open_pod
from .rounds import Rounds, Targets
from .targets import BUILT_IN, BuiltIn, Embedded, Executors

#: What all kernelspecs ask for: by default twenty kernels would fill two cores, and a node has other pods.
ROOM = {"cpu_request": 0.05}

#: Said with the figures, because their names cannot.
NOTES = (
    "Seconds, bytes, and messages or bytes per second. zmq, v1 and legacy are protocols. Direct is the",
    "kernel on ZMQ over ipc: bare on this machine, and inside a pod by a client beside it in there.",
    "A bare pod has the executor's containers and is made at the API, from the POST until a watch shows it",
    "running. built_in is the relay in the image, all else the relay injected. stream is an exec stream of",
    "what a program in a pod writes. Processor time a message of a flood is the gateway's own, and beside it",
    "that of the measuring client, the relay, its connect, the kernel (signing included), and the node's",
    "programs. client_flood_rate and client_big_output are the client by itself, on the same bytes.",
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster", description=__doc__)
    program.add_options(parser)
    parser.add_argument(
        "--built-in", required=True, help="the executor's image with the relay in it, which the nodes have"
    )
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Values:
    """The values of all rounds; nothing that was started is left."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jsg-bench-")))
        installation = stack.enter_context(installed())
        installation.wait(stack.enter_context(connected()))
        there = stack.enter_context(deployed(installation, folder))
        built_in = {**ROOM, "relay": "built-in", "image": options.built_in}
        specs = write_spec(folder / "executors", "python", sandbox=ROOM)
        write_spec(specs, "python", BUILT_IN, built_in)
        command = [sys.executable, "-m", "gateway"]
        targets = Targets(
            bare=Bare(options.kernel_python),
            ours=Executors(command, specs, there),
            built_in=BuiltIn(command, specs, there),
            embedded=Embedded(command, write_spec(folder / "embedded", options.kernel_python)),
            open_pod=stack.enter_context(open_pod()),
            pods=BarePods(there, ROOM),
            built_in_pods=BarePods(there, built_in),
        )
        for server in (targets.ours, targets.built_in, targets.embedded):
            stack.enter_context(running(server))
        return Rounds(targets).run(options.rounds)


def main() -> int:
    options = parse()
    program.prepare()
    values = measure(options)
    figures = program.summaries(values)
    peers = {name: figures[name] for name in (BarePods.name, OpenPod.name, Embedded.name)}
    run = Run(bare=figures[Bare.name], ours=figures[Executors.name], peers=peers)
    return program.conclude(run, gates(run), values, NOTES, options.json)


if __name__ == "__main__":
    sys.exit(main())
