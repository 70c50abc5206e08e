"""The system call filter of a sandbox, in the form that seccomp(2) and `bwrap --seccomp FD` take.

Theory: an allow-list of what a kernel process needs, so that what Linux grows later stays outside. It is
narrower than the default profile of the container runtimes (containers-common) in every rule; a test
holds it against the profile that is installed. What the list does not name is answered in one of
three ways:

- a call of another architecture (32-bit entry points included) kills the process: its numbers mean
  something else, and no honest program of a 64-bit sandbox makes one;
- a call that this table knows gets EPERM, which programs report in words;
- a call that it does not know, or that programs replace when a kernel lacks it (`ABSENT`), gets ENOSYS.
  The x32 calls are among the unknown: their numbers start at 2**30.

The program is classic BPF and is assembled here. It runs over `struct seccomp_data` (linux/seccomp.h),
can only jump forward, and returns a verdict. A *block* is a list of instructions that always
ends in a return, so blocks nest without labels: what is not taken is simply jumped over.

Only the low 32 bits of an argument are compared. That is exact for the arguments below: the kernel
itself takes them as 32-bit values, and drops the upper half.
"""

from __future__ import annotations

import errno
import socket
import stat
import struct
from collections.abc import Collection, Mapping, Sequence

from .syscalls import NEWEST, NUMBERS

Instruction = tuple[int, int, int, int]
Block = list[Instruction]

#: `struct sock_filter` of linux/filter.h: code, jump if true, jump if false, operand.
INSTRUCTION = struct.Struct("=HBBI")

#: AUDIT_ARCH_* of linux/audit.h: the ELF machine, marked as 64-bit and little-endian.
AUDIT_ARCHES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45
_LONGEST_JUMP = 255

#: Offsets in `struct seccomp_data`; the low half of an argument comes first (little-endian).
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

KILL_PROCESS, ERRNO, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000

#: What a kernel and the programs it starts use. Rules on arguments (`_rules`) narrow some of them.
_ALLOWED_FOR = {
    "files": """
        read write open openat openat2 creat close close_range stat fstat lstat newfstatat statx lseek
        pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 access faccessat faccessat2 pipe pipe2
        dup dup2 dup3 fcntl flock fsync fdatasync sync_file_range truncate ftruncate fallocate fadvise64
        readahead getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir
        link linkat unlink unlinkat symlink symlinkat readlink readlinkat chmod fchmod fchmodat chown fchown
        fchownat lchown umask utime utimes futimesat utimensat statfs fstatfs sendfile copy_file_range splice
        tee getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
        removexattr lremovexattr fremovexattr mknod mknodat ioctl
    """,
    "waiting and events": """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4
    """,
    "memory": """
        mmap mprotect munmap brk mremap msync mincore madvise mlock mlock2 munlock mlockall munlockall
        membarrier pkey_alloc pkey_free pkey_mprotect get_mempolicy set_mempolicy mbind memfd_create
        shmget shmat shmctl shmdt semget semop semctl semtimedop
    """,
    "time": """
        gettimeofday time times clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer
        timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
        timerfd_settime
    """,
    "processes and threads": """
        fork vfork clone execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid setpgid
        getpgrp getsid setsid pidfd_open pidfd_send_signal prctl arch_prctl set_tid_address set_robust_list
        get_robust_list futex rseq getcpu getrusage getrlimit setrlimit prlimit64 getpriority setpriority
        ioprio_get ioprio_set sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr
        sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval uname sysinfo getrandom restart_syscall
    """,
    # The sandbox has one user and no capability, so these can only repeat what it has.
    "identity": """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
        setresgid setfsuid setfsgid capget
    """,
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_tgsigqueueinfo sigaltstack kill tkill tgkill pause
    """,
    "sockets": """
        socket socketpair connect accept accept4 bind listen shutdown getsockname getpeername getsockopt
        setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
    """,
}
ALLOWED = frozenset(name for names in _ALLOWED_FOR.values() for name in names.split())

#: Memory that RLIMIT_DATA does not count, because it belongs to no process. Where no cgroup counts it,
#: it would be a way around the memory limit. (`_shared_memory` is another.)
UNACCOUNTED_MEMORY = frozenset(
    {"memfd_create", "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop"}
)

#: Refused as a kernel would that lacks them, because programs then use another way: the C library
#: makes threads with `clone` (whose flags a filter can read; those of `clone3` lie in memory), and
#: event loops do without io_uring.
ABSENT = frozenset(
    {
        "clone3",
        "futex_waitv",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "memfd_secret",
        "process_madvise",
    }
)

#: CLONE_NEW* of linux/sched.h that fit into `clone`: NS CGROUP UTS IPC USER PID NET. (CLONE_NEWTIME
#: shares its bit with the exit signal and exists for `unshare` and `clone3` only.)
_CLONE_NEW = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000

#: Terminal requests that put input into, or take over, a terminal that others read from
#: (asm-generic/ioctls.h): TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD.
_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x541D, 0x5423)

_PR_SET_SECCOMP = 22

#: mmap(2): MAP_SHARED is a bit of the type (MAP_SHARED_VALIDATE has it too), MAP_ANONYMOUS a flag.
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20

#: fcntl commands that tell of, or hold up, what others do with a file: F_SETLEASE, F_NOTIFY
#: (linux/fcntl.h). With inotify, which is left out for the same reason, a sandbox could watch on the
#: libraries that it shares what its neighbours and the host open.
_OBSERVING_COMMANDS = (1024, 1026)

_NETLINK_ROUTE = 0
_SOCK_TYPE_MASK = 0xF
_FILE_TYPE_MASK = 0o170000


class UnsupportedArchitectureError(Exception):
    """There is no filter for this machine's architecture, so no sandbox may start on it."""


def build_filter(machine: str, *, deny_unaccounted_memory: bool) -> bytes:
    """The filter for `machine` (as `uname -m` names it) as an array of `struct sock_filter`.

    `deny_unaccounted_memory` refuses memory files, System V memory and shared memory without a file too; it
    is for sandboxes whose memory no cgroup limits. Raises `UnsupportedArchitectureError`.
    """
    if machine not in AUDIT_ARCHES:
        known = ", ".join(sorted(AUDIT_ARCHES))
        raise UnsupportedArchitectureError(
            f"There is no system call filter for the architecture {machine!r}, so no sandbox can start here; "
            f"run the gateway on one of: {known}."
        )
    allowed, rules = ALLOWED, _rules()
    if deny_unaccounted_memory:
        allowed, rules = ALLOWED - UNACCOUNTED_MEMORY, rules | _shared_memory()
    program = _load(_ARCH) + _unless(
        _EQUAL,
        AUDIT_ARCHES[machine],
        _give(KILL_PROCESS),
        _load(_NUMBER) + _dispatch(_ranges(NUMBERS[machine], allowed, rules)),
    )
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in program)


