"""What happens at each limit: the sandbox meets it, its neighbour and the gateway do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Ending
from gateway.backends.bubblewrap import BubblewrapBackend, cgroups
from tests.conformance.backend.visit import found_inside, script, visiting
from tests.integration.bubblewrap.conftest import Started

pytestmark = pytest.mark.gen_test(timeout=90)

MIB = 1 << 20

#: Takes memory, a mebibyte at a time, until it is stopped.
TAKE_MEMORY = """
taken = []
try:
    while len(taken) < 1000:
        taken.append(bytearray(os.urandom(1 << 20)))
except MemoryError:
    tell(len(taken))
"""


@contextlib.asynccontextmanager
async def undisturbed(backend: BubblewrapBackend) -> AsyncIterator[None]:
    """A neighbour that goes on all the while: it counts, and must have counted on in the end."""
    body = """
import time
for number in range(100000):
    print(number, flush=True)
    time.sleep(0.1)
"""
    async with visiting(backend, script(body)) as (_, neighbour):
        await neighbour.until(lambda: bool(neighbour.lines))
        yield
        counted = len(neighbour.lines)
        await neighbour.until(lambda: len(neighbour.lines) > counted)
        assert neighbour.died is None


@pytest.fixture
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no control group may be made."""
    monkeypatch.setattr(cgroups, "detect", dict)
    monkeypatch.setattr("gateway.backends.bubblewrap.launcher.detect", dict)


# -- memory -------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup")
async def test_a_kernel_that_takes_too_much_memory_dies_and_the_reason_says_so(started: Started) -> None:
    settings = {"memory": "128MiB"}
    async with (
        started() as backend,
        undisturbed(backend),
        visiting(backend, script(TAKE_MEMORY), settings=settings) as (_, visit),
    ):
        await visit.until(lambda: visit.died is not None or 1 in visit.answers)
        told = str(visit.died or visit.answers[1])
        assert "memory" in told
        assert "128 MiB" in told


@pytest.mark.requires("cgroup")
async def test_memory_counts_for_the_sandbox_and_not_for_each_process(started: Started) -> None:
    body = """
import signal
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        taken = bytearray(os.urandom(50 << 20))
        signal.pause()
    children.append(child)
tell(os.waitpid(-1, 0)[1])
"""
    async with started() as backend:
        status = await found_inside(backend, body, settings={"memory": "128MiB"})
        assert os.WTERMSIG(status) == 9


@pytest.mark.requires("cgroup")
async def test_files_count_as_memory_and_as_they_stay_end_the_sandbox(started: Started) -> None:
    body = """
for number in range(200):
    open(f"/tmp/{number}", "wb").write(bytes(1 << 20))
"""
    settings = {"memory": "100MiB"}
    async with started() as backend, visiting(backend, script(body), settings=settings) as (sandbox, _):
        assert await sandbox.wait() == Ending("the kernel used more than its 100 MiB of memory")


@pytest.mark.usefixtures("no_cgroups")
async def test_without_a_cgroup_memory_ends_in_an_error_of_each_process(started: Started) -> None:
    async with started() as backend, undisturbed(backend):
        taken = await found_inside(backend, TAKE_MEMORY, settings={"memory": "128MiB"})
        assert 64 < taken < 128


@pytest.mark.usefixtures("no_cgroups")
async def test_without_a_cgroup_memory_that_rlimits_do_not_count_is_refused(started: Started) -> None:
    body = """
import ctypes, errno
try:
    os.memfd_create("x")
    made = "made"
except OSError as error:
    made = errno.errorcode[error.errno]
libc = ctypes.CDLL(None, use_errno=True)
found = [made, libc.shmget(0, 1 << 20, 0o1600), errno.errorcode[ctypes.get_errno()]]
import mmap
for descriptor in (-1, os.open("/dev/zero", os.O_RDWR)):
    try:
        mmap.mmap(descriptor, 400 << 20)[0] = 1
        found.append("mapped")
    except OSError as error:
        found.append(errno.errorcode[error.errno])
tell(found)
"""
    async with started() as backend:
        made, shared, why, *mapped = await found_inside(backend, body)
        assert made in {"EPERM", "ENOSYS"}
        assert shared == -1
        assert why in {"EPERM", "ENOSYS"}
        assert mapped == ["EPERM", "ENODEV"]


async def test_where_the_machines_memory_ends_linux_takes_sandboxes_before_the_gateway(
    started: Started,
) -> None:
    body = """
def lower():
    try:
        return os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"0")
    except OSError as error:
        return type(error).__name__
scores = [int(open(f"/proc/{pid}/oom_score_adj").read()) for pid in (1, "self")]
tell([scores, lower()])
"""
    async with started() as backend:
        scores, lowered = await found_inside(backend, body)
        assert scores == [800, 800]
        # Who has set it with this capability has set the least that it can be, too.
        assert lowered == "PermissionError" or not may_exceed_resources()


def may_exceed_resources() -> bool:
    """Whether the tests, and so their gateway, run with CAP_SYS_RESOURCE (capabilities(7))."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) & 1 << 24)


# -- processes, processors ----------------------------------------------------------------------------

FORK = """
import time
made = 0
try:
    while made < 1000:
        if not os.fork():
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as error:
    tell([made, type(error).__name__])
