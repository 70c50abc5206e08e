"""Processes outside: to see them, to read them, to change them, to end them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

from .calls import raw
from .table import Facts, InconclusiveError, RefusedError, preparing, probe

_PTRACE_SEIZE = 0x4206
_PERF_SOFTWARE_TASK_CLOCK = struct.pack("=IIQQQQQ", 1, 120, 1, 0, 0, 0, 0b1100001)


def victim(facts: Facts, name: str) -> int:
    """The process to reach. Its number must not be that of a process of one's own."""
    pid = int(facts["victims"][name])
    if os.path.exists(f"/proc/{pid}") and "relay" not in facts["relays"]:
        raise InconclusiveError(f"the number {pid} is also that of a process inside")
    return pid


def iovec(address: int, length: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("QQ", address, length), 16)


@probe("processes", "processes outside cannot be seen")
def see_a_process_of_the_host(facts: Facts) -> str:
    with open(f"/proc/{victim(facts, 'see')}/status") as file:
        return file.readline()


@probe("processes", "nor listed: those there are come from PID 1")
def list_processes_beyond_the_own_tree(facts: Facts) -> str:
    """In the sandbox every process has PID 1 as its ancestor, which is the relay; but for the visitor."""
    expected = 1 if facts["relay_pid"] == 1 else os.getpid()
    for name in filter(str.isdigit, os.listdir("/proc")):
        pid = int(name)
        try:
            while pid not in (0, expected):
                with open(f"/proc/{pid}/stat") as file:
                    pid = int(file.read().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
        if pid == 0 and not _is_the_visitor(facts, name):
            return f"the process {name} is no descendant of {expected}"
    raise RefusedError("all are of the own tree")


def _is_the_visitor(facts: Facts, name: str) -> bool:
    with open(f"/proc/{name}/cmdline") as file:
        return file.read().split("\0")[:-1] == facts.get("visitor")


@probe("processes", "nor killed")
def kill_a_process_of_the_host(facts: Facts) -> str:
    os.kill(victim(facts, "kill"), signal.SIGKILL)
    return "killed it"


@probe("processes", "nor stopped by its thread's number")
def stop_a_thread_of_the_host(facts: Facts) -> str:
    pid = victim(facts, "tgkill")
    raw(facts, "tgkill", pid, pid, signal.SIGSTOP)
    return "stopped it"


@probe("processes", "nor its whole group")
def kill_a_process_group_of_the_host(facts: Facts) -> str:
    os.killpg(victim(facts, "group"), signal.SIGTERM)
    return "killed the group"


@probe("processes", "nor by a queued signal")
def queue_a_signal_to_a_process_of_the_host(facts: Facts) -> str:
    pid = victim(facts, "queue")
    information = ctypes.create_string_buffer(struct.pack("iii", signal.SIGUSR1, 0, -1), 128)
    raw(facts, "rt_sigqueueinfo", pid, signal.SIGUSR1, information)
    return "queued a signal"


@probe("processes", "nor by a descriptor of it")
def signal_through_a_process_descriptor(facts: Facts) -> str:
    descriptor = os.pidfd_open(victim(facts, "pidfd"))
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return "killed it"


@probe("processes", "nor by the kernel, as the owner of a descriptor")
def have_the_kernel_signal_a_process_of_the_host(facts: Facts) -> str:
    with preparing("a pair of sockets"):
        one, other = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, victim(facts, "owner"))
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    other.send(b"x")
    return "it owns a descriptor that asks for signals"


@probe("processes", "nor traced")
def trace_a_process_of_the_host(facts: Facts) -> str:
    raw(facts, "ptrace", _PTRACE_SEIZE, victim(facts, "trace"), 0, 0)
    return "traced it"


@probe("processes", "nor its memory read")
def read_the_memory_of_a_process_of_the_host(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(len(facts["token"]))
    local = iovec(ctypes.addressof(buffer), len(buffer) - 1)
    remote = iovec(facts["memory_address"], len(facts["token"]))
    raw(facts, "process_vm_readv", victim(facts, "read"), local, 1, remote, 1, 0)
    if buffer.raw[:8] != facts["token"][:8].encode():
        raise RefusedError("something else was read")
    return "read the token"


@probe("processes", "nor written")
def write_the_memory_of_a_process_of_the_host(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(b"changed")
    local = iovec(ctypes.addressof(buffer), 7)
    remote = iovec(facts["memory_address"], 7)
    raw(facts, "process_vm_writev", victim(facts, "write"), local, 1, remote, 1, 0)
    return "wrote into it"


@probe("processes", "nor its priority changed")
def change_the_priority_of_a_process_of_the_host(facts: Facts) -> str:
    os.setpriority(os.PRIO_PROCESS, victim(facts, "see"), 19)
    return "changed its priority"


@probe("processes", "nor the processors it runs on")
def change_the_processors_of_a_process_of_the_host(facts: Facts) -> str:
    pid = victim(facts, "see")
    os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
    return "changed its processors"


@probe("processes", "nor its limits")
def change_the_limits_of_a_process_of_the_host(facts: Facts) -> str:
    limit = ctypes.create_string_buffer(struct.pack("QQ", 0, 0), 16)
    raw(facts, "prlimit64", victim(facts, "see"), 4, limit, None)  # RLIMIT_CORE
    return "changed its limits"


@probe("processes", "nor its session asked for")
def ask_for_the_session_of_a_process_of_the_host(facts: Facts) -> str:
    return f"session {os.getsid(victim(facts, 'see'))}"


@probe("processes", "nor its counters watched")
def count_the_events_of_a_process_of_the_host(facts: Facts) -> str:
    attributes = ctypes.create_string_buffer(_PERF_SOFTWARE_TASK_CLOCK, 120)
    raw(facts, "perf_event_open", attributes, victim(facts, "see"), -1, -1, 0)
    return "opened its counters"


@probe("processes", "nor where its locks lie")
def ask_for_the_locks_of_a_process_of_the_host(facts: Facts) -> str:
    head, length = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    raw(facts, "get_robust_list", victim(facts, "see"), head, length)
    return "got an address"


@probe("processes", "nor its scheduler changed")
def change_the_scheduler_of_a_process_of_the_host(facts: Facts) -> str:
    os.sched_setscheduler(victim(facts, "see"), os.SCHED_IDLE, os.sched_param(0))
    return "changed its scheduler"
