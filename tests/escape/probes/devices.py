"""Devices and terminals. No attempt reads or writes a device: to have it open is to have succeeded."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pathlib
import pty
import stat
import termios

from .calls import AT_FDCWD, check, libc, raw
from .table import Facts, RefusedError, preparing, probe

_MS_REMOUNT, _MS_BIND = 32, 4096
_TIOCSETD, _TIOCSTI, _N_TTY = 0x5423, 0x5412, 0

#: What a program may expect in /dev (the OCI runtime specification's default devices), by number.
_ORDINARY = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}


def _open(*paths: str) -> str:
    errors = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError as error:
            errors.append(error)
        else:
            return f"opened {path}"
    raise errors[0]


def _make(facts: Facts, mode: int, major: int, minor: int) -> str:
    name = f"device-{os.getpid()}"
    raw(facts, "mknodat", AT_FDCWD, name.encode(), mode | 0o666, os.makedev(major, minor))
    return f"made the device {major}:{minor}"


@probe("devices", "no device file can be made, not even the one that the kernel lets everyone make")
def make_a_character_device(facts: Facts) -> str:
    """0:0, which overlay file systems use for a removed file, needs no capability (Linux 5.8)."""
    return _make(facts, stat.S_IFCHR, 0, 0)


@probe("devices", "nor one of a disk")
def make_a_block_device(facts: Facts) -> str:
    return _make(facts, stat.S_IFBLK, 7, 7)


@probe("devices", "nor one of the machine's memory")
def make_a_memory_device(facts: Facts) -> str:
    return _make(facts, stat.S_IFCHR, 1, 1)


@probe("devices", "a file system of devices cannot be mounted")
def mount_a_file_system_of_devices(facts: Facts) -> str:
    with preparing("a folder"):
        os.makedirs(f"dev-{os.getpid()}")
    check(libc.mount(b"devtmpfs", f"dev-{os.getpid()}".encode(), b"devtmpfs", 0, None))
    return "mounted it"


@probe("devices", "nor one of terminals")
def mount_a_file_system_of_terminals(facts: Facts) -> str:
    with preparing("a folder"):
        os.makedirs(f"pts-{os.getpid()}")
    check(libc.mount(b"devpts", f"pts-{os.getpid()}".encode(), b"devpts", 0, b"newinstance"))
    return "mounted it"


@probe("devices", "the modes of the terminals cannot be changed")
def remount_the_file_system_of_terminals(facts: Facts) -> str:
    check(libc.mount(b"devpts", b"/dev/pts", None, _MS_REMOUNT, b"mode=666"))
    return "remounted it"


@probe("devices", "/dev takes no file")
def make_a_file_in_dev(facts: Facts) -> str:
    pathlib.Path(f"/dev/escape-{os.getpid()}").touch()
    return "made a file"


@probe("devices", "what is in /dev cannot be replaced")
def replace_a_name_in_dev(facts: Facts) -> str:
    os.unlink("/dev/fd")
    os.symlink("/proc/self/fd", "/dev/fd")
    return "replaced /dev/fd"


@probe("devices", "a device cannot be covered by a file")
def cover_a_device(facts: Facts) -> str:
    cover = f"cover-{os.getpid()}"
    with preparing("a file"):
        pathlib.Path(cover).touch()
    check(libc.mount(cover.encode(), b"/dev/full", None, _MS_BIND, None))
    return "covered /dev/full"


@probe("devices", "no device but the ordinary ones is there")
def find_another_device(facts: Facts) -> str:
    for folder, _, names in os.walk("/dev"):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            number = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if stat.S_ISBLK(status.st_mode) or (
                stat.S_ISCHR(status.st_mode) and number not in _ORDINARY and not 136 <= number[0] <= 143
            ):
                return f"{folder}/{name} is the device {number}"
    raise RefusedError("there are only the ordinary devices")


@probe("devices", "there is no controlling terminal to take over")
def open_the_controlling_terminal(facts: Facts) -> str:
    return _open("/dev/tty")


@probe("devices", "nor a terminal of the host")
def open_a_terminal_of_the_host(facts: Facts) -> str:
    descriptor = os.open(facts["terminal"], os.O_RDWR | os.O_NOCTTY)
    os.write(descriptor, b"typed by the sandbox")
    return "wrote to it"


@probe("devices", "nothing can be typed into a terminal, not even an own one")
def type_into_a_terminal(facts: Facts) -> str:
    with preparing("a terminal"):
        _, slave = pty.openpty()
        os.setsid() if os.getpid() != os.getpgid(0) else None
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        try:
            fcntl.ioctl(slave, _TIOCSTI, b"x")
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return "typed a letter"


@probe("devices", "a terminal cannot be given another line discipline, which loads kernel code")
def change_the_line_discipline(facts: Facts) -> str:
    """To the one that it has: another might make the host load a module."""
    with preparing("a terminal"):
        _, slave = pty.openpty()
    fcntl.ioctl(slave, _TIOCSETD, ctypes.c_int(_N_TTY))
    return "set it"


@probe("devices", "the console cannot be opened")
def open_the_console(facts: Facts) -> str:
    return _open("/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0")


@probe("devices", "the kernel's log cannot be opened")
def open_the_log_of_the_kernel(facts: Facts) -> str:
    descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    os.close(descriptor)
    return "opened it"


@probe("devices", "the machine's memory cannot be opened")
def open_the_memory_of_the_machine(facts: Facts) -> str:
    return _open("/dev/mem", "/dev/port", "/dev/kmem")


@probe("devices", "no disk can be opened")
def open_a_disk(facts: Facts) -> str:
    return _open(*(f"/dev/{name}" for name in ("loop7", "vda", "sda", "nvme0n1", "xvda", "zram0", "dm-0")))


@probe("devices", "no network device can be made")
def open_the_maker_of_network_devices(facts: Facts) -> str:
    return _open("/dev/net/tun")


@probe("devices", "no file system can be served")
def open_the_maker_of_file_systems(facts: Facts) -> str:
    return _open("/dev/fuse")


@probe("devices", "no machine can be made")
def open_the_maker_of_machines(facts: Facts) -> str:
    return _open("/dev/kvm")


@probe("devices", "the way to the hypervisor cannot be opened")
def open_the_way_to_the_hypervisor(facts: Facts) -> str:
    return _open("/dev/vsock")
