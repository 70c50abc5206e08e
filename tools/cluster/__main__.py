"""`make cluster-up`, `cluster-down` and `cluster-shell`; `build` makes what `up` needs and starts nothing."""

from __future__ import annotations

import fcntl
import os
import sys

from ..machine import SetupError
from . import parts
from .cluster import Cluster
from .instance import MAIN, STATES, Instance
from .provision import check_account, set_up


def _build() -> None:
    set_up()
    parts.build()


def _up() -> None:
    _build()
    cluster = Cluster(Instance(MAIN))
    STATES.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds it ready.
    with (STATES / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cluster.is_ready:
            cluster.down()
            cluster.up(stay=True)
    print(f"The cluster is up. export KUBECONFIG={cluster.instance.kubeconfig}")


def _down() -> None:
    check_account()
    Cluster(Instance(MAIN)).down()


def _shell() -> None:
    _up()
    shell = os.environ.get("SHELL") or "/bin/sh"
    sys.stdout.flush()
    environment = {**os.environ, **Cluster(Instance(MAIN)).environment()}
    os.execve(shell, [shell], environment)  # noqa: S606  # it takes this process's place at the terminal


_COMMANDS = {"build": _build, "up": _up, "down": _down, "shell": _shell}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in _COMMANDS:
        sys.exit(f"usage: python -m tools.cluster {'|'.join(_COMMANDS)}")
    try:
        _COMMANDS[sys.argv[1]]()
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
