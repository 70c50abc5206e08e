"""Within 2 s of its end nothing is left of a sandbox: a test for each end and each trace."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from gateway.backends.bubblewrap import BubblewrapBackend, sweep
from tests.conformance.backend import traces
from tests.conformance.backend.gateways import gateway_process
from tests.conformance.backend.kinds import LOG
from tests.conformance.backend.visit import Visit, request

STUBBORN = Path(__file__).with_name("stubborn_gateway.py")


@dataclasses.dataclass
class Traces:
    """What there was while a sandbox ran, and what of it was left 2 s after its end."""

    processes: tuple[set[str], set[str]]
    mount_namespaces: tuple[set[str], set[str]]
    mounts: tuple[set[str], set[str]]
    groups: tuple[list[str], list[str]]
    files: tuple[set[str], set[str]]
    #: Of this process; of a gateway that was killed, those of its own that any other process still has.
    descriptors: tuple[int | set[str], int | set[str]]


def instance(runtime_dir: Path) -> str:
    (folder,) = runtime_dir.glob(sweep.INSTANCE_PREFIX + "*")
    return folder.name.removeprefix(sweep.INSTANCE_PREFIX)


def mount_namespaces(identities: set[str]) -> set[str]:
    """Those of processes that may be looked at; as an ordinary user the relay's may not."""
    found = set()
    for identity in identities:
        try:
            found.add(os.readlink(f"/proc/{identity.split()[0]}/ns/mnt"))
        except OSError:
            continue
    return found - {os.readlink("/proc/self/ns/mnt")}


def in_use(namespaces: set[str]) -> set[str]:
    """Those in which any process of this machine still is."""
    living = {identity for pid in everyone() if (identity := sweep.identity(pid))}
    return namespaces & mount_namespaces(living)


async def _deleted(sandbox: object, visit: Visit, below: set[str]) -> None:
    await sandbox.destroy()  # type: ignore[attr-defined]


async def _kernel_crashed(sandbox: object, visit: Visit, below: set[str]) -> None:
    (kernel,) = [each for each in below if "time.sleep(1000)" in " ".join(traces.command_line(each)[-1:])]
    os.kill(int(kernel.split()[0]), signal.SIGSEGV)
    await visit.until(lambda: visit.died is not None or visit.answers.get(1, {}).get("ok") is False)
    # What the gateway does with a kernel that it gives up.
    await sandbox.destroy()  # type: ignore[attr-defined]


async def _relay_crashed(sandbox: object, visit: Visit, below: set[str]) -> None:
    (relay,) = [
        each
        for each in below
        if Path(traces.command_line(each)[0]).name.startswith("python")
        and "/opt/relay/gateway/relay/__main__.py" in traces.command_line(each)
    ]
    os.kill(int(relay.split()[0]), signal.SIGKILL)


async def _end_in_process(folder: Path, end: Callable[..., object]) -> Traces:
    """One sandbox of a gateway that is this process."""
    runtime_dir = folder / "run"
    backend = BubblewrapBackend(runtime_dir=str(runtime_dir), log=LOG)
    await backend.start()
    try:
        await (await backend.create(request(backend))).destroy()
        base = _snapshot(folder, set())
        before = traces.descendants(os.getpid())
        sandbox = await backend.create(request(backend))
        visit = await Visit.start(sandbox, request(backend).argv)
        await visit.until(lambda: "here" in visit.lines)
        below = traces.descendants(os.getpid()) - before
        namespaces = mount_namespaces(below)
        during = _snapshot(folder, base[2])
        ended = time.monotonic()
        await end(sandbox, visit, below)  # type: ignore[misc]
        await visit.close()
        async with asyncio.timeout(ended + traces.SOON - time.monotonic()):
            await sandbox.wait()
        after = _snapshot(folder, base[2])
        return Traces(
            processes=(below, traces.alive(below)),
            mount_namespaces=(namespaces, in_use(namespaces)),
            mounts=(base[1], traces.mounts()),
            groups=(during[0], after[0]),
            files=(during[2], after[2]),
            descriptors=(base[3], after[3]),
        )
    finally:
        await backend.close()


def _snapshot(folder: Path, without: set[str]) -> tuple[list[str], set[str], set[str], int]:
    own = f"jupyter-gateway-{instance(folder / 'run')}"
    groups = [path for top in traces.groups(own) for path in _below(top)]
    return groups, traces.mounts(), traces.files(folder) - without, traces.descriptors()


def _below(group: str) -> list[str]:
    return [entry.path for entry in os.scandir(group) if entry.is_dir()]


def _end_by_killing_the_gateway(folder: Path) -> Traces:
    mounts = traces.mounts()
    with gateway_process("bubblewrap", folder, 2) as (process, _):
        own = f"jupyter-gateway-{instance(folder / 'run')}"
        below = traces.descendants(process.pid)
        namespaces = mount_namespaces(below)
        groups, files = traces.groups(own), traces.files(folder)
        streams = open_in([process.pid])
        assert streams
        os.kill(process.pid, signal.SIGKILL)
    left = {"run"}
    traces.soon(lambda: not traces.alive(below) and not traces.groups(own) and traces.files(folder) == left)
    return Traces(
        processes=(below, traces.alive(below)),
        mount_namespaces=(namespaces, in_use(namespaces)),
        mounts=(mounts, traces.mounts()),
        groups=(groups, traces.groups(own)),
        files=(files, traces.files(folder) - left),
        # The standard ones of the gateway are of whoever started it.
        descriptors=(set(), streams & open_in(everyone()) - open_in([os.getpid(), os.getppid()])),
    )


