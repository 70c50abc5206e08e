"""What the relay adds to the interpreter's own start: hardly more than pyzmq by itself.

No time is taken. That of an import differs by a quarter between machines of one kind, and with what else
they do. What makes it is counted instead: the modules that are loaded, and the calls that are made meanwhile,
which are the same number in each run of an interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

#: What the relay loads beside modules of its own: before the launch of the kernel beyond `os`, and then
#: beyond `zmq` with all that it loads. These are parts of the interpreter; `dataclasses` would take 10 ms.
BEFORE_LAUNCH = {"_json"}
BESIDE_ZMQ = {"gc", "signal"}
#: Calls that loading its own modules takes, as parts of those of pyzmq, which it cannot do without: those of
#: the machinery of imports, and what modules do as they are loaded, such as to make classes.
CALLS_BEFORE_LAUNCH = 0.05
CALLS = 0.22

#: Loads one thing after the other; prints for each what modules came, and how many calls it took.
_COUNT = """
import sys
sys.path.insert(0, sys.argv[1])
calls = 0
def count(frame, event, argument):
    global calls
    if event in ("call", "c_call"):
        calls += 1
found = {}
for name in sys.argv[2:]:
    before, calls = set(sys.modules), 0
    sys.setprofile(count)
    __import__(name)
    sys.setprofile(None)
    found[name] = [sorted(set(sys.modules) - before), calls]
import json
print(json.dumps(found))
"""


class Loaded(NamedTuple):
    """What one import brought that was not there, and what it took."""

    modules: set[str]
    calls: int

    @property
    def foreign(self) -> set[str]:
        """Those that are not the relay's own."""
        return {name for name in self.modules if name.partition(".")[0] != "gateway"}


def load(folder: Path, *names: str) -> dict[str, Loaded]:
    """One after the other, in an interpreter of their own that is started as a relay's is."""
    argv = [sys.executable, "-I", "-S", "-c", _COUNT, str(folder), *names]
    result = subprocess.run(argv, env={}, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(result.stdout)
    return {name: Loaded(set(modules), calls) for name, (modules, calls) in found.items()}


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[str, Loaded]:
    names = ("os", "gateway.relay.boot", "zmq", "gateway.relay.relay")
    # What compiles a module or finds a folder for the first time is not counted.
    load(folder, *names)
    return load(folder, *names)


def test_before_the_launch_of_the_kernel_hardly_anything_is_loaded(loaded: dict[str, Loaded]) -> None:
    boot = loaded["gateway.relay.boot"]
    assert "gateway.relay.boot" in boot.modules
    assert boot.foreign <= BEFORE_LAUNCH
    assert boot.calls < CALLS_BEFORE_LAUNCH * loaded["zmq"].calls


def test_beside_pyzmq_hardly_anything_is_loaded(loaded: dict[str, Loaded]) -> None:
    relay = loaded["gateway.relay.relay"]
    assert "gateway.relay.relay" in relay.modules
    assert relay.foreign <= BESIDE_ZMQ
    assert relay.calls < CALLS * loaded["zmq"].calls


def test_the_number_of_calls_is_the_same_each_time(loaded: dict[str, Loaded], folder: Path) -> None:
    assert load(folder, *loaded) == loaded
