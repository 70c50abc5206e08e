"""Set-uid programs, capabilities and identities: to become somebody, or to be allowed something."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import stat
import struct
import subprocess
import sys

from .calls import check, libc, raw
from .table import Facts, RefusedError, preparing, probe

_PR_GET_NO_NEW_PRIVS, _PR_SET_SECUREBITS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 39, 28, 24, 47
_AMBIENT_RAISE, _CAP_CHOWN, _CAP_NET_RAW = 2, 0, 13
_NO_SETUID_FIXUP = 4
_CAPABILITY_VERSION_3 = 0x2008_0522


def _capabilities(facts: Facts, effective: int, permitted: int, inheritable: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    low, high = [], []
    for value in (effective, permitted, inheritable):
        low.append(value & 0xFFFF_FFFF)
        high.append(value >> 32)
    raw(facts, "capset", header, ctypes.create_string_buffer(struct.pack("6I", *low, *high), 24))


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1], 16) for line in lines if line.startswith(name + ":"))


def _print_by(program: str, what: str) -> str:
    """What a new program finds in /proc/self/status; it has what the old one could pass on."""
    show = f"print([l.split()[1] for l in open('/proc/self/status') if l.startswith('{what}')][0])"
    return subprocess.run(
        [program, "-I", "-S", "-c", show], capture_output=True, text=True, check=True
    ).stdout.strip()


@probe("privileges", "there are no capabilities")
def use_capabilities(facts: Facts) -> str:
    effective = _status("CapEff")
    if not effective:
        raise RefusedError("CapEff is 0")
    return f"CapEff is {effective:x}"


@probe("privileges", "nor any in the bounding set, from which set-uid programs take theirs")
def find_capabilities_in_the_bounding_set(facts: Facts) -> str:
    bounding = _status("CapBnd")
    if not bounding:
        raise RefusedError("CapBnd is 0")
    return f"CapBnd is {bounding:x}"


@probe("privileges", "capabilities cannot be taken")
def take_capabilities(facts: Facts) -> str:
    _capabilities(facts, 1 << _CAP_NET_RAW, 1 << _CAP_NET_RAW, 1 << _CAP_NET_RAW)
    return "took one"


@probe("privileges", "nor passed on to programs that have none")
def pass_capabilities_on(facts: Facts) -> str:
    _capabilities(facts, 1 << _CAP_NET_RAW, 1 << _CAP_NET_RAW, 1 << _CAP_NET_RAW)
    check(libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, _CAP_NET_RAW, 0, 0))
    return "raised one"


@probe("privileges", "programs cannot gain privileges (no_new_privs)")
def find_new_privileges_allowed(facts: Facts) -> str:
    if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0):
        raise RefusedError("no_new_privs is set")
    return "no_new_privs is not set"


@probe("privileges", "a program started by the user 0 of the sandbox gains nothing")
def gain_capabilities_by_a_program(facts: Facts) -> str:
    os.setresuid(0, 0, 0)
    _capabilities(facts, 0, 0, 0)
    gained = _print_by(sys.executable, "CapEff")
    if not int(gained, 16):
        raise RefusedError("the program had none")
    return f"it had {gained}"


@probe("privileges", "a set-uid program of the system keeps the user")
def find_a_set_uid_program(facts: Facts) -> str:
    """One that can be run, on a mount that honours the bit, by a process that may gain by it."""
    if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0):
        raise RefusedError("no_new_privs is set")
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib/openssh", "/usr/lib/dbus-1.0"):
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            marked = entry.stat(follow_symlinks=False).st_mode & (stat.S_ISUID | stat.S_ISGID)
            if marked and not os.statvfs(entry.path).f_flag & os.ST_NOSUID:
                return f"{entry.path} is honoured"
    raise RefusedError("none is honoured")


@probe("privileges", "nor does a set-uid program of one's own make another user")
def become_another_by_a_set_uid_program(facts: Facts) -> str:
    """Two users are needed: made by the first, run by the second, which then finds itself the first."""
    program = os.path.abspath(f"set-uid-{os.getpid()}")
    with preparing("the program"):
        shutil.copy(os.path.realpath("/usr/bin/id"), program)
        os.chmod(program, 0o4755)  # noqa: S103
    owner = os.stat(program).st_uid
    if owner != 1000:
        os.setresuid(1000, 1000, 1000)
    told = subprocess.run([program, "-u"], capture_output=True, text=True, check=True).stdout.strip()
    if int(told) == os.getuid():
        raise RefusedError(f"the program was run by {told}")
    return f"the user {os.getuid()} ran it as {told}"


@probe("privileges", "a program cannot be given capabilities in its file")
def give_capabilities_to_a_program(facts: Facts) -> str:
    """security.capability as of linux/capability.h, revision 2: effective, one permitted."""
    program = f"capable-{os.getpid()}"
    with preparing("the program"):
        shutil.copy(os.path.realpath("/usr/bin/env"), program)
    value = struct.pack("<5I", 0x0200_0001, 1 << _CAP_NET_RAW, 0, 0, 0)
    os.setxattr(program, "security.capability", value)
    return "gave it one"


@probe("privileges", "the user 0 cannot be had")
def become_user_0(facts: Facts) -> str:
    os.setresuid(0, 0, 0)
    return f"is {os.getuid()}"


@probe("privileges", "nor the group 0")
def become_group_0(facts: Facts) -> str:
    os.setresgid(0, 0, 0)
    return f"is {os.getgid()}"


@probe("privileges", "nor the file system's idea of them")
def become_user_0_for_files(facts: Facts) -> str:
    check(libc.setfsuid(0))
    if libc.setfsuid(-1) != 0:
        raise RefusedError("it is the same user as before")
    return "is 0"


@probe("privileges", "nor further groups")
def join_groups(facts: Facts) -> str:
    os.setgroups([0])
    return f"is in {os.getgroups()}"


@probe("privileges", "the rules of capabilities cannot be changed")
def change_the_rules_of_capabilities(facts: Facts) -> str:
    check(libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0))
    return "changed them"


@probe("privileges", "nor the bounding set")
def change_the_bounding_set(facts: Facts) -> str:
    check(libc.prctl(_PR_CAPBSET_DROP, _CAP_CHOWN, 0, 0, 0))
    return "changed it"


@probe("privileges", "the mode of a file holds for its owner too")
def read_a_file_that_its_mode_closes(facts: Facts) -> str:
    name = f"closed-{os.getpid()}"
    with preparing("a file"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o000))
    os.close(os.open(name, os.O_RDONLY))
    return "opened it"


@probe("privileges", "files cannot be given away")
def give_a_file_away(facts: Facts) -> str:
    name = f"given-{os.getpid()}"
    with preparing("a file"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.chown(name, 1000 if os.getuid() != 1000 else 0, -1)
    return "gave it away"


@probe("privileges", "a process cannot put itself before others in real time")
def run_in_real_time(facts: Facts) -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "runs in real time"


@probe("privileges", "limits cannot be raised again")
def raise_a_limit(facts: Facts) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    except ValueError as error:  # what Python makes of EPERM here
        raise RefusedError(str(error)) from error
    return f"raised one above {hard}"
