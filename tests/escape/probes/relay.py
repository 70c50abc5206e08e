"""The relay, which is PID 1 of the sandbox and has the same user: its memory, its descriptors, its life.

The kernel may end its own sandbox; it may not become the relay, read it, or reach what the relay holds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct

from .calls import raw
from .processes import iovec
from .table import Facts, RefusedError, preparing, probe

_PTRACE_SEIZE = 0x4206
_PERF_TASK_CLOCK = struct.pack("=IIQQQQQ", 1, 120, 1, 0, 0, 0, 0b1100001)


def _relay(facts: Facts, name: str = "relay") -> int:
    """PID 1; in the control the stand-in, of which each attempt that ends it has one of its own."""
    return int(facts["relays"].get(name, facts["relay_pid"]))


def _path(facts: Facts, name: str) -> str:
    return f"/proc/{_relay(facts)}/{name}"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def _is_harmed(pid: int) -> str:
    """Whether it has ended or is stopped, a moment after a signal that might have done it."""
    for _ in range(100):
        try:
            state = _state(pid)
        except FileNotFoundError:
            return "it is gone"
        if state in "ZXTt":
            return f"its state is {state}"
        os.sched_yield()
        signal.sigtimedwait([signal.SIGUSR2], 0.002)
    raise RefusedError("it goes on")


@probe("relay", "the relay's memory cannot be read")
def read_the_memory_of_the_relay(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(16)
    local, remote = iovec(ctypes.addressof(buffer), 16), iovec(facts["memory_address"], 16)
    raw(facts, "process_vm_readv", _relay(facts), local, 1, remote, 1, 0)
    return "read it"


@probe("relay", "nor written")
def write_the_memory_of_the_relay(facts: Facts) -> str:
    buffer = ctypes.create_string_buffer(b"changed", 16)
    local, remote = iovec(ctypes.addressof(buffer), 7), iovec(facts["memory_address"], 7)
    raw(facts, "process_vm_writev", _relay(facts, "relay_write"), local, 1, remote, 1, 0)
    return "wrote it"


@probe("relay", "nor opened as a file")
def open_the_memory_of_the_relay(facts: Facts) -> str:
    os.close(os.open(_path(facts, "mem"), os.O_RDWR))
    return "opened it"


@probe("relay", "nor its layout seen")
def read_the_layout_of_the_relay(facts: Facts) -> str:
    with open(_path(facts, "maps")) as file:
        layout = file.readline()
    if not layout:
        raise RefusedError("it is empty")
    return layout


@probe("relay", "nor its environment")
def read_the_environment_of_the_relay(facts: Facts) -> str:
    with open(_path(facts, "environ"), "rb") as file:
        return f"{len(file.read())} bytes"


@probe("relay", "nor its registers and limits of addresses")
def read_the_vector_of_the_relay(facts: Facts) -> str:
    with open(_path(facts, "auxv"), "rb") as file:
        return f"{len(file.read())} bytes"


@probe("relay", "its descriptors, the wire to the gateway among them, cannot be listed")
def list_the_descriptors_of_the_relay(facts: Facts) -> str:
    return ", ".join(os.listdir(_path(facts, "fd")))


@probe("relay", "nor opened")
def open_a_descriptor_of_the_relay(facts: Facts) -> str:
    errors = []
    for number in range(32):
        try:
            os.close(os.open(_path(facts, f"fd/{number}"), os.O_RDWR | os.O_NONBLOCK))
            return f"opened {number}"
        except OSError as error:
            errors.append(error)
    raise errors[0]


@probe("relay", "nor taken")
def take_a_descriptor_of_the_relay(facts: Facts) -> str:
    with preparing("a descriptor of the relay"):
        descriptor = os.pidfd_open(_relay(facts))
    errors = []
    for number in range(32):
        try:
            return f"took {raw(facts, 'pidfd_getfd', descriptor, number, 0)}"
        except OSError as error:
            errors.append(error)
    raise errors[0]


@probe("relay", "nor inherited: the kernel has no descriptor of anything outside")
def find_an_inherited_descriptor(facts: Facts) -> str:
    """All descriptors of this process's ancestors but PID 1: pipes and sockets have both ends inside, and
    files lie on what is mounted here."""
    mounts = _devices()
    pid = os.getppid()
    while pid > 1:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            status, target = os.stat(path), os.readlink(path)
            of_a_tree = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
            of_memory = target.startswith(("/memfd:", "/dev/zero"))
            if of_a_tree and not of_memory and status.st_dev not in mounts:
                return f"{target} is on no file system of this place"
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    raise RefusedError("every file is on a file system of this place")


def _devices() -> set[int]:
    with open("/proc/self/mountinfo") as lines:
        numbers = [line.split()[2].split(":") for line in lines]
    return {os.makedev(int(major), int(minor)) for major, minor in numbers}


@probe("relay", "it cannot be traced")
def trace_the_relay(facts: Facts) -> str:
    raw(facts, "ptrace", _PTRACE_SEIZE, _relay(facts, "relay_trace"), 0, 0)
    return "traced it"


@probe("relay", "it cannot be killed")
def kill_the_relay(facts: Facts) -> str:
    pid = _relay(facts, "relay_kill")
    os.kill(pid, signal.SIGKILL)
    return _is_harmed(pid)


@probe("relay", "nor stopped")
def stop_the_relay(facts: Facts) -> str:
    pid = _relay(facts, "relay_stop")
    os.kill(pid, signal.SIGSTOP)
    return _is_harmed(pid)


@probe("relay", "nor made to crash by a signal")
def send_the_relay_the_signal_of_a_fault(facts: Facts) -> str:
    pid = _relay(facts, "relay_segv")
    os.kill(pid, signal.SIGSEGV)
    return _is_harmed(pid)


@probe("relay", "nor killed through a descriptor of it")
def kill_the_relay_through_a_descriptor(facts: Facts) -> str:
    pid = _relay(facts, "relay_pidfd")
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
    return _is_harmed(pid)


@probe("relay", "its root and working folders cannot be entered")
def enter_the_folders_of_the_relay(facts: Facts) -> str:
    return f"entered it: {len(os.listdir(_path(facts, 'root/')))} names"


@probe("relay", "its program cannot be opened")
def open_the_program_of_the_relay(facts: Facts) -> str:
    os.close(os.open(_path(facts, "exe"), os.O_RDONLY))
    return "opened it"


@probe("relay", "it cannot be chosen as the first to go when memory ends")
def choose_the_relay_for_the_end_of_memory(facts: Facts) -> str:
    with open(_path(facts, "oom_score_adj"), "w") as file:
        file.write("999")
    return "chose it"


@probe("relay", "what it touched of its memory cannot be forgotten and watched")
def watch_the_pages_of_the_relay(facts: Facts) -> str:
    with open(_path(facts, "clear_refs"), "w") as file:
        file.write("1")
    return "may watch them"


@probe("relay", "its counters cannot be watched")
def count_the_events_of_the_relay(facts: Facts) -> str:
    attributes = ctypes.create_string_buffer(_PERF_TASK_CLOCK, 120)
    raw(facts, "perf_event_open", attributes, _relay(facts), -1, -1, 0)
    return "opened them"


@probe("relay", "nor its objects compared with one's own")
def compare_objects_with_the_relay(facts: Facts) -> str:
    raw(facts, "kcmp", os.getpid(), _relay(facts), 0, 0, 0)
    return "compared them"


@probe("relay", "nor the place of its locks")
def ask_for_the_locks_of_the_relay(facts: Facts) -> str:
    head, length = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    raw(facts, "get_robust_list", _relay(facts), head, length)
    return "got an address"


@probe("relay", "nor what it waits for in the kernel")
def read_what_the_relay_waits_for(facts: Facts) -> str:
    with open(_path(facts, "syscall")) as file:
        return file.readline()
