"""Reaches every witness once from outside of any sandbox, by harmless means.

What a probe is told of the host (ports, paths, numbers) must lead somewhere, or its failure proves nothing:
any `OSError` counts as a refusal, and a wrong port refuses too.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.escape.probes.calls import check, libc, raw
from tests.escape.probes.sockets import talk
from tests.escape.probes.witness import FILES, NO_IPV6

Facts = dict[str, Any]

_IPC_STAT = 2
_KEYCTL_READ = 11

#: Fact -> family and type of the socket that it leads to.
_SOCKETS = {
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    **{
        name: (socket.AF_UNIX, kind)
        for names, kind in (
            (("unix", "abstract", "shown_stream"), socket.SOCK_STREAM),
            (("unix_dgram", "abstract_dgram", "shown_dgram"), socket.SOCK_DGRAM),
            (("unix_packet", "shown_packet"), socket.SOCK_SEQPACKET),
        )
        for name in names
    },
}


def reach(facts: Facts) -> dict[str, str]:
    """What came of it, by what was to be reached: "" where it was, else why not.

    Each of `heard(facts)` is told once by the witness, terminals a moment later.
    """
    ways: dict[str, Callable[[], object]] = {}
    for name, (family, kind) in _SOCKETS.items():
        if facts[name] != NO_IPV6:
            ways[name] = lambda name=name, family=family, kind=kind: _talk(facts, name, family, kind)
    for name in FILES:
        ways[f"file {name}"] = lambda name=name: _read(facts, Path(facts["host_dir"], name))
    for name in ("fifo", "pipe"):
        folder = facts["host_dir"] if name == "fifo" else facts["shown_dir"]
        ways[name] = lambda path=Path(folder, name): _write(path)
    for name, pid in facts["victims"].items():
        ways[f"process {name}"] = lambda pid=pid: os.kill(pid, 0)
    ways["shared memory as a file"] = lambda: _read(facts, Path(facts["shm_file"]))
    ways["shared memory"] = lambda: _attach(facts)
    ways["message queue"] = lambda: raw(
        facts, "msgctl", facts["message_queue"], _IPC_STAT, ctypes.create_string_buffer(256)
    )
    ways["posix queue"] = lambda: os.close(check(libc.mq_open(facts["posix_queue"].encode(), os.O_RDONLY)))
    ways["terminal"] = lambda: _write(Path(facts["terminal"]))
    ways["memory"] = lambda: _read_memory(facts)
    if facts["key"]:
        ways["key"] = lambda: _read_key(facts)
    return {name: _outcome(way) for name, way in ways.items()}


def heard(facts: Facts) -> set[str]:
    """What the witness itself notices of `reach`."""
    return {name for name in _SOCKETS if facts[name] != NO_IPV6} | {"fifo", "pipe", "terminal"}


def _outcome(way: Callable[[], object]) -> str:
    try:
        way()
    except (OSError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _talk(facts: Facts, name: str, family: int, kind: int) -> None:
    address = facts[name] if family == socket.AF_UNIX else ("127.0.0.1", facts[name])
    if family == socket.AF_INET6:
        address = ("::1", facts[name])
    talk(family, kind, address, facts)


def _read(facts: Facts, path: Path) -> None:
    assert path.read_text() == facts["token"]


def _write(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        os.write(descriptor, b"x")  # one byte comes in one piece
    finally:
        os.close(descriptor)


def _attach(facts: Facts) -> None:
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(facts["shm"], None, 0)
    assert address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    assert ctypes.string_at(address) == facts["token"].encode()
    libc.shmdt(ctypes.c_void_p(address))


def _read_memory(facts: Facts) -> None:
    size = len(facts["token"])
    buffer = ctypes.create_string_buffer(size)
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), size)
    theirs = (ctypes.c_size_t * 2)(facts["memory_address"], size)
    raw(facts, "process_vm_readv", facts["witness_pid"], ours, 1, theirs, 1, 0)
    assert buffer.raw == facts["token"].encode()


def _read_key(facts: Facts) -> None:
    buffer = ctypes.create_string_buffer(256)
    raw(facts, "keyctl", _KEYCTL_READ, facts["key"], buffer, 256)
    assert buffer.value == facts["token"].encode()
