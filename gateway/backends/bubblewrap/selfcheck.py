"""The proof that sandboxes on this machine are isolated: one probe, run inside and outside.

The probe tries to reach listeners of the gateway, to see network interfaces and to write files, and tells who
it is. Outside it must reach and write, or its failure inside proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..base import BackendError, Check
from .command import GID, OUTER_ENVIRONMENT, UID
from .diagnosis import explain
from .launcher import Launcher, Program
from .limits import Limits
from .settings import Bind
from .visible import Visible

#: Seconds that the probe may take inside and outside; it takes about 40 ms.
_PATIENCE = 20

#: Bytes of the probe's answer at most.
_ANSWER = 64 * 1024

#: What the names of the probe's sandboxes start with.
NAME = "self-check-"

#: What stands for a group that a user namespace does not map.
_OVERFLOW_GID = Path("/proc/sys/kernel/overflowgid")

Address = tuple[str, int]

#: Runs with `python -I -S -c`. Arguments: nonce, listeners as JSON, then paths of files to make.
_PROBE = """
import json, os, socket, sys
nonce, listeners, paths = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
reached, written = [], []
for host, port in listeners:
    try:
        with socket.create_connection((host, port), timeout=3):
            reached.append([host, port])
    except OSError:
        pass
for path in paths:
    try:
        with open(path, "x") as file:
            file.write(nonce)
        written.append(path)
    except OSError:
        pass
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
json.dump({
    "nonce": nonce,
    "reached": reached,
    "written": written,
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
    "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(),
    "capabilities": sorted({int(value, 16) for name, value in status.items() if name.startswith("Cap")}),
    "seccomp": int(status["Seccomp"]),
    "no_new_privs": int(status["NoNewPrivs"]),
}, sys.stdout)
"""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the probe tells of the place where it ran."""

    reached: list[Address]
    written: list[str]
    interfaces: list[str]
    ids: list[int]
    groups: list[int]
    capabilities: list[int]
    seccomp: int
    no_new_privs: int


class Plan(NamedTuple):
    """What both probes are asked to do."""

    nonce: str
    listeners: Sequence[Address]
    #: Files in the scratch folder, one for each side.
    inside: str
    outside: str
    #: Other files that must not come into being from inside.
    elsewhere: Sequence[str]


async def prove(
    launcher: Launcher, visible: Visible, bounds: Limits, python: str, listeners: Sequence[Address]
) -> list[Check]:
    """Run the probe on both sides and judge. `listeners` are the gateway's own, beside one made here."""
    nonce = secrets.token_hex(8)
    with _scratch(launcher, nonce) as scratch:
        async with _listener() as address:
            plan = Plan(
                nonce=nonce,
                listeners=[address, *listeners],
                inside=f"{scratch}/inside",
                outside=f"{scratch}/outside",
                elsewhere=["/probe", "/etc/probe", "/usr/probe", "/dev/probe", "/proc/sys/probe"],
            )
            inside, outside = await asyncio.gather(
                _inside(launcher, visible, bounds, python, scratch, plan), _outside(python, plan)
            )
        appeared = scratch.joinpath("inside").exists()
    if isinstance(inside, Check):
        return [inside]
    return judge(plan, inside, outside, appeared)


def judge(plan: Plan, inside: Findings, outside: Findings | None, appeared: bool) -> list[Check]:
    """What the findings show. `appeared`: the file written inside was found outside."""
    if outside is None:
        return [Check("control", None, "The probe could not be run outside a sandbox.", _RERUN)]
    control = set(outside.reached) >= set(plan.listeners) and plan.outside in outside.written
    return [
        Check(
            "control",
            control or None,
            "Outside, the probe reaches the gateway and writes."
            if control
            else f"Outside, the probe reaches {outside.reached} of {list(plan.listeners)} and writes "
            f"{outside.written}; so what it cannot do inside proves nothing.",
            "" if control else _RERUN,
        ),
        _network(inside),
        _writing(inside, appeared),
        _identity(inside),
    ]


_RERUN = "Run `jupyter gateway doctor` again; if that stays, check the disk and the loopback interface."
_REPORT = "Do not run this gateway here. Report it with the output of `jupyter gateway doctor --json`."


