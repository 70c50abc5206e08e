"""Looks, without changing anything, whether this process may try to escape here.

There are two kinds of places: one made for the occasion (a sandbox under bubblewrap, the control), which has
no way off the machine, a root file system in memory and hardly an identity; and a pod, which the suite
announces by `facts["pod_addresses"]`, the addresses that the cluster says it has. A pod has an interface, a
root file system that its runtime keeps on disk and as many identities as a machine, so other things are asked
of it: no address but those, one way by one interface, a root that is mounted read-only, and identities that
nobody on the machine has. Neither kind passes for the other.

What the look needs to be told comes from the suite (`facts["host_namespaces"]`, its own namespaces; and
`facts["node_namespaces"]`, those of a pod's node where the suite can see them). The other conditions hold
whatever the suite says, so that a mistake in the suite cannot set probes loose. They ask for nothing that a
probe is to show: a place without seccomp, with capabilities or with a writable /proc/sys would pass.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
#: A sandbox shares no namespace with the suite; on old systems a cgroup namespace cannot always be had.
_MUST_DIFFER = frozenset(NAMESPACES) - {"cgroup"}

#: The namespaces that a machine starts with (PROC_*_INIT_INO, linux/proc_ns.h).
_INITIAL = {"ipc:[4026531839]", "uts:[4026531838]", "user:[4026531837]", "pid:[4026531836]"}

#: What may be mounted as the root of a place that was made for the occasion, and of a pod.
_FRESH_ROOTS = ("tmpfs",)
_LAYERED_ROOTS = ("overlay",)

#: Identities in the user namespace; the initial one maps four thousand million.
_FEW = 8
#: In a pod's (KEP-127); and where those begin that people, services and containers without a user
#: namespace do not have.
_A_POD_S = 65_536
_NOBODY_S = 65_536

_RTF_UP = 1


class NotHereError(Exception):
    """The probes must not run in this place; `args` are the reasons, each a sentence."""


class Permit:
    """Proof that `look` found this process in a place where probes may run. Only `look` makes one."""

    _made_by_look = object()

    def __init__(self, proof: object) -> None:
        if proof is not self._made_by_look:
            raise NotHereError("A permit comes from looking at the place, not from a caller.")


def namespaces(proc: str = "/proc", process: int | str = "self") -> dict[str, str]:
    """The namespaces of a process, as the kernel names them."""
    return {kind: os.readlink(f"{proc}/{process}/ns/{kind}") for kind in NAMESPACES}


def look(facts: Mapping[str, object]) -> Permit:
    """Raises `NotHereError` with every reason why no probe may run here."""
    reasons = list(_reasons(facts))
    if reasons:
        raise NotHereError(*reasons)
    return Permit(Permit._made_by_look)


def _reasons(facts: Mapping[str, object], proc: str = "/proc") -> Iterable[str]:
    # Only tests look at another /proc, and they get no permit for it.
    own = namespaces(proc)
    host = facts.get("host_namespaces")
    if not isinstance(host, dict) or not set(host) >= _MUST_DIFFER:
        yield "The suite did not say which namespaces are the host's."
    else:
        yield from _shared(host, own, "host")
    for name in sorted(_INITIAL & set(own.values())):
        yield f"The namespace {name} is the machine's initial one."
    if "pod_addresses" in facts:
        yield from _reasons_in_a_pod(facts, own, proc)
    else:
        yield from _reasons_elsewhere(proc)


def _shared(others: Mapping[str, object], own: Mapping[str, str], whose: str) -> Iterator[str]:
    for kind in sorted(_MUST_DIFFER):
        if others.get(kind) == own[kind]:
            yield f"The {kind} namespace is the {whose}'s."


def _reasons_elsewhere(proc: str) -> Iterator[str]:
    """What is wrong with a place that should have been made for the occasion."""
    if sum(count for _, count in _identities(proc, "uid_map")) > _FEW:
        yield "The user namespace has the identities of a whole machine."
    kind, _ = _root(proc)
    if kind not in _FRESH_ROOTS:
        yield f"The root file system is {kind or 'unknown'}, not one made for the occasion."
    for interface in sorted(_routes(proc)):
        yield f"There is a route off this machine, by {interface}."


def _reasons_in_a_pod(facts: Mapping[str, object], own: Mapping[str, str], proc: str) -> Iterator[str]:
    """What is wrong with a place that should be a pod."""
    node = facts.get("node_namespaces")
    if isinstance(node, dict):
        yield from _shared(node, own, "node")
    for name in ("uid_map", "gid_map"):
        ranges = _identities(proc, name)
        if not 0 < sum(count for _, count in ranges) <= _A_POD_S:
            yield f"The user namespace has not the identities of a pod ({name})."
        if any(start < _NOBODY_S for start, _ in ranges):
            yield f"The user namespace has identities of the machine's own ({name})."
    kind, options = _root(proc)
    if kind not in _LAYERED_ROOTS:
        yield f"The root file system is {kind or 'unknown'}, not a container's."
    if "ro" not in options:
        yield "The root file system can be written."
    told = facts["pod_addresses"]
    expected = {ipaddress.ip_address(text) for text in told} if isinstance(told, list) else set()
    found = _addresses(proc)
    if not expected & found:
        yield "It has no address that the suite said to be the pod's."
    for address in sorted(found - expected, key=str):
        yield f"It has the address {address}, which the suite did not say to be the pod's."
    ways = _routes(proc)
    if len(ways) > 1:
        yield f"There are routes by several interfaces: {', '.join(sorted(ways))}."


def _identities(proc: str, name: str) -> list[tuple[int, int]]:
    """Ranges of identities: where each begins outside, and how many there are (user_namespaces(7))."""
    with open(f"{proc}/self/{name}") as lines:
        return [(int(line.split()[1]), int(line.split()[2])) for line in lines]


def _root(proc: str) -> tuple[str, set[str]]:
    """The type and the options of what is mounted last on / (proc(5): mountinfo, after and before "-")."""
    kind, options = "", set[str]()
    with open(f"{proc}/self/mountinfo") as lines:
        for line in lines:
            mount, _, source = line.partition(" - ")
            if mount.split()[4] == "/":
                kind, options = source.split()[0], set(mount.split()[5].split(","))
    return kind, options


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(proc: str) -> set[_Address]:
    """Those of its interfaces, but for loopback and what IPv6 gives each link by itself."""
    found: set[_Address] = set()
    with open(f"{proc}/net/fib_trie") as lines:
        last = ""
        for line in lines:
            words = line.split()
            if words[:1] == ["|--"]:
                last = words[1]
            elif words == ["/32", "host", "LOCAL"]:
                found.add(ipaddress.ip_address(last))
    if os.path.exists(f"{proc}/net/if_inet6"):
        with open(f"{proc}/net/if_inet6") as lines:
            found |= {ipaddress.ip_address(bytes.fromhex(line.split()[0])) for line in lines}
    return {address for address in found if not address.is_loopback and not _is_of_a_link(address)}


def _is_of_a_link(address: _Address) -> bool:
    return address.version == 6 and address.is_link_local


def _routes(proc: str) -> set[str]:
    """Interfaces other than loopback that a route goes through."""
    with open(f"{proc}/net/route") as lines:
        interfaces = {line.split()[0] for line in list(lines)[1:]}
    if os.path.exists(f"{proc}/net/ipv6_route"):
        with open(f"{proc}/net/ipv6_route") as lines:
            interfaces |= {line.split()[9] for line in lines if int(line.split()[8], 16) & _RTF_UP}
    return interfaces - {"lo"}