def _rules() -> dict[str, Block]:
    """The allowed calls whose arguments are judged."""
    allow, refuse, no_family = _give(ALLOW), _refuse(errno.EPERM), _refuse(errno.EAFNOSUPPORT)
    unix, internet = (socket.AF_UNIX,), (socket.AF_INET, socket.AF_INET6)
    tcp_or_udp = (
        _argument(1)
        + _mask(_SOCK_TYPE_MASK)
        + _one_of(
            (socket.SOCK_STREAM, socket.SOCK_DGRAM),
            _argument(2) + _one_of((0, socket.IPPROTO_TCP, socket.IPPROTO_UDP), allow, refuse),
            refuse,
        )
    )
    # ZeroMQ asks the routing family for the interfaces before it binds to any TCP address, and aborts
    # without an answer. The other families of netlink are not for users.
    netlink = _when(
        _EQUAL,
        socket.AF_NETLINK,
        _argument(2) + _one_of((_NETLINK_ROUTE,), allow, no_family),
        no_family,
    )
    pipe_only = _mask(_FILE_TYPE_MASK) + _one_of((stat.S_IFIFO,), allow, refuse)
    return {
        "socket": _argument(0) + _one_of(unix, allow, _one_of(internet, tcp_or_udp, netlink)),
        "socketpair": _argument(0) + _one_of(unix, allow, no_family),
        "clone": _argument(0) + _when(_ANY_BIT, _CLONE_NEW, refuse, allow),
        "mknod": _argument(1) + pipe_only,
        "mknodat": _argument(2) + pipe_only,
        "ioctl": _argument(1) + _one_of(_TERMINAL_REQUESTS, refuse, allow),
        "fcntl": _argument(1) + _one_of(_OBSERVING_COMMANDS, refuse, allow),
        "prctl": _argument(0) + _one_of((_PR_SET_SECCOMP,), refuse, allow),
    }


def _shared_memory() -> dict[str, Block]:
    """Shared memory without a file is a memory file in all but name, and no rlimit on data counts it."""
    shared = _when(_ANY_BIT, _MAP_SHARED, _refuse(errno.EPERM), _give(ALLOW))
    return {"mmap": _argument(3) + _when(_ANY_BIT, _MAP_ANONYMOUS, shared, _give(ALLOW))}


def _ranges(
    numbers: Mapping[str, int], allowed: Collection[str], rules: Mapping[str, Block]
) -> list[tuple[int, Block]]:
    """Every system call number from 0 up: where each range begins, and the block that judges it."""
    absent = _refuse(errno.ENOSYS)
    blocks = [absent] * (NEWEST + 2)
    for name, number in numbers.items():
        if name in allowed:
            blocks[number] = rules.get(name) or _give(ALLOW)
        elif name not in ABSENT:
            blocks[number] = _refuse(errno.EPERM)
    return [
        (number, block) for number, block in enumerate(blocks) if number == 0 or block != blocks[number - 1]
    ]


def _dispatch(ranges: Sequence[tuple[int, Block]]) -> Block:
    """Find the range of the loaded number by halving, so that a call costs about eight comparisons."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return _when(_AT_LEAST, ranges[middle][0], _dispatch(ranges[middle:]), _dispatch(ranges[:middle]))


def _one_of(values: Sequence[int], then: Block, otherwise: Block) -> Block:
    for value in reversed(values):
        otherwise = _when(_EQUAL, value, then, otherwise)
    return otherwise


def _when(test: int, operand: int, then: Block, otherwise: Block) -> Block:
    return [(test, 0, _jump_over(then), operand), *then, *otherwise]


def _unless(test: int, operand: int, otherwise: Block, then: Block) -> Block:
    return [(test, _jump_over(otherwise), 0, operand), *otherwise, *then]


def _jump_over(block: Block) -> int:
    if len(block) > _LONGEST_JUMP:
        raise ValueError(f"a jump over {len(block)} instructions does not fit into eight bits")
    return len(block)


def _load(offset: int) -> Block:
    return [(_LOAD, 0, 0, offset)]


def _argument(index: int) -> Block:
    return _load(_ARGUMENTS + 8 * index)


def _mask(bits: int) -> Block:
    return [(_AND, 0, 0, bits)]


def _give(verdict: int) -> Block:
    return [(_RETURN, 0, 0, verdict)]


def _refuse(code: int) -> Block:
    return _give(ERRNO | code)
