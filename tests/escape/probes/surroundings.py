"""What the control environment has so that each attempt can succeed there: the opposite of hardening.

It changes the place it runs in, so it wants a permit as a probe does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import pty
import resource
import signal
import socket
import struct
import termios

from .calls import check, libc
from .place import Permit
from .sockets import make_interface
from .table import Facts

_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS, _IFF_UP = 0x8916, 0x891C, 0x8914, 1


def prepare(permit: Permit) -> None:
    """What witnesses need before they are laid out."""
    _want(permit)
    _mount_what_can_be()
    _set_up_the_network()


def arrange(facts: Facts, permit: Permit) -> None:
    """Open what can be opened, and complete the facts by what stands for the sandbox's."""
    _want(permit)
    facts["relay_pid"] = facts["victims"]["relay"]
    facts["relays"] = facts["victims"]
    facts["library_folders"] = ["/etc"]
    facts["neighbour_token"] = facts["token"]
    facts["neighbour_files"] = ["/witness/read"]
    facts["read_only_file"] = "/witness/shown"
    _enter_another_root()
    _take_a_terminal()
    _leave_a_descriptor()
    os.chdir("/tmp")  # noqa: S108
    os.environ["HOME"] = "/root"
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)
    facts["fresh_mounts"] = True


def _want(permit: Permit) -> None:
    if not isinstance(permit, Permit):
        raise TypeError("surroundings change only with a permit")


def _mount_what_can_be() -> None:
    check(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))
    libc.mount(b"binfmt_misc", b"/proc/sys/fs/binfmt_misc", b"binfmt_misc", 0, None)  # namespaced since 6.7


def _set_up_the_network() -> None:
    """Loopback up, and an interface that leads nowhere, with an address for documentation (RFC 5737)."""
    with contextlib.suppress(OSError):  # a kernel that can make none; the controls that need it will say so
        make_interface("nowhere")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        names = [name for _, name in socket.if_nameindex()]
        if "nowhere" in names:
            _address(asker, b"nowhere", "192.0.2.1")
        for name in {"lo", "nowhere"} & set(names):
            fcntl.ioctl(asker, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), _IFF_UP))
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write("0 0")


def _address(asker: socket.socket, name: bytes, address: str) -> None:
    for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
        packed = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(value))
        fcntl.ioctl(asker, request, packed)


def _enter_another_root() -> None:
    """A process whose root is another, which the probes may find by /proc."""
    folder = pathlib.Path("/tmp/another-root")  # noqa: S108
    folder.mkdir()
    if os.fork() == 0:
        os.chroot(folder)
        while True:
            signal.pause()


def _take_a_terminal() -> None:
    _, slave = pty.openpty()
    if os.getsid(0) != os.getpid():
        os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def _leave_a_descriptor() -> None:
    """One of a file system that is mounted nowhere any more, as if somebody outside had left it open."""
    folder = "/tmp/left"  # noqa: S108
    os.mkdir(folder)
    check(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None))
    os.open(folder, os.O_RDONLY)
    check(libc.umount2(folder.encode(), 2))
