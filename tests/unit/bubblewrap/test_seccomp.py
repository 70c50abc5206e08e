"""The filter as data: its numbers, and its verdicts on both architectures, held against what is shipped."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from gateway.relay.seccomp import (
    ABSENT,
    ALLOW,
    ALLOWED,
    AUDIT_ARCHES,
    ERRNO,
    KILL_PROCESS,
    UNACCOUNTED_MEMORY,
    UnsupportedArchitectureError,
    build_filter,
)
from gateway.relay.syscalls import NEWEST, NUMBERS
from tests.unit.bubblewrap.bpf import verdict
from tests.unit.bubblewrap.shipped_profile import Profile

MACHINES = sorted(AUDIT_ARCHES)

#: Calls that only 32-bit programs make, and second names, of the generic table.
_NOT_OF_64_BIT = re.compile(
    r"\w+_time64|(clock|timer|timerfd)_\w+64|(fcntl|statfs|fstatfs|truncate|ftruncate|sendfile|fstatat|fstat)64"
    r"|llseek|mmap2|fadvise64_64|sync_file_range2|arch_specific_syscall|syscalls"
)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(machine: str) -> bytes:
    return build_filter(machine, deny_unaccounted_memory=False)


def _header(*candidates: str) -> dict[str, str]:
    path = next(path for path in map(Path, candidates) if path.exists())
    return dict(re.findall(r"^#define (__NR\w*?_\w+)\s+\(?(\w+)", path.read_text(), re.MULTILINE))


def test_the_numbers_of_x86_64_are_those_of_the_system_headers() -> None:
    header = _header("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")
    numbers = {name.removeprefix("__NR_"): int(number) for name, number in header.items()}
    assert {name: number for name, number in numbers.items() if number <= NEWEST} == NUMBERS["x86_64"]


def test_the_numbers_of_aarch64_are_those_of_the_system_headers() -> None:
    header = _header("/usr/include/asm-generic/unistd.h")
    numbers = {}
    for name, value in header.items():
        number = value if value.isdigit() else header.get(value, "")
        short = name.removeprefix("__NR_")
        if name.startswith("__NR_") and number.isdigit() and not _NOT_OF_64_BIT.fullmatch(short):
            numbers[short] = int(number)
    assert {name: number for name, number in numbers.items() if number <= NEWEST} == NUMBERS["aarch64"]


def test_every_name_of_the_policy_is_a_system_call() -> None:
    known = set(NUMBERS["x86_64"]) | set(NUMBERS["aarch64"])
    assert known >= ALLOWED
    assert known >= ABSENT
    assert ALLOWED >= UNACCOUNTED_MEMORY
    assert not ALLOWED & ABSENT


def test_the_filter_allows_no_call_that_the_shipped_profile_denies(machine: str, program: bytes) -> None:
    profile = Profile(machine)
    beyond = {
        name
        for name, number in NUMBERS[machine].items()
        if verdict(program, machine, number) == ALLOW and not profile.allows(name, (0,) * 6)
    }
    assert not beyond


def test_the_filter_allows_no_arguments_that_the_shipped_profile_denies(machine: str, program: bytes) -> None:
    profile = Profile(machine)
    denied = [(name, a) for name in profile.judged_by_arguments() for a in profile.denied_arguments(name)]
    assert {name for name, _ in denied} >= {"personality", "socket"}
    for name, arguments in denied:
        assert verdict(program, machine, NUMBERS[machine][name], arguments) != ALLOW, (name, arguments)


def test_a_call_that_the_table_does_not_know_is_answered_as_by_an_older_kernel(
    machine: str, program: bytes
) -> None:
    known = set(NUMBERS[machine].values())
    unknown = [number for number in range(2048) if number not in known]
    x32 = [2**30 + number for number in range(1024)]
    for number in (*unknown, *x32, 2**31, 2**32 - 1):
        assert verdict(program, machine, number) == ERRNO | errno.ENOSYS, number


def test_a_known_call_is_allowed_refused_or_absent_as_the_policy_says(machine: str, program: bytes) -> None:
    unaccounted = build_filter(machine, deny_unaccounted_memory=True)
    judged = {"socket", "socketpair", "mknod", "mknodat"}
    for name, number in NUMBERS[machine].items():
        expected = ALLOW if name in ALLOWED else ERRNO | (errno.ENOSYS if name in ABSENT else errno.EPERM)
        if name not in judged:
            assert verdict(program, machine, number) == expected, name
            stricter = ERRNO | errno.EPERM if name in UNACCOUNTED_MEMORY else expected
            assert verdict(unaccounted, machine, number) == stricter, name


_REFUSED, _NO_FAMILY = ERRNO | errno.EPERM, ERRNO | errno.EAFNOSUPPORT
_CLONE_THREAD = 0x003D_0F00  # what the C library makes a thread with


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (1, 1, 0), ALLOW),
        ("socket", (1, 5, 0), ALLOW),
        ("socket", (2, 1 | 0o2000000 | 0o4000, 6), ALLOW),
        ("socket", (10, 2, 17), ALLOW),
        ("socket", (2, 3, 0), _REFUSED),
        ("socket", (2, 3 | 0o2000000, 1), _REFUSED),
        ("socket", (2, 2, 1), _REFUSED),
        ("socket", (2, 1, 262), _REFUSED),
        ("socket", (10, 5, 132), _REFUSED),
        ("socket", (2, 10, 0x300), _REFUSED),
        ("socket", (16, 3 | 0o2000000, 0), ALLOW),
        *(("socket", (16, 3, protocol), _NO_FAMILY) for protocol in range(1, 25)),
        ("socket", (2**32 + 16, 3, 9), _NO_FAMILY),
        *(("socket", (family, 1, 0), _NO_FAMILY) for family in range(50) if family not in (1, 2, 10, 16)),
        ("socketpair", (1, 1, 0), ALLOW),
        ("socketpair", (30, 1, 0), _NO_FAMILY),
        ("clone", (17,), ALLOW),
        ("clone", (_CLONE_THREAD,), ALLOW),
        *(
            ("clone", (17 | new,), _REFUSED)
            for new in (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)
        ),
        ("mknodat", (0, 0, 0o010600), ALLOW),
        ("mknodat", (0, 0, 0o020600), _REFUSED),
        ("mknodat", (0, 0, 0o060600), _REFUSED),
        ("mknodat", (0, 0, 0o100600), _REFUSED),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), _REFUSED),
        ("ioctl", (0, 2**32 + 0x5412), _REFUSED),
        ("ioctl", (0, 0x541C), _REFUSED),
        ("ioctl", (0, 0x541D), _REFUSED),
        ("ioctl", (0, 0x5423), _REFUSED),
        ("fcntl", (0, 1030), ALLOW),
        ("fcntl", (0, 1024), _REFUSED),
        ("fcntl", (0, 1026), _REFUSED),
        ("prctl", (4, 0), ALLOW),
        ("prctl", (22, 2), _REFUSED),
        *(("personality", (value,), _REFUSED) for value in (0, 8, 0x2_0000, 0x40_0000, 0xFFFF_FFFF)),
    ],
)
def test_an_argument_rule_decides(
    machine: str, program: bytes, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert verdict(program, machine, NUMBERS[machine][name], arguments) == expected


@pytest.mark.parametrize(
    ("flags", "counted"),
    [(0x02, True), (0x22, True), (0x4022, True), (0x01, True), (0x21, False), (0x4021, False), (0x23, False)],
)
def test_shared_memory_without_a_file_is_refused_where_no_cgroup_counts_it(
    machine: str, program: bytes, flags: int, counted: bool
) -> None:
    unaccounted = build_filter(machine, deny_unaccounted_memory=True)
    arguments = (0, 4096, 3, flags, 2**32 - 1, 0)
    number = NUMBERS[machine]["mmap"]
    assert verdict(program, machine, number, arguments) == ALLOW
    assert verdict(unaccounted, machine, number, arguments) == (ALLOW if counted else _REFUSED)


@pytest.mark.parametrize("other", MACHINES)
def test_a_call_of_another_architecture_ends_the_process(machine: str, program: bytes, other: str) -> None:
    expected = ALLOW if other == machine else KILL_PROCESS
    assert verdict(program, other, NUMBERS[machine]["read"]) == expected


@pytest.mark.parametrize("machine", ["i686", "armv7l", "riscv64", "ppc64le", "s390x", "X86_64", ""])
def test_an_architecture_without_a_filter_does_not_start(machine: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"no system call filter .* aarch64, x86_64"):
        build_filter(machine, deny_unaccounted_memory=True)
