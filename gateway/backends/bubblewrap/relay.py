"""The relay as the program of a sandbox.

It runs on the gateway's own base interpreter, so that a kernelspec needs no Python at all.
"""

from __future__ import annotations

import os
import sys

from ...relay import command as relay
from .command import RUN
from .launcher import Program
from .settings import Bind


def interpreter() -> str:
    """The interpreter that this one's virtual environment was made from, by its own path."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path = os.path.join(sys.base_prefix, "bin", name)
    return os.path.realpath(path if os.path.exists(path) else sys.executable)


def program(python: str) -> Program:
    """The relay, to be run by `python`."""
    return Program(
        argv=relay.argv(python, RUN),
        binds=[Bind(str(path), f"{relay.FOLDER}/{name}") for name, path in relay.parts().items()],
    )
