"""How a backend runs the relay: what its sandbox has to show, and the command.

This is the gateway's side; nothing of it is used inside the sandbox.
"""

from __future__ import annotations

import compileall
import importlib.util
from pathlib import Path

#: Where a sandbox shows the relay.
FOLDER = "/opt/relay"


def parts() -> dict[str, Path]:
    """What the relay's folder holds: the path inside it -> the file or folder of this machine.

    Nothing of the gateway but what the relay imports, and pyzmq, with the libraries that its wheels
    carry beside it (a distribution's pyzmq has none: then the system's folders are needed).
    """
    gateway = Path(__file__).resolve().parent.parent
    spec = importlib.util.find_spec("zmq")
    if spec is None or spec.origin is None:
        raise RuntimeError("pyzmq is not installed; the relay needs it")
    zmq = Path(spec.origin).resolve().parent
    found = {
        "gateway/__init__.py": gateway / "__init__.py",
        "gateway/wire": gateway / "wire",
        "gateway/relay": gateway / "relay",
        "zmq": zmq,
    }
    libraries = zmq.parent / "pyzmq.libs"
    if libraries.is_dir():
        found["pyzmq.libs"] = libraries
    return found


def argv(python: str, run_dir: str, folder: str = FOLDER) -> list[str]:
    """The command of a relay that ends with its stdin.

    `python` is the gateway's own interpreter as seen inside; `run_dir`, for the kernel's sockets, is made by
    the relay and may have up to 94 bytes.
    """
    return [*program(python, folder), "pipe", run_dir]


def program(python: str, folder: str = FOLDER) -> list[str]:
    """The relay without its own arguments, which the package's docstring lists."""
    return [python, "-I", "-S", f"{folder}/gateway/relay/__main__.py"]


def compile_sources() -> None:
    """See that the relay's modules are compiled.

    A sandbox shows them read-only, so without this each start compiles them anew, which takes longer than
    all the rest. Costs a few ms when they are up to date; where they may not be written either (an
    installation compiles its own) nothing happens.
    """
    for path in parts().values():
        if path.is_dir():
            compileall.compile_dir(path, quiet=2)
        elif path.suffix == ".py":
            compileall.compile_file(path, quiet=2)
