"""Makes every attempt once in kernels of real sandboxes of one backend, with witnesses around them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.backends.base import Backend
from tests.escape import control, reach, sandboxed
from tests.escape.probes import __main__ as _  # noqa: F401  (fills the table)
from tests.escape.probes.table import PROBES

Facts = dict[str, Any]

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


@dataclass(frozen=True)
class Ground:
    """Where attempts are made."""

    #: The backend, of which a folder is that belongs to the running gateway.
    backend: Callable[[Path], Backend]
    #: The home in each of its sandboxes.
    home: str
    #: Limits of the sandboxes that an attempt to exhaust is made in: what `facts["limits"]` is about.
    limits: Mapping[str, float]
    #: The settings by which the sandbox for an attempt to exhaust gets them.
    settings: Callable[[str], Mapping[str, object]]
    #: What a program in this sandbox is told of it.
    place: Callable[[sandboxed.Session], Facts] = lambda inside: {}

    @property
    def neighbour_files(self) -> list[str]:
        """What a neighbour keeps for itself; the folders are those of every sandbox."""
        folders = ("/tmp", "/dev/shm", self.home)  # noqa: S108
        return [f"{folder}/escape-neighbour" for folder in folders]


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


@contextlib.contextmanager
def made(ground: Ground, facts: Facts) -> Iterator[Outcome]:
    """Every attempt, in the control environment first."""
    # Not below pytest's own folder: /var/tmp is where a sandbox would see the host's, were it shown.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="escape-"))
    folder.chmod(0o755)
    try:
        result = Outcome(control=control.run(facts, list(PROBES)))
        with _witnesses(folder, facts) as (witnessed, report):
            result.unreachable = reach.reach(facts | witnessed)
            result.unheard = _unheard(reach.heard(witnessed), report)
            result.host_before = _host()
            asyncio.run(_make_every_attempt(ground, folder, facts | witnessed, result))
            result.host_after = _host()
            result.touched = report()
        yield result
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _witnesses(folder: Path, facts: Facts) -> Iterator[tuple[Facts, Any]]:
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


async def _make_every_attempt(ground: Ground, folder: Path, facts: Facts, result: Outcome) -> None:
    backend = ground.backend(folder)
    await backend.start()
    try:
        result.best_effort = frozenset(r.name for r in backend.describe_limits() if r.best_effort)
        async with sandboxed.session(backend, {}, facts["shown_dir"]) as neighbour:
            token, files = facts["token"][::-1], ground.neighbour_files
            facts |= {"neighbour_token": token, "neighbour_files": files}
            await neighbour.run(_KEEP.format(token=token, names=files))
            result.descriptors_before = len(os.listdir("/proc/self/fd"))
            await _attempt(ground, backend, facts, _names(exhausting=False), result)
            names = _names(exhausting=True)
            for name in names:
                if name not in result.sandbox:
                    alike = [other for other in names if ground.settings(other) == ground.settings(name)]
                    await _exhaust(ground, backend, facts, alike, result, neighbour)
            result.descriptors_after = len(os.listdir("/proc/self/fd"))
    finally:
        await backend.close()


def _names(*, exhausting: bool) -> list[str]:
    return [row.name for row in PROBES.values() if (row.kind == "exhaustion") == exhausting]


async def _attempt(ground: Ground, backend: Backend, facts: Facts, names: list[str], result: Outcome) -> None:
    program = base64.b64encode(control.program()).decode()
    async with sandboxed.session(backend, {}, facts["shown_dir"]) as inside:
        result.sandbox |= await sandboxed.probe(inside, program, facts | ground.place(inside), names)


async def _exhaust(
    ground: Ground,
    backend: Backend,
    facts: Facts,
    names: list[str],
    result: Outcome,
    neighbour: sandboxed.Session,
) -> None:
    """One after the other, in one sandbox as long as it lives; the neighbour is asked after each.

    The names are of attempts that want the same settings.
    """
    program = base64.b64encode(control.program()).decode()
    async with sandboxed.session(backend, ground.settings(names[0]), facts["shown_dir"]) as inside:
        told = facts | ground.place(inside)
        for name in names:
            if name in result.sandbox:
                continue
            result.sandbox |= await sandboxed.probe(inside, program, told, [name])
            started = time.monotonic()
            try:
                said = await neighbour.run(_LIVE.format(names=ground.neighbour_files))
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