def everyone() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def open_in(pids: Iterable[int]) -> set[str]:
    """The pipes, sockets and files without a name that processes have open, where that may be seen."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(entry.path))
    return {link for link in found if link.startswith(("pipe:", "socket:", "/memfd:"))}


ENDS = {
    "a DELETE": _deleted,
    "a crash of the kernel": _kernel_crashed,
    "a crash of the relay": _relay_crashed,
    "SIGKILL of the gateway": None,
}


@pytest.fixture(scope="module", params=ENDS)
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    folder = tmp_path_factory.mktemp("gateway")
    end = ENDS[request.param]
    if end is None:
        return _end_by_killing_the_gateway(folder)
    return asyncio.run(_end_in_process(folder, end))


def test_no_process_is_left(left: Traces) -> None:
    during, after = left.processes
    assert len(during) >= 3, "a monitor, a relay and a kernel"
    assert after == set()


def test_no_mount_is_left(left: Traces) -> None:
    during, after = left.mount_namespaces
    assert during, "its mounts are in a namespace of its own"
    assert after == set()
    assert left.mounts[0] == left.mounts[1]


@pytest.mark.requires("cgroup")
def test_no_control_group_is_left(left: Traces) -> None:
    during, after = left.groups
    assert during
    assert after == []


def test_no_file_is_left(left: Traces) -> None:
    during, after = left.files
    assert during
    assert after == set()


def test_no_descriptor_is_left(left: Traces) -> None:
    before, after = left.descriptors
    assert after == before


@pytest.mark.gen_test(timeout=60)
async def test_a_sandbox_costs_the_gateway_four_descriptors(tmp_path: Path) -> None:
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    await backend.start()
    try:
        first = await backend.create(request(backend))
        before = traces.descriptors()
        more = [await backend.create(request(backend)) for _ in range(3)]
        transports = [await sandbox.connect() for sandbox in more]
        # A client's websocket is the fifth.
        assert traces.descriptors() - before <= 4 * len(more)
        for transport in transports:
            await transport.close()
        await first.destroy()
    finally:
        await backend.close()


# -- what gives up the signal of its parent's death ---------------------------------------------------


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A gateway whose sandbox's first process gave up PR_SET_PDEATHSIG and ignores the end of its stream."""
    process = subprocess.Popen(
        [sys.executable, STUBBORN, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_the_watcher_ends_what_survives_a_killed_gateway(
    stubborn: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path
) -> None:
    process, told = stubborn
    os.kill(process.pid, signal.SIGKILL)
    assert traces.soon(lambda: not traces.alive([told["first"]]))
    assert traces.soon(lambda: traces.files(tmp_path) == {"run"})


@pytest.mark.gen_test(timeout=60)
async def test_the_next_start_sweeps_what_a_killed_watcher_left(
    stubborn: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, told = stubborn
    name = instance(tmp_path / "run")
    for victim in (told["watcher"].split()[0], process.pid):
        os.kill(int(victim), signal.SIGKILL)
    process.wait()
    assert traces.alive([told["first"]]), "or there is nothing to sweep"
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    await backend.start()
    try:
        assert not traces.alive([told["first"]])
        assert not traces.groups(name)
        assert not (tmp_path / "run" / (sweep.INSTANCE_PREFIX + name)).exists()
        assert name in caplog.text
    finally:
        await backend.close()


@pytest.mark.gen_test(timeout=60)
async def test_a_start_does_not_touch_what_a_living_gateway_has(
    stubborn: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path
) -> None:
    _, told = stubborn
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    await backend.start()
    await backend.close()
    assert traces.alive([told["first"]])
    assert len(list((tmp_path / "run").glob(sweep.INSTANCE_PREFIX + "*"))) == 1


@pytest.mark.gen_test(timeout=60)
async def test_a_watcher_that_was_killed_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    await backend.start()
    try:
        (watcher,) = watchers(os.getpid())
        os.kill(int(watcher.split()[0]), signal.SIGKILL)
        assert traces.soon(lambda: not traces.alive([watcher]))
        await (await backend.create(request(backend))).destroy()
        assert len(watchers(os.getpid())) == 1
        assert "watcher" in caplog.text
    finally:
        await backend.close()
    assert watchers(os.getpid()) == []


def watchers(pid: int) -> list[str]:
    """Those of the backend in the process `pid`; gateways of other tests below it have their own."""
    below = [each for each in traces.descendants(pid) if sweep.__file__ in traces.command_line(each)]
    return [each for each in below if parent_of(each) == pid]


def parent_of(process: str) -> int:
    return int(Path("/proc", process.split()[0], "stat").read_text().rpartition(")")[2].split()[1])
