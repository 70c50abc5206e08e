"""Looks, without changing anything, whether this process may try to escape here.

What the look needs to be told comes from the suite (`facts["host_namespaces"]`, its own namespaces). The
other conditions hold whatever the suite says, so that a mistake in the suite cannot set probes loose.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
#: A sandbox shares no namespace with the suite; on old systems a cgroup namespace cannot always be had.
_MUST_DIFFER = frozenset(NAMESPACES) - {"cgroup"}

#: The namespaces that a machine starts with (PROC_*_INIT_INO, linux/proc_ns.h).
_INITIAL = {"ipc:[4026531839]", "uts:[4026531838]", "user:[4026531837]", "pid:[4026531836]"}

#: What may be mounted as the root of a place that was made for the occasion.
_FRESH_ROOTS = ("tmpfs",)

#: Identities in the user namespace; the initial one maps four thousand million.
_FEW = 8

_RTF_UP = 1


class NotHereError(Exception):
    """The probes must not run in this place; `args` are the reasons, each a sentence."""


class Permit:
    """Proof that `look` found this process in a place where probes may run. Only `look` makes one."""

    _made_by_look = object()

    def __init__(self, proof: object) -> None:
        if proof is not self._made_by_look:
            raise NotHereError("A permit comes from looking at the place, not from a caller.")


def namespaces(proc: str = "/proc") -> dict[str, str]:
    """The namespaces of this process, as the kernel names them."""
    return {kind: os.readlink(f"{proc}/self/ns/{kind}") for kind in NAMESPACES}


def look(facts: Mapping[str, object]) -> Permit:
    """Raises `NotHereError` with every reason why no probe may run here."""
    reasons = list(_reasons(facts))
    if reasons:
        raise NotHereError(*reasons)
    return Permit(Permit._made_by_look)


def _reasons(facts: Mapping[str, object], proc: str = "/proc") -> Iterable[str]:
    # Only tests look at another /proc, and they get no permit for it.
    host, own = facts.get("host_namespaces"), namespaces(proc)
    if not isinstance(host, dict) or not set(host) >= _MUST_DIFFER:
        yield "The suite did not say which namespaces are the host's."
    else:
        for kind in sorted(_MUST_DIFFER):
            if host[kind] == own[kind]:
                yield f"The {kind} namespace is the host's."
    for name in sorted(_INITIAL & set(own.values())):
        yield f"The namespace {name} is the machine's initial one."
    if _identities(proc) > _FEW:
        yield "The user namespace has the identities of a whole machine."
    if _root_type(proc) not in _FRESH_ROOTS:
        yield f"The root file system is {_root_type(proc) or 'unknown'}, not one made for the occasion."
    for interface in sorted(_routes(proc)):
        yield f"There is a route off this machine, by {interface}."


def _identities(proc: str) -> int:
    with open(f"{proc}/self/uid_map") as lines:
        return sum(int(line.split()[2]) for line in lines)


def _root_type(proc: str) -> str:
    """The type of the file system that is mounted last on / (proc(5): after the "-")."""
    kind = ""
    with open(f"{proc}/self/mountinfo") as lines:
        for line in lines:
            mount, _, source = line.partition(" - ")
            if mount.split()[4] == "/":
                kind = source.split()[0]
    return kind


def _routes(proc: str) -> set[str]:
    """Interfaces other than loopback that a route goes through."""
    with open(f"{proc}/net/route") as lines:
        interfaces = {line.split()[0] for line in list(lines)[1:]}
    if os.path.exists(f"{proc}/net/ipv6_route"):
        with open(f"{proc}/net/ipv6_route") as lines:
            interfaces |= {line.split()[9] for line in lines if int(line.split()[8], 16) & _RTF_UP}
    return interfaces - {"lo"}
