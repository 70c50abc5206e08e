"""The table of probes, and how one is run: in a process of its own, with a deadline.

A probe is a function of the facts. It returns what it got hold of, in words (`succeeded`); it raises
`OSError` (`refused`, with the errno) or `RefusedError` (`refused`, with the observation) when something
stood in its way; what it needs before its attempt goes into `preparing`. Anything else that
happens to it (another exception, the deadline, death) is `inconclusive`, and that fails the suite: a
probe that does not know whether it got out has shown nothing. The two deaths that are refusals are
SIGSYS, which only a filter gives, and those that a row names in `ends_by`.

What is in `facts`, besides what witness.py tells: `host_namespaces`, `calls` (system call numbers by
name), `limits` (of the sandbox), `relay_pid`, `library_folders`, `read_only_file` (shown by the sandbox),
`neighbour_files` and `neighbour_token` (what another sandbox has, and where), `visitor` (the argv of a
program that comes into the sandbox from outside, where there is one), `noticed_within` (see `Probe`); and,
from surroundings.py, `relays` (stand-ins for the relay) and `fresh_mounts` (each attempt gets a copy of the
mounts, so that one that succeeds does not spoil the next).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .place import Permit

Facts = dict[str, Any]

CLASSES = (
    "files",
    "processes",
    "proc and sys",
    "devices",
    "sockets",
    "namespaces and mounts",
    "raw calls",
    "io_uring",
    "keyrings",
    "privileges",
    "exhaustion",
    "relay",
)


_CLONE_NEWNS = 0x20000


class RefusedError(Exception):
    """The attempt failed, as seen by its effect and not by an errno."""


class InconclusiveError(Exception):
    """The attempt could not be made."""


class Probe(NamedTuple):
    """One row of the table. That the attempt fails proves what `proves` says.

    `limit` names the limit of the sandbox that refuses it, if it may be one that a machine without control
    groups cannot keep for the sandbox as a whole. `lasts`: what it takes it keeps for
    `facts["noticed_within"]` seconds, where a limit is kept by who looks now and then.
    """

    name: str
    kind: str
    proves: str
    attempt: Callable[[Facts], str]
    ends_by: tuple[str, ...]
    patience: float
    limit: str
    lasts: bool


class Verdict(NamedTuple):
    """What became of a probe: `outcome` is succeeded, refused or inconclusive."""

    name: str
    outcome: str
    evidence: str


PROBES: dict[str, Probe] = {}


def probe(
    kind: str,
    proves: str,
    *,
    ends_by: tuple[str, ...] = (),
    patience: float = 5,
    limit: str = "",
    lasts: bool = False,
) -> Callable[[Callable[[Facts], str]], Probe]:
    """Enter a function as a row. It cannot be called afterwards, only be given to `run`."""
    if kind not in CLASSES:
        raise ValueError(f"{kind!r} is no class of probes")

    def enter(attempt: Callable[[Facts], str]) -> Probe:
        name = attempt.__name__
        if name in PROBES:
            raise ValueError(f"there are two probes {name!r}")
        PROBES[name] = Probe(name, kind, proves, attempt, ends_by, patience, limit, lasts)
        return PROBES[name]

    return enter


@contextlib.contextmanager
def preparing(what: str) -> Iterator[None]:
    """What a probe needs before its attempt; an error in it is no refusal."""
    try:
        yield
    except OSError as error:
        raise InconclusiveError(f"{what}: {error}") from error


def run(row: Probe, facts: Facts, permit: Permit) -> Verdict:
    """Make the attempt in a child; end whatever the child leaves behind."""
    if not isinstance(permit, Permit):
        raise TypeError("a probe runs only with a permit")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        _attempt(row, facts, writer)
    os.close(writer)
    patience = row.patience + (facts.get("noticed_within", 0) if row.lasts else 0)
    said = _hear(reader, child, time.monotonic() + patience)
    os.close(reader)
    ended = _end(child)
    if said:
        outcome, evidence = json.loads(said)
        return Verdict(row.name, outcome, evidence)
    if ended == "SIGSYS" or ended in row.ends_by:
        return Verdict(row.name, "refused", f"ended by {ended}")
    return Verdict(row.name, "inconclusive", f"no answer within {patience:g} s, then {ended}")


def _attempt(row: Probe, facts: Facts, writer: int) -> None:
    try:
        if facts.get("fresh_mounts"):
            ctypes.CDLL(None).unshare(_CLONE_NEWNS)
        outcome, evidence = "succeeded", row.attempt(facts)
    except OSError as error:
        outcome, evidence = "refused", errno.errorcode.get(error.errno or 0, str(error))
    except RefusedError as refused:
        outcome, evidence = "refused", str(refused)
    except BaseException as error:  # the process ends here, whatever it was
        outcome, evidence = "inconclusive", f"{type(error).__name__}: {error}"
    os.write(writer, json.dumps([outcome, evidence[:500]]).encode())
    os._exit(0)


def _hear(reader: int, child: int, deadline: float) -> bytes:
    """The answer, written in one piece; nothing if the child ends without one, or the deadline comes."""
    ending = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([reader, ending], [], [], max(0, deadline - time.monotonic()))
        return os.read(reader, 4096) if reader in ready else b""
    finally:
        os.close(ending)


def _end(child: int) -> str:
    """Kill the child and its group; what had ended the child, if it had ended by then."""
    ended = "was still running"
    # A dying process closes its pipe a moment before it can be waited for.
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            ended = signal.Signals(-code).name if code < 0 else f"exited with {code}"
            break
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if ended == "was still running":
        os.waitpid(child, 0)
    return ended
