"""What the relay of a pod takes from itself, and so from its whole sandbox, before it serves anybody.

A pod has the system call filter of its runtime (RuntimeDefault) and no limit of processes but the node's.
That filter is made for every program there is: under it a kernel may trace others, watch files that it
shares, keep message queues, speak to netlink. On one machine the gateway refuses that from outside; in a pod
only its first process can, and what that refuses itself no child gets back: filters add up, and a limit is
only raised with a capability. So both kinds of sandboxes have one filter.

`connect` is started by the runtime from outside, and so without this; it hides from the kernel (`hiding`).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from .seccomp import INSTRUCTION, UnsupportedArchitectureError, build_filter

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2

#: Processes and threads. They are counted within the pod's own users (Linux 5.14), so it needs those.
PROCESSES = 1024
#: Of a process.
OPEN_FILES = 4096
_LIMITS = {
    # At 1 nothing is dumped, nor is a program that takes dumps from a pipe started on the node, which 0
    # does not prevent (core(5), fs/coredump.c).
    resource.RLIMIT_CORE: 1,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_NOFILE: OPEN_FILES,
    resource.RLIMIT_RTPRIO: 0,
    # POSIX timers count here.
    resource.RLIMIT_SIGPENDING: 1024,
}

#: How many identities the user namespace has that every machine starts with (user_namespaces(7)).
_ALL = 2**32 - 1


class NotConfinedError(Exception):
    """It could not be done; the message is a sentence."""


def confine(file_size: int) -> None:
    """Lower the limits and load the filter. Raises `NotConfinedError`; then nothing may be served.

    `file_size` are the bytes of the largest file that a process may write.
    """
    try:
        program = build_filter(os.uname().machine, deny_unaccounted_memory=False)
    except UnsupportedArchitectureError as error:
        raise NotConfinedError(str(error)) from None
    for kind, value in {**_LIMITS, resource.RLIMIT_FSIZE: file_size}.items():
        _lower(kind, value)
    if _has_users_of_its_own():
        _lower(resource.RLIMIT_NPROC, PROCESSES)
    _load(program)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _has_users_of_its_own() -> bool:
    """Else the users of all pods of a node would share the limit."""
    with open("/proc/self/uid_map") as lines:
        return sum(int(line.split()[2]) for line in lines) < _ALL


def _load(program: bytes) -> None:
    """Put the filter in force, for good; seccomp(2)."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog of linux/filter.h.
    described = struct.pack("HP", len(program) // INSTRUCTION.size, ctypes.addressof(instructions))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(described, len(described)))


def _prctl(option: int, value: int, pointer: ctypes.Array[ctypes.c_char] | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise NotConfinedError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}.")