time.sleep(60)
"""


@pytest.mark.requires("cgroup")
async def test_processes_end_at_the_limit(started: Started) -> None:
    async with started() as backend, undisturbed(backend):
        made, error = await found_inside(backend, FORK, settings={"processes": 40})
        assert 20 < made < 40
        assert error == "BlockingIOError"


@pytest.mark.usefixtures("no_cgroups")
async def test_without_a_cgroup_processes_end_at_the_limit_too(started: Started) -> None:
    """Not counting what else the gateway's user runs, of which there may be more."""
    async with started() as backend, undisturbed(backend):
        made, error = await found_inside(backend, FORK, settings={"processes": 40})
        assert 20 < made < 40
        assert error == "BlockingIOError"


@contextlib.asynccontextmanager
async def burning() -> AsyncIterator[Callable[[], float]]:
    """A process without a limit that takes all it can get; called, the seconds of a processor it has had."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "while True: pass")

    def burnt() -> float:
        # proc(5): fields 14 and 15, in ticks; the name, field 2, may hold anything.
        with open(f"/proc/{process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    try:
        yield burnt
    finally:
        process.kill()
        await process.wait()


@pytest.mark.requires("cgroup")
async def test_a_sandbox_gets_its_share_of_a_processor(started: Started) -> None:
    """And no more, while a process without a limit beside it gets at least twice that."""
    body = """
import time
print("burning", flush=True)
start, burnt = time.monotonic(), time.process_time()
while time.monotonic() < start + 3:
    pass
tell((time.process_time() - burnt) / (time.monotonic() - start))
"""
    seen = []
    async with started() as backend, burning() as burnt:
        # On a busy machine nobody gets much, which shows nothing; then it is measured again.
        for _ in range(5):
            async with visiting(backend, script(body), settings={"cpus": 0.1}) as (_, visit):
                await visit.until(lambda visit=visit: "burning" in visit.lines)  # type: ignore[misc]
                began, before = time.monotonic(), burnt()
                share = await visit.found()
                beside = (burnt() - before) / (time.monotonic() - began)
            assert share < 0.15
            seen.append((share, beside))
            if beside > 2 * 0.1:
                return
    raise AssertionError(f"this machine is too busy to tell: shares and those beside were {seen}")


@pytest.mark.usefixtures("no_cgroups")
async def test_without_a_cgroup_a_sandbox_runs_at_lower_priority(started: Started) -> None:
    async with started() as backend:
        assert await found_inside(backend, "tell(os.getpriority(os.PRIO_PROCESS, 0))") >= 5


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "place", "error"),
    [
        ({"file_size": "1MiB"}, "/tmp", "EFBIG"),  # noqa: S108
        ({"tmp_size": "1MiB"}, "/tmp", "ENOSPC"),  # noqa: S108
        ({"home_size": "1MiB"}, ".", "ENOSPC"),
        ({"tmp_size": "1MiB"}, "/dev/shm", "ENOSPC"),  # noqa: S108
        ({}, "/run/relay", "ENOSPC"),
    ],
    ids=["a file", "tmp", "the home", "shared memory", "the sockets folder"],
)
async def test_files_end_at_their_size(started: Started, settings: Any, place: str, error: str) -> None:
    body = f"""
import errno
try:
    with open({place!r} + "/file", "wb") as file:
        for _ in range(16):
            file.write(bytes(1 << 19))
            file.flush()
    tell("written")
except OSError as error:
    tell(errno.errorcode[error.errno])
"""
    async with started() as backend:
        assert await found_inside(backend, body, settings=settings) == error


async def test_open_files_end_at_the_limit(started: Started) -> None:
    body = """
import errno
files = []
try:
    while True:
        files.append(open("/dev/null"))
except OSError as error:
    found = [len(files), errno.errorcode[error.errno]]
    files.clear()
    tell(found)
"""
    async with started() as backend:
        count, error = await found_inside(backend, body, settings={"open_files": 100})
        assert 80 < count <= 100
        assert error == "EMFILE"


async def test_limits_cannot_be_raised_from_inside(started: Started) -> None:
    body = """
import resource
raised = []
for name in ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE"):
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
        raised.append(name)
    except (ValueError, OSError):
        pass
tell(raised)
"""
    async with started() as backend:
        assert await found_inside(backend, body) == []


# -- what is said of them -----------------------------------------------------------------------------


@pytest.mark.requires("cgroup")
async def test_with_cgroups_no_limit_is_best_effort(started: Started) -> None:
    async with started() as backend:
        assert [limit.name for limit in backend.describe_limits() if limit.best_effort] == []


@pytest.mark.usefixtures("no_cgroups")
async def test_without_cgroups_it_is_said_which_limits_are_best_effort(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    async with started() as backend:
        weak = [limit.name for limit in backend.describe_limits() if limit.best_effort]
        assert weak == ["memory", "processes", "cpus"]
        for name in weak:
            assert f"Best effort on this machine: {name}" in caplog.text
