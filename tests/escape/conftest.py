"""Makes every attempt once: in the control environment, and in the kernels of real sandboxes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.bubblewrap import BubblewrapBackend
from gateway.backends.bubblewrap.syscalls import NUMBERS
from gateway.backends.sizes import parse_size
from tests.escape import control, reach, sandboxed
from tests.escape.probes import __main__ as _  # noqa: F401  (fills the table)
from tests.escape.probes.place import namespaces
from tests.escape.probes.table import PROBES

#: Calls that are newer than what the gateway's table needs to know; the same number everywhere.
NEWER_CALLS = {"cachestat": 451, "listmount": 458}

#: So tight that an attempt to exhaust them is quick, and that the control has room for more.
TIGHT = {
    "memory": "256MiB",
    "processes": 48,
    "file_size": "8MiB",
    "tmp_size": "16MiB",
    "home_size": "16MiB",
    "open_files": 256,
}
#: A share that a busy machine still gives to who has no limit.
FEW_CPUS = 0.2

LIMITS: dict[str, float] = {
    **{name: parse_size(value) for name, value in TIGHT.items()},
    "shm_size": parse_size("16MiB"),
    "cpus": FEW_CPUS,
}

#: What a neighbour keeps for itself; the home is the one of every sandbox.
NEIGHBOUR_FILES = ["/tmp/escape-neighbour", "/dev/shm/escape-neighbour", "/home/jovyan/escape-neighbour"]  # noqa: S108

_KEEP = """
TOKEN = {token!r}
for name in {names!r}:
    with open(name, "w") as file:
        file.write(TOKEN)
"""

#: What a neighbour does to show that it is well: everything that an attempt may have used up.
_LIVE = """
import os, pty, socket, subprocess, tempfile, threading
assert all(open(name).read() == TOKEN for name in {names!r})
assert bytearray(32 << 20)[-1] == 0
assert subprocess.run(["true"]).returncode == 0
with tempfile.TemporaryFile() as file:
    file.write(bytes(4 << 20))
threading.Thread(target=int).start()
for pair in (socket.socketpair(), pty.openpty(), os.pipe()):
    for end in pair:
        end.close() if isinstance(end, socket.socket) else os.close(end)
