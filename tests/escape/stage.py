"""Builds the throwaway environment in which probes are shown able to succeed, and runs their program in it.

Run as a program of its own, by tests/escape/control.py. What it makes has fresh mount, PID, UTS, IPC,
network, cgroup and user namespaces over a scratch tree in memory, and ends with its first process. Inside,
the user 0 has every capability of those namespaces and no filter; outside it is nobody: root gives up
root for good first, and an ordinary user has no more than before.

What the tree shows of the host (/usr, the interpreter) is made read-only in a mount namespace that belongs to
more privilege than the probes get, so they cannot make it writable again (mount_namespaces(7), locked
mounts). Nothing of the host is writable in it.

    stage (root: real; else: a user namespace that maps only oneself), mounts made read-only
      `- builder: gives up root, unshares everything
           `- PID 1 of the environment: builds the tree, moves into it, reaps
                `- the probes' program
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import socket
import stat
import struct
import sys
from typing import Any, NoReturn

_NEW_NS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x20000, 0x0200_0000, 0x0400_0000, 0x0800_0000
_NEW_USER, _NEW_PID, _NEW_NET = 0x1000_0000, 0x2000_0000, 0x4000_0000
_EVERYTHING = _NEW_NS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_USER | _NEW_PID | _NEW_NET
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1

#: Two identities that nobody has, for the users 0 and 1000 of the environment.
_NOBODY = 1_912_345_000

#: Where the stage is set up, in a mount namespace of its own.
_STAGE = "/tmp"  # noqa: S108
_ROOT = _STAGE + "/root"

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ORDINARY_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: To be opened and closed; none of them is a disk that anything is on.
_OTHER_DEVICES = ("kmsg", "net/tun", "fuse", "kvm", "vsock", "loop7", "console")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _unshare(flags: int) -> None:
    """Raises unless every namespace asked for is another than before."""
    kinds = {_NEW_NS: "mnt", _NEW_NET: "net", _NEW_UTS: "uts", _NEW_IPC: "ipc", _NEW_USER: "user"}
    before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds.values()}
    _check(_libc.unshare(flags), "unshare")
    for flag, kind in kinds.items():
        if flags & flag and os.readlink(f"/proc/self/ns/{kind}") == before[kind]:
            raise RuntimeError(f"the {kind} namespace is still the old one")


def _mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options and options.encode()), f"mounting {target}")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount(source, target, None, _MS_BIND | _MS_REC)


def _make_read_only(target: str) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0), 32)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        _AT_FDCWD,
        target.encode(),
        _AT_RECURSIVE,
        attributes,
        ctypes.c_size_t(32),
    )
    _check(result, f"making {target} read-only")


def _map(pid: int | str, users: str, groups: str, *, set_groups: bool) -> None:
    if not set_groups:
        with open(f"/proc/{pid}/setgroups", "w") as file:
            file.write("deny")
    for name, lines in (("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(lines)


def set_the_stage(interpreter_prefix: str) -> None:
    """A mount namespace, and in it a folder with what the environment will show of the host, read-only."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _unshare(_NEW_NS)
    else:
        _unshare(_NEW_USER | _NEW_NS)
        _map("self", f"{uid} {uid} 1", f"{gid} {gid} 1", set_groups=False)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    prefix = os.open(interpreter_prefix, os.O_PATH)
    _mount("tmpfs", _STAGE, "tmpfs", 0, "mode=755")
    for name in _SYSTEM:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{_STAGE}/{name}")
        elif os.path.isdir(f"/{name}"):
            _bind(f"/{name}", f"{_STAGE}/{name}")
            _make_read_only(f"{_STAGE}/{name}")
    _bind(f"/proc/self/fd/{prefix}", f"{_STAGE}/interpreter")
    _make_read_only(f"{_STAGE}/interpreter")
    os.mkdir(_ROOT)
    os.mkdir(f"{_STAGE}/dev")
    for name in _OTHER_DEVICES:
        _show_device(name)


def _show_device(name: str) -> None:
    """Under the stage: as root a node that everyone may open; else the host's own, if it lets one."""
    source, target = f"/dev/{name}", f"{_STAGE}/dev/{name}"
    if not os.path.exists(source) or _is_used(name):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.getuid() == 0:
        status = os.stat(source)
        os.mknod(target, stat.S_IFMT(status.st_mode) | 0o666, status.st_rdev)
        os.chmod(target, 0o666)  # noqa: S103
    elif os.access(source, os.R_OK):
        _bind(source, target)


