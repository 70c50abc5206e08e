"""The process on the host that makes a node's namespaces, watches over them and clears up behind them.

It holds the instance's lock while it lives. The node ends with it, however it ends: PDEATHSIG, twice. On its
standard input is a pipe of whoever started it: when that closes, as when its owner is killed, the keeper ends
the node, unless it has read `STAY` before.

    python -m tools.cluster.keeper NUMBER PART...
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from ..machine import ROOT, SetupError
from . import cgroups
from .instance import STATES, Instance, has_ipv6

#: What it says on its standard output when the node can be entered, and when another keeper has the instance;
#: anything else is why there is no node.
MADE, TAKEN = "made", "taken"

#: What its owner writes where the node is to outlive it.
STAY = b"stay\n"

_UNSHARE = (
    "unshare",
    "--net",
    "--mount",
    "--ipc",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    instance = Instance(int(sys.argv[1]))
    with ExitStack() as stack:
        try:
            _take_lock(instance, stack)
            clear(instance, keep_log=False)
            _check_network(instance)
            stack.callback(clear, instance, keep_log=True)
            for folder in (instance.lib, instance.log):
                folder.mkdir(parents=True)
            cgroups.make(instance.name)
            node = _make_node(instance, sys.argv[2:], stack)
        except SetupError as error:
            print(error, flush=True)
            return
        print(MADE, flush=True)
        _wait(node)


def _end(number: int, _: object) -> None:
    """An exit, so that all is cleared up; a second signal does not stop that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _take_lock(instance: Instance, stack: ExitStack) -> None:
    STATES.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(instance.lock.open("a"))
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SetupError(TAKEN) from error


def clear(instance: Instance, *, keep_log: bool) -> None:
    """Remove what a node leaves that has ended: its control group, interface and files."""
    cgroups.remove(instance.name)
    # The network namespace takes its end of the pair, and so the pair, but some time later.
    subprocess.run(["ip", "link", "delete", instance.name], stderr=subprocess.DEVNULL)
    for folder in instance.state.glob("*"):
        if folder.is_dir() and not (keep_log and folder == instance.log):
            shutil.rmtree(folder)
    instance.init.unlink(missing_ok=True)


def _check_network(instance: Instance) -> None:
    result = subprocess.run(
        ["ip", "-json", "route", "show", "root", instance.network_ipv4],
        check=True,
        capture_output=True,
        text=True,
    )
    for route in json.loads(result.stdout):
        raise SetupError(
            f"The cluster's network {instance.network_ipv4} is in use here, by {route['dev']}:"
            " end what uses it, or point KUBECONFIG to a cluster elsewhere."
        )


def _make_node(instance: Instance, parts: list[str], stack: ExitStack) -> subprocess.Popen[bytes]:
    program = (sys.executable, "-m", "tools.cluster.node", str(instance.number), *parts)
    node = subprocess.Popen(
        ("setpriv", "--pdeathsig", "KILL", *_UNSHARE, *program),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )

    @stack.callback
    def end() -> None:
        node.kill()
        node.wait()

    assert node.stdout is not None
    stack.enter_context(node.stdout)
    if node.stdout.readline() != b"made\n":
        raise SetupError(f"The node's namespaces cannot be made here; see {instance.keeper_log}.")
    init = _child(node.pid)
    _connect(instance, init)
    instance.init.write_text(str(init))
    return node


def _child(parent: int) -> int:
    """The only child of a process. (/proc/PID/task/*/children is not in every kernel.)"""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                return int(stat.parent.name)
        except OSError:
            continue  # it has ended
    raise SetupError("The node's first process has ended.")


def _connect(instance: Instance, init: int) -> None:
    """The pair of interfaces between host and node, and the node's way out to the host."""
    families = [("-4", f"{instance.host_ipv4}/24", f"{instance.node_ipv4}/24", instance.host_ipv4)]
    if has_ipv6():
        families.append(("-6", f"{instance.host_ipv6}/64", f"{instance.node_ipv6}/64", instance.host_ipv6))
    peer = ("peer", "name", "node0", "netns", str(init))
    enter = ("nsenter", "--target", str(init), "--net", "ip")
    commands = [
        ("ip", "link", "add", instance.name, "type", "veth", *peer),
        ("ip", "link", "set", instance.name, "up"),
        (*enter, "link", "set", "lo", "up"),
        (*enter, "link", "set", "node0", "up"),
    ]
    for family, host, node, way in families:
        # Nobody else is on this wire: no duplicate to look for, which takes a second.
        quick = ["nodad"] if family == "-6" else []
        commands += [
            ("ip", family, "address", "add", host, "dev", instance.name, *quick),
            (*enter, family, "address", "add", node, "dev", "node0", *quick),
            (*enter, family, "route", "add", "default", "via", way),
        ]
    for command in commands:
        if subprocess.run(command).returncode != 0:
            raise SetupError(f"{' '.join(command)} failed; see {instance.keeper_log}.")


def _wait(node: subprocess.Popen[bytes]) -> None:
    """Until the node ends, or the owner does without having said that it may stay."""
    ended = os.pidfd_open(node.pid)
    watched = [ended, 0]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            return
        if os.read(0, len(STAY)) != STAY:
            return
        watched.remove(0)


if __name__ == "__main__":
    main()