print("well")
"""


@dataclass
class Outcome:
    """What became of every attempt, and of everything that none of them may touch."""

    control: dict[str, dict[str, str]] = field(default_factory=dict)
    sandbox: dict[str, dict[str, str]] = field(default_factory=dict)
    #: What came of reaching each witness from outside, before any attempt: "" where that worked.
    unreachable: dict[str, str] = field(default_factory=dict)
    #: What of that the witness did not notice.
    unheard: set[str] = field(default_factory=set)
    #: What witnesses outside saw of the attempts.
    touched: dict[str, list[str]] = field(default_factory=dict)
    #: How the neighbour was after each attempt to exhaust something: seconds, or what was wrong.
    neighbour: dict[str, float | str] = field(default_factory=dict)
    #: Names of the limits that the backend keeps as well as it can, on this machine.
    best_effort: frozenset[str] = frozenset()
    host_before: dict[str, Any] = field(default_factory=dict)
    host_after: dict[str, Any] = field(default_factory=dict)
    descriptors_before: int = 0
    descriptors_after: int = 0


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return {
        "host_namespaces": namespaces(),
        "calls": NUMBERS[platform.machine()] | NEWER_CALLS,
        "limits": LIMITS,
    }


@pytest.fixture(scope="session")
def outcome(facts: dict[str, Any]) -> Iterator[Outcome]:
    # Not below pytest's own folder: /var/tmp is where a sandbox would see the host's, were it shown.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="escape-"))
    folder.chmod(0o755)
    try:
        result = Outcome(control=control.run(facts, list(PROBES)))
        with _witnesses(folder, facts) as (witnessed, report):
            result.unreachable = reach.reach(facts | witnessed)
            result.unheard = _unheard(reach.heard(witnessed), report)
            result.host_before = _host()
            asyncio.run(_make_every_attempt(folder, facts | witnessed, result))
            result.host_after = _host()
            result.touched = report()
        yield result
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _witnesses(folder: Path, facts: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    program = folder / "witness.pyz"
    program.write_bytes(control.program())
    with subprocess.Popen(
        [sys.executable, "-I", program, "witness"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: str) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        laid_out = ask(json.dumps({"host_dir": str(folder / "host"), "calls": facts["calls"]}))
        yield laid_out, lambda: ask("report")
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def _unheard(expected: set[str], report: Callable[[], dict[str, Any]]) -> set[str]:
    """What of it the witness has not told after some seconds; it then has nothing more to tell."""
    deadline = time.monotonic() + 10
    while expected and time.monotonic() < deadline:
        expected = expected - set(report()["reached"])
    return expected


async def _make_every_attempt(folder: Path, facts: dict[str, Any], result: Outcome) -> None:
    backend = BubblewrapBackend(runtime_dir=str(folder / "run"), log=logging.getLogger("tests.escape"))
    await backend.start()
    try:
        result.best_effort = frozenset(r.name for r in backend.describe_limits() if r.best_effort)
        async with sandboxed.session(backend, {}, facts["shown_dir"]) as neighbour:
            token = facts["token"][::-1]
            facts |= {"neighbour_token": token, "neighbour_files": NEIGHBOUR_FILES}
            await neighbour.run(_KEEP.format(token=token, names=NEIGHBOUR_FILES))
            result.descriptors_before = len(os.listdir("/proc/self/fd"))
            await _attempt(backend, facts, _names(exhausting=False), result)
            names = _names(exhausting=True)
            for name in names:
                settings = {"cpus": FEW_CPUS} if name == "use_the_processors" else TIGHT
                if name not in result.sandbox:
                    rest = (
                        [name] if settings is not TIGHT else [n for n in names if n != "use_the_processors"]
                    )
                    await _exhaust(backend, settings, facts, rest, result, neighbour)
            result.descriptors_after = len(os.listdir("/proc/self/fd"))
    finally:
        await backend.close()


def _names(*, exhausting: bool) -> list[str]:
    return [row.name for row in PROBES.values() if (row.kind == "exhaustion") == exhausting]


async def _attempt(
    backend: BubblewrapBackend, facts: dict[str, Any], names: list[str], result: Outcome
) -> None:
    program = base64.b64encode(control.program()).decode()
    async with sandboxed.session(backend, {}, facts["shown_dir"]) as inside:
        result.sandbox |= await sandboxed.probe(inside, program, facts, names)


async def _exhaust(
    backend: BubblewrapBackend,
    settings: dict[str, Any],
    facts: dict[str, Any],
    names: list[str],
    result: Outcome,
    neighbour: sandboxed.Session,
) -> None:
    """One after the other, in one sandbox as long as it lives; the neighbour is asked after each."""
    program = base64.b64encode(control.program()).decode()
    async with sandboxed.session(backend, settings, facts["shown_dir"]) as inside:
        for name in names:
            if name in result.sandbox:
                continue
            result.sandbox |= await sandboxed.probe(inside, program, facts, [name])
            started = time.monotonic()
            try:
                said = await neighbour.run(_LIVE.format(names=NEIGHBOUR_FILES))
            except (AssertionError, sandboxed.KernelEndedError) as error:
                said = str(error)
            well = said == "well\n"
            result.neighbour[name] = time.monotonic() - started if well else said
            if result.sandbox[name]["outcome"] == "ended":
                return


def _host() -> dict[str, Any]:
    """What attempts that got out would have changed of this machine."""
    settings: tuple[str, ...] = (
        "kernel/hostname",
        "kernel/domainname",
        "kernel/shmmax",
        "kernel/core_pattern",
        "fs/mqueue/msg_max",
    )
    settings += ("net/ipv4/ip_forward", "user/max_user_namespaces", "net/ipv4/ping_group_range")
    return {
        "names": tuple(os.uname()),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "devices": sorted(os.listdir("/dev")),
        **{
            name: Path("/proc/sys", name).read_text() for name in settings if Path("/proc/sys", name).exists()
        },
    }
