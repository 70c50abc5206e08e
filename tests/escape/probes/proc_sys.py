"""/proc and /sys: settings of the machine, and what they tell about it.

Settings are written back as they were read, so that an attempt that succeeds changes nothing. One
setting is tried of each namespace that owns settings, since each has a check of its own.
"""

from __future__ import annotations

import os

from .table import Facts, RefusedError, probe


def _write_back(path: str) -> str:
    with open(path) as file:
        value = file.read()
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, value.encode())
    return f"wrote {value.strip()!r} to {path}"


def _open_for_writing(path: str) -> str:
    """For settings that must not be written even where they could be."""
    os.close(os.open(path, os.O_WRONLY))
    return f"opened {path} for writing"


@probe("proc and sys", "the host's name (UTS namespace) cannot be set")
def set_the_host_name_by_proc(facts: Facts) -> str:
    return _write_back("/proc/sys/kernel/hostname")


@probe("proc and sys", "the limits of shared memory (IPC namespace) cannot be set")
def set_the_limit_of_shared_memory(facts: Facts) -> str:
    return _write_back("/proc/sys/kernel/shmmax")


@probe("proc and sys", "the limits of message queues (IPC namespace's file system) cannot be set")
def set_the_limit_of_message_queues(facts: Facts) -> str:
    return _write_back("/proc/sys/fs/mqueue/msg_max")


@probe("proc and sys", "forwarding of packets (network namespace) cannot be set")
def set_packet_forwarding(facts: Facts) -> str:
    return _write_back("/proc/sys/net/ipv4/ip_forward")


@probe("proc and sys", "the number of namespaces (user namespace) cannot be set")
def set_the_number_of_user_namespaces(facts: Facts) -> str:
    return _write_back("/proc/sys/user/max_user_namespaces")


@probe("proc and sys", "the next process number (PID namespace) cannot be set")
def set_the_next_process_number(facts: Facts) -> str:
    return _write_back("/proc/sys/kernel/ns_last_pid")


@probe("proc and sys", "program formats cannot be registered")
def register_a_program_format(facts: Facts) -> str:
    descriptor = os.open("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY)
    os.write(descriptor, b":escape:E::escape::/bin/true:")
    return "registered a format"


@probe("proc and sys", "what handles a core dump on the host cannot be set")
def set_the_core_handler(facts: Facts) -> str:
    return _open_for_writing("/proc/sys/kernel/core_pattern")


@probe("proc and sys", "the program that the kernel loads modules with cannot be set")
def set_the_module_loader(facts: Facts) -> str:
    return _open_for_writing("/proc/sys/kernel/modprobe")


@probe("proc and sys", "the kernel takes no console commands")
def send_a_console_command(facts: Facts) -> str:
    return _open_for_writing("/proc/sysrq-trigger")


@probe("proc and sys", "the host's page cache cannot be dropped")
def drop_the_page_cache(facts: Facts) -> str:
    return _open_for_writing("/proc/sys/vm/drop_caches")


@probe("proc and sys", "the kernel's memory cannot be read")
def read_the_memory_of_the_kernel(facts: Facts) -> str:
    with open("/proc/kcore", "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise RefusedError("it is empty")
    return "read it"


@probe("proc and sys", "keys cannot be listed")
def list_the_keys(facts: Facts) -> str:
    with open("/proc/keys") as file:
        keys = file.read()
    if not keys:
        raise RefusedError("it is empty")
    return keys.splitlines()[0]


@probe("proc and sys", "the symbols of the kernel cannot be listed")
def list_the_symbols_of_the_kernel(facts: Facts) -> str:
    with open("/proc/kallsyms") as file:
        symbol = file.readline()
    if not symbol:
        raise RefusedError("it is empty")
    return symbol


@probe("proc and sys", "interrupts, whose timing tells what others do, cannot be counted")
def count_the_interrupts(facts: Facts) -> str:
    with open("/proc/interrupts") as file:
        counts = file.read()
    if not counts:
        raise RefusedError("it is empty")
    return counts.splitlines()[1]


@probe("proc and sys", "the modules of the kernel cannot be listed")
def list_the_modules_of_the_kernel(facts: Facts) -> str:
    with open("/proc/modules") as file:
        modules = file.read()
    if not modules:
        raise RefusedError("it is empty")
    return modules.splitlines()[0]


@probe("proc and sys", "the host's file systems cannot be looked into")
def list_what_proc_tells_of_file_systems(facts: Facts) -> str:
    names = os.listdir("/proc/fs")
    if not names:
        raise RefusedError("the folder is empty")
    return ", ".join(names)


@probe("proc and sys", "the devices of the machine cannot be listed")
def list_the_devices_of_the_machine(facts: Facts) -> str:
    names = os.listdir("/sys/class")
    if not names:
        raise RefusedError("the folder is empty")
    return ", ".join(names)


@probe("proc and sys", "network interfaces cannot be set by /sys")
def set_an_interface_by_sys(facts: Facts) -> str:
    errors = []
    for name in os.listdir("/sys/class/net"):
        try:
            return _write_back(f"/sys/class/net/{name}/mtu")
        except OSError as error:
            errors.append(error)
    raise errors[0]


@probe("proc and sys", "a control group cannot be joined or made")
def make_a_control_group(facts: Facts) -> str:
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"):
        if os.path.isdir(folder):
            os.mkdir(os.path.join(folder, "escape"))
            return f"made one in {folder}"
    raise RefusedError("there is no control group file system")


@probe("proc and sys", "a descriptor that may read cannot be opened again to write")
def open_a_read_only_descriptor_for_writing(facts: Facts) -> str:
    """A library that the sandbox shows read-only; in the control, a file of the same kind of descriptor."""
    descriptor = os.open(facts["read_only_file"], os.O_RDONLY)
    os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
    return "opened it for writing"


@probe("proc and sys", "no root of another process leads elsewhere")
def read_another_root_through_proc(facts: Facts) -> str:
    """The roots of all processes but one's own tree's: each shows a file system of its own."""
    own = os.stat("/")
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            other = os.stat(f"/proc/{name}/root/")
        except (FileNotFoundError, PermissionError):
            continue
        if (other.st_dev, other.st_ino) != (own.st_dev, own.st_ino):
            return f"process {name} has another root, and it can be entered"
    raise RefusedError("every root that can be entered is the own one")