def _is_used(name: str) -> bool:
    """Whether there is something on a disk."""
    size = f"/sys/block/{name}/size"
    if not os.path.exists(size):
        return False
    with open(size) as file:
        return int(file.read()) > 0


def build_the_tree(facts: dict[str, Any], program: bytes, interpreter_prefix: str) -> None:
    """In the environment's namespaces: the scratch tree, which then is all there is."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", 0, "mode=755")
    for folder in ("proc", "sys", "etc", "root", "home", "opt", "run", "var", "dev/pts"):
        os.makedirs(f"{_ROOT}/{folder}")
    for folder in ("tmp", "var/tmp", "dev/shm"):
        os.makedirs(f"{_ROOT}/{folder}")
        os.chmod(f"{_ROOT}/{folder}", 0o1777)  # noqa: S103
    for name in _SYSTEM:
        if os.path.islink(f"{_STAGE}/{name}"):
            os.symlink(os.readlink(f"{_STAGE}/{name}"), f"{_ROOT}/{name}")
        elif os.path.isdir(f"{_STAGE}/{name}"):
            _bind(f"{_STAGE}/{name}", f"{_ROOT}/{name}")
    if not interpreter_prefix.startswith("/usr"):
        _bind(f"{_STAGE}/interpreter", _ROOT + interpreter_prefix)
    _mount("proc", f"{_ROOT}/proc", "proc")
    _mount("/sys", f"{_ROOT}/sys", None, _MS_BIND | _MS_REC)
    for name in _ORDINARY_DEVICES:
        _bind(f"/dev/{name}", f"{_ROOT}/dev/{name}")
    for folder, _, names in os.walk(f"{_STAGE}/dev"):
        for name in names:
            path = os.path.join(folder, name)
            _bind(path, _ROOT + path.removeprefix(_STAGE))
    _mount("devpts", f"{_ROOT}/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", f"{_ROOT}/dev/ptmx")
    os.symlink("/proc/self/fd", f"{_ROOT}/dev/fd")
    with open(f"{_ROOT}/etc/passwd", "w") as file:
        file.write("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    with open(f"{_ROOT}/program.pyz", "wb") as binary:
        binary.write(program)
    with open(f"{_ROOT}/facts.json", "w") as file:
        file.write(json.dumps(facts) + "\n")
    os.chdir(_ROOT)
    pivot_root = ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine])
    _check(_libc.syscall(pivot_root, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "leaving the stage")
    os.chdir("/")
    socket.sethostname("control")


def leave_the_session() -> None:
    """Take a new session keyring, where there are keys: it is inherited, and no namespace divides it."""
    _libc.syscall(ctypes.c_long(_SYS_KEYCTL[os.uname().machine]), _KEYCTL_JOIN_SESSION_KEYRING, None)


def be_the_builder(ask: int, start: int, request: dict[str, Any]) -> NoReturn:
    """Give up root, unshare, wait for the map, become the user 0 of the environment, start its PID 1."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    root = os.getuid() == 0
    uid, gid = os.getuid(), os.getgid()
    if root:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    leave_the_session()
    _unshare(_EVERYTHING)
    if root:
        os.write(ask, b"map\n")
        os.read(start, 1)
    else:
        _map("self", f"0 {uid} 1", f"0 {gid} 1", set_groups=False)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    child = os.fork()
    if child == 0:
        be_process_1(request)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def be_process_1(request: dict[str, Any]) -> NoReturn:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    build_the_tree(request["facts"], base64.b64decode(request["program"]), request["interpreter_prefix"])
    child = os.fork()
    if child == 0:
        os.dup2(os.open("/facts.json", os.O_RDONLY), 0)
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        python = request["interpreter"]
        os.execve(python, [python, "-I", "-S", "/program.pyz", "control"], environment)  # noqa: S606
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main() -> int:
    request = json.loads(sys.stdin.readline())
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    set_the_stage(request["interpreter_prefix"])
    asked, ask = os.pipe()
    start, let_start = os.pipe()
    builder = os.fork()
    if builder == 0:
        be_the_builder(ask, start, request)
    os.close(ask)
    if os.getuid() == 0 and os.read(asked, 4):
        lines = f"0 {_NOBODY} 1\n1000 {_NOBODY + 1} 1\n"
        _map(builder, lines, lines, set_groups=True)
        os.write(let_start, b"x")
    _, status = os.waitpid(builder, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