def _network(inside: Findings) -> Check:
    foreign = [name for name in inside.interfaces if name != "lo"]
    if inside.reached or foreign:
        seen = ", ".join([*(f"{host}:{port}" for host, port in inside.reached), *foreign])
        return Check("network", False, f"A sandbox has a network: it reaches or sees {seen}.", _REPORT)
    return Check("network", True, "A sandbox reaches nothing and sees no interface but its own loopback.")


def _writing(inside: Findings, appeared: bool) -> Check:
    if inside.written or appeared:
        return Check("files", False, f"A sandbox can write outside: {inside.written}.", _REPORT)
    return Check("files", True, "A sandbox cannot write outside its own /tmp and home.")


def _groups() -> set[int]:
    """The groups that a process of a sandbox may be in, as seen inside.

    Root gives up its others before bubblewrap starts. Nobody else can: a user namespace that somebody
    without privileges made lets nobody call setgroups(2) (user_namespaces(7)). They have no name inside,
    so all show as the overflow GID.
    """
    return {GID} if os.geteuid() == 0 else {GID, int(_OVERFLOW_GID.read_text())}


def _identity(inside: Findings) -> Check:
    faults = []
    if inside.ids != [UID] * 3 + [GID] * 3 or set(inside.groups) - _groups():
        faults.append(f"its IDs are {inside.ids} with groups {inside.groups}")
    if inside.capabilities != [0]:
        faults.append(f"its capabilities are {[hex(mask) for mask in inside.capabilities]}")
    if inside.seccomp != 2:
        faults.append("no system call filter is in force")
    if inside.no_new_privs != 1:
        faults.append("it may gain privileges")
    if faults:
        return Check("privileges", False, f"In a sandbox {'; '.join(faults)}.", _REPORT)
    return Check(
        "privileges", True, f"A sandbox runs as UID {UID}, without capabilities, behind a system call filter."
    )


async def _inside(
    launcher: Launcher, visible: Visible, bounds: Limits, python: str, scratch: Path, plan: Plan
) -> Findings | Check:
    # The scratch folder is shown, so that not its absence keeps the probe from writing there.
    program = Program(
        _argv(python, plan, [plan.inside, *plan.elsewhere]),
        [Bind(python, python), Bind(str(scratch), str(scratch))],
    )
    try:
        sandbox = await launcher.launch(
            NAME + plan.nonce, visible, program, dataclasses.replace(bounds, life=_PATIENCE)
        )
    except BackendError as error:
        return explain(str(error))
    try:
        transport = await sandbox.connect()
        answer = b""
        while len(answer) <= _ANSWER and (chunk := await transport.receive()):
            answer += chunk
        await transport.close()
        ending = await sandbox.wait()
        findings = parse(answer, plan)
        return findings if findings is not None else explain(sandbox.last_words or ending.reason)
    finally:
        await sandbox.destroy()


async def _outside(python: str, plan: Plan) -> Findings | None:
    process = await asyncio.create_subprocess_exec(
        *_argv(python, plan, [plan.outside]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=OUTER_ENVIRONMENT,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            answer, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        return None
    return parse(answer, plan)


def _argv(python: str, plan: Plan, paths: Sequence[str]) -> list[str]:
    return [python, "-I", "-S", "-c", _PROBE, plan.nonce, json.dumps(list(plan.listeners)), *paths]


def parse(answer: bytes, plan: Plan) -> Findings | None:
    """The probe's answer, or None where it is not one."""
    try:
        members = json.loads(answer)
        if members.pop("nonce") != plan.nonce:
            return None
        members["reached"] = [(host, port) for host, port in members["reached"]]
        return Findings(**members)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@contextlib.contextmanager
def _scratch(launcher: Launcher, nonce: str) -> Iterator[Path]:
    """A folder in which everyone may write, so that only the sandbox can be what keeps the probe from it."""
    folder = launcher.folder(f"scratch-{nonce}", 0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def _listener() -> AsyncIterator[Address]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield host, port
    finally:
        server.close()
        await server.wait_closed()
