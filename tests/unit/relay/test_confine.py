"""What the relay of a pod takes from itself: seen in a process that does it, and in its children."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

from gateway.relay import confine
from tools.machine import ROOT

#: Tells how a process is, and what it can do.
_LOOK = """
import ctypes, json, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call, *arguments):
    ctypes.set_errno(0)
    return os.strerror(ctypes.get_errno()) if call(*arguments) == -1 else ""
def raised(kind):
    _, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard, hard + 1))
    except ValueError:
        return False
    return True
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({
    "filters": int(status["Seccomp_filters"]),
    "no new privileges": status["NoNewPrivs"].strip(),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource)
               if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"},  # which is another's old name
    "traced": attempt(libc.ptrace, 0, 0, 0, 0),
    "watching": attempt(libc.inotify_init),
    "unfiltered": attempt(libc.prctl, 22, 0, 0, 0, 0),
}))
"""

#: Bytes of the largest file.
_FILE = 12345

_PARENT = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
if sys.argv[1] == "confined":
    from gateway.relay.confine import confine
    confine({_FILE})
subprocess.run([sys.executable, "-I", "-S", "-c", {_LOOK!r}], check=True)
"""


def _child_of(parent: str, *prefix: str) -> dict[str, Any]:
    done = subprocess.run(
        [*prefix, sys.executable, "-I", "-S", "-c", _PARENT, parent],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_child_has_the_filter_and_cannot_take_it_off() -> None:
    before, after = _child_of("bare"), _child_of("confined")
    assert after["filters"] == before["filters"] + 1
    assert after["no new privileges"] == "1"
    assert (before["traced"], before["watching"]) == ("", "")
    assert {after["traced"], after["watching"], after["unfiltered"]} == {"Operation not permitted"}


def test_a_child_has_the_limits() -> None:
    before, after = _child_of("bare")["limits"], _child_of("confined")["limits"]
    names = {getattr(resource, name): name for name in after}
    limits = {**confine._LIMITS, resource.RLIMIT_FSIZE: _FILE}
    lowered = {names[kind]: [value, value] for kind, value in limits.items()}
    # The machine's own may be lower already.
    assert {name: after[name] for name in lowered} == {
        name: [value if before[name][1] == -1 else min(value, before[name][1])] * 2
        for name, (value, _) in lowered.items()
    }
    assert {name: after[name] for name in before if name not in lowered} == {
        name: before[name] for name in before if name not in lowered
    }


@pytest.mark.parametrize("users", ["its own", "the machine's"])
def test_processes_are_limited_where_their_users_are_counted_for_themselves(users: str) -> None:
    prefix = ["unshare", "--user", "--map-current-user"] if users == "its own" else []
    limit = _child_of("confined", *prefix)["limits"]["RLIMIT_NPROC"][1]
    before = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    assert limit == (confine.PROCESSES if users == "its own" else before)


def test_on_an_architecture_without_a_filter_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", "6", "1", "s390x")))
    with pytest.raises(confine.NotConfinedError, match="no system call filter for the architecture 's390x'"):
        confine.confine(_FILE)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
