"""Namespaces and mounts: to leave the own ones, to make new ones, to change what is mounted."""

from __future__ import annotations

import ctypes
import os
import pathlib
import socket
import struct

from .calls import AT_FDCWD, check, libc, raw
from .table import Facts, RefusedError, preparing, probe

CLONE_NEW = {
    "time": 0x80,
    "mnt": 0x20000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_SIGCHLD = 17
_OPEN_TREE_CLONE, _AT_RECURSIVE = 1, 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_FSCONFIG_CMD_CREATE = 6
_MOUNT_ATTR_RDONLY = 1


def _folder(name: str) -> bytes:
    with preparing("a folder"):
        path = os.path.abspath(f"{name}-{os.getpid()}")
        os.makedirs(path)
    return path.encode()


def _unshare(facts: Facts, kind: str) -> str:
    raw(facts, "unshare", CLONE_NEW[kind])
    return f"has a {kind} namespace of its own"


@probe("namespaces and mounts", "no user namespace, which gives all capabilities in it")
def unshare_the_user_namespace(facts: Facts) -> str:
    return _unshare(facts, "user")


@probe("namespaces and mounts", "no mount namespace")
def unshare_the_mount_namespace(facts: Facts) -> str:
    return _unshare(facts, "mnt")


@probe("namespaces and mounts", "no network namespace")
def unshare_the_network_namespace(facts: Facts) -> str:
    return _unshare(facts, "net")


@probe("namespaces and mounts", "no PID namespace")
def unshare_the_process_namespace(facts: Facts) -> str:
    return _unshare(facts, "pid")


@probe("namespaces and mounts", "no IPC namespace")
def unshare_the_ipc_namespace(facts: Facts) -> str:
    return _unshare(facts, "ipc")


@probe("namespaces and mounts", "no UTS namespace")
def unshare_the_uts_namespace(facts: Facts) -> str:
    return _unshare(facts, "uts")


@probe("namespaces and mounts", "no cgroup namespace")
def unshare_the_cgroup_namespace(facts: Facts) -> str:
    return _unshare(facts, "cgroup")


@probe("namespaces and mounts", "no time namespace")
def unshare_the_time_namespace(facts: Facts) -> str:
    return _unshare(facts, "time")


@probe("namespaces and mounts", "no process in a new user namespace (clone)")
def clone_into_a_user_namespace(facts: Facts) -> str:
    child = raw(facts, "clone", CLONE_NEW["user"] | _SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "made one"


@probe("namespaces and mounts", "nor by the newer call, whose flags a filter cannot see (clone3)")
def clone3_into_a_user_namespace(facts: Facts) -> str:
    arguments = ctypes.create_string_buffer(struct.pack("8Q", CLONE_NEW["user"], 0, 0, 0, _SIGCHLD, 0, 0, 0))
    child = raw(facts, "clone3", arguments, 64)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "made one"


@probe("namespaces and mounts", "a namespace cannot be entered by its file, not even the own one")
def enter_a_namespace_by_its_file(facts: Facts) -> str:
    with preparing("the own namespace"):
        descriptor = os.open("/proc/self/ns/uts", os.O_RDONLY)
    raw(facts, "setns", descriptor, 0)
    return "entered it"


@probe("namespaces and mounts", "nor by a process that is in it")
def enter_namespaces_by_a_process(facts: Facts) -> str:
    with preparing("a descriptor of itself"):
        descriptor = os.pidfd_open(os.getpid())
    raw(facts, "setns", descriptor, CLONE_NEW["uts"])
    return "entered it"


@probe("namespaces and mounts", "the namespaces of the relay cannot be had, from which setns starts")
def open_the_namespaces_of_the_relay(facts: Facts) -> str:
    descriptor = os.open(f"/proc/{facts['relay_pid']}/ns/mnt", os.O_RDONLY)
    return f"opened {os.readlink(f'/proc/self/fd/{descriptor}')}"


@probe("namespaces and mounts", "no file system can be mounted")
def mount_a_file_system(facts: Facts) -> str:
    check(libc.mount(b"tmpfs", _folder("tmpfs"), b"tmpfs", 0, None))
    return "mounted a tmpfs"


@probe("namespaces and mounts", "nor processes be shown anew, without what hides some of them")
def mount_proc_again(facts: Facts) -> str:
    check(libc.mount(b"proc", _folder("proc"), b"proc", 0, None))
    return "mounted proc"


@probe("namespaces and mounts", "nor a folder be shown in another place")
def bind_a_folder(facts: Facts) -> str:
    check(libc.mount(b"/usr", _folder("bind"), None, _MS_BIND | _MS_REC, None))
    return "bound /usr"


@probe("namespaces and mounts", "nor two folders be laid over each other")
def mount_an_overlay(facts: Facts) -> str:
    options = f"lowerdir={_folder('low').decode()}:{_folder('lower').decode()}"
    check(libc.mount(b"overlay", _folder("overlay"), b"overlay", 0, options.encode()))
    return "mounted an overlay"


@probe("namespaces and mounts", "what is read-only cannot be made writable")
def make_the_root_writable(facts: Facts) -> str:
    check(libc.mount(None, b"/", None, _MS_REMOUNT | _MS_BIND, None))
    path = pathlib.Path(f"/escape-{os.getpid()}")
    path.touch()
    return f"made {path}"


@probe("namespaces and mounts", "nor by the newer call")
def change_mount_attributes(facts: Facts) -> str:
    attributes = ctypes.create_string_buffer(struct.pack("4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0), 32)
    raw(facts, "mount_setattr", AT_FDCWD, b"/proc", 0, attributes, 32)
    return "made /proc read-only"


@probe("namespaces and mounts", "a cover cannot be taken off")
def unmount_a_cover(facts: Facts) -> str:
    """Unmounting lazily never fails for being busy; what lies below would come to light."""
    check(libc.umount2(b"/dev/pts", _MNT_DETACH))
    return "unmounted /dev/pts"


@probe("namespaces and mounts", "mounts cannot be made to reach others")
def change_mount_propagation(facts: Facts) -> str:
    check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    return "changed it"


@probe("namespaces and mounts", "a copy of the tree cannot be had as a descriptor")
def copy_the_tree_of_mounts(facts: Facts) -> str:
    raw(facts, "open_tree", AT_FDCWD, b"/usr", _OPEN_TREE_CLONE | _AT_RECURSIVE)
    return "got a copy"


@probe("namespaces and mounts", "nor a new file system")
def make_a_file_system_by_steps(facts: Facts) -> str:
    context = raw(facts, "fsopen", b"tmpfs", 0)
    raw(facts, "fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
    mount = raw(facts, "fsmount", context, 0, 0)
    raw(facts, "move_mount", mount, b"", AT_FDCWD, _folder("steps"), _MOVE_MOUNT_F_EMPTY_PATH)
    return "mounted a tmpfs"


@probe("namespaces and mounts", "nor the settings of a mounted one")
def pick_a_mounted_file_system(facts: Facts) -> str:
    raw(facts, "fspick", AT_FDCWD, b"/dev/pts", 0)
    return "picked /dev/pts"


@probe("namespaces and mounts", "the root folder cannot be exchanged")
def exchange_the_root(facts: Facts) -> str:
    """With one folder as both arguments the new root is stacked on the old one (pivot_root(2))."""
    raw(facts, "unshare", CLONE_NEW["mnt"])
    root = _folder("root")
    check(libc.mount(b"tmpfs", root, b"tmpfs", 0, None))
    os.chdir(root)
    raw(facts, "pivot_root", b".", b".")
    return "exchanged it"


@probe("namespaces and mounts", "nor be moved by chroot, from which one climbs out")
def change_the_root_and_climb_out(facts: Facts) -> str:
    here = os.open(".", os.O_RDONLY)
    os.chroot(_folder("chroot"))
    os.fchdir(here)
    return f"stands outside its root, beside {len(os.listdir('..'))} names"


@probe("namespaces and mounts", "the host cannot be renamed")
def rename_the_host(facts: Facts) -> str:
    name = socket.gethostname()
    socket.sethostname("escape")
    seen = socket.gethostname()
    socket.sethostname(name)
    return f"was called {seen}"


@probe("namespaces and mounts", "nor its domain")
def rename_the_domain(facts: Facts) -> str:
    raw(facts, "setdomainname", b"escape", 6)
    return "renamed it"


@probe("namespaces and mounts", "the identities of a new user namespace cannot be chosen")
def map_identities(facts: Facts) -> str:
    uid = os.getuid()
    raw(facts, "unshare", CLONE_NEW["user"])
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {uid} 1")
    return f"is {os.getuid()}"


@probe("namespaces and mounts", "mounts cannot be listed past what is shown")
def list_mounts_by_number(facts: Facts) -> str:
    request = ctypes.create_string_buffer(struct.pack("IIQQQ", 24, 0, 2**64 - 1, 0, 0), 32)  # LSMT_ROOT
    found = ctypes.create_string_buffer(8 * 64)
    count = raw(facts, "listmount", request, found, 64, 0)
    if not count:
        raise RefusedError("none")
    return f"listed {count} mounts"
