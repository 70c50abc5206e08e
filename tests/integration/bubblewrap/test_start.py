"""A gateway starts only where sandboxes were shown to be isolated; otherwise it says why and what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.backends.base import BackendError, Check, IsolationError
from gateway.backends.bubblewrap import BubblewrapBackend, cgroups, diagnosis, launcher, selfcheck
from tests.conformance.backend import traces
from tests.conformance.backend.kinds import LOG
from tests.conformance.backend.visit import request
from tests.integration.bubblewrap.conftest import Started

pytestmark = pytest.mark.gen_test(timeout=60)


@pytest.fixture
def bwrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """A program in the place of bubblewrap, the script of which is the parameter; every user may run it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "bwrap")
        # Not sh: it knows descriptors of one digit only.
        program.write_text("#!/bin/bash\n" + request.param)
        program.chmod(0o755)
        yield str(program)


VERSION = '[ "$1" = --version ] && echo "bubblewrap 0.8.0" && exit\n'

WITH_THE_HOSTS_NETWORK = VERSION + (
    'for part; do shift; [ "$part" = --unshare-net ] || set -- "$@" "$part"; done; exec /usr/bin/bwrap "$@"'
)
WITHOUT_A_FILTER = VERSION + (
    'for part; do shift; if [ "$part" = --seccomp ]; then skip=1; elif [ "$skip" ]; then skip=; '
    'else set -- "$@" "$part"; fi; done; exec /usr/bin/bwrap "$@"'
)
#: The options that say what is mounted come by a descriptor.
THAT_SHOWS_THE_SCRATCH_FOLDER_WRITABLE = VERSION + (
    'for part; do [ "$previous" = --args ] && args=$part; previous=$part; done\n'
    "options=$(mktemp)\n"
    "tr '\\0' '\\n' <&$args | sed '/^--ro-bind$/{N;N;s/^--ro-bind\\(\\n.*scratch-\\)/--bind\\1/}' | "
    "tr '\\n' '\\0' >\"$options\"\n"
    'eval "exec $args<$options"; rm "$options"; exec /usr/bin/bwrap "$@"'
)
THAT_FAILS = VERSION + 'echo "bwrap: No permissions to create a new namespace" >&2; exit 1'


async def refusal(tmp_path: Path, **traits: Any) -> str:
    """Why a start is refused; nothing may be left of it."""
    before = traces.descriptors()
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG, **traits)
    with pytest.raises(IsolationError) as refused:
        await backend.start()
    assert traces.descriptors() == before
    assert traces.files(tmp_path) <= {"run"}
    return str(refused.value)


async def failed(tmp_path: Path, **traits: Any) -> Check:
    """The check that fails, as the doctor shows it."""
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG, **traits)
    return next(check for check in await backend.checks() if not check.ok)


async def test_every_check_is_told_and_holds(started: Started) -> None:
    async with started() as backend:
        checks = {check.name: check for check in await backend.checks()}
    assert set(checks) == {
        *("platform", "architecture", "bubblewrap", "programs"),
        *("limits", "control", "network", "files", "privileges"),
    }
    assert all(check.ok and check.detail and not check.remedy for check in checks.values())


async def test_the_doctor_needs_no_started_gateway_and_leaves_nothing(tmp_path: Path) -> None:
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    before = traces.descriptors()
    assert all(check.ok for check in await backend.checks())
    assert traces.descriptors() == before
    assert traces.files(tmp_path) == {"run"}
    await backend.close()


async def test_a_missing_bubblewrap_is_answered_by_the_command_that_installs_it(tmp_path: Path) -> None:
    said = await refusal(tmp_path, bwrap="bwrap-that-is-not-there")
    assert "bwrap-that-is-not-there" in said
    assert any(line in said for line in diagnosis.INSTALL.values())


@pytest.mark.parametrize("bwrap", ['echo "bubblewrap 0.6.1"'], indirect=True)
async def test_a_bubblewrap_that_is_too_old_is_named_with_its_version(tmp_path: Path, bwrap: str) -> None:
    said = await refusal(tmp_path, bwrap=bwrap)
    assert "0.6.1 is too old" in said
    assert "0.8.0" in said


@pytest.mark.parametrize("bwrap", [THAT_FAILS], indirect=True)
async def test_where_no_sandbox_comes_up_what_it_said_is_told(tmp_path: Path, bwrap: str) -> None:
    said = await refusal(tmp_path, bwrap=bwrap)
    assert "No permissions to create a new namespace" in said


@pytest.mark.parametrize("bwrap", [WITH_THE_HOSTS_NETWORK], indirect=True)
async def test_a_sandbox_that_has_a_network_keeps_the_gateway_from_starting(
    tmp_path: Path, bwrap: str
) -> None:
    assert "A sandbox has a network" in await refusal(tmp_path, bwrap=bwrap)


@pytest.mark.parametrize("bwrap", [WITHOUT_A_FILTER], indirect=True)
async def test_a_sandbox_without_a_system_call_filter_is_refused(tmp_path: Path, bwrap: str) -> None:
    assert "no system call filter" in await refusal(tmp_path, bwrap=bwrap)


@pytest.mark.parametrize("bwrap", [THAT_SHOWS_THE_SCRATCH_FOLDER_WRITABLE], indirect=True)
async def test_a_sandbox_that_can_write_outside_is_refused(tmp_path: Path, bwrap: str) -> None:
    assert "A sandbox can write outside" in await refusal(tmp_path, bwrap=bwrap)


@pytest.mark.parametrize("error", [OSError("no socket to be had"), asyncio.CancelledError()], ids=repr)
async def test_a_proof_that_comes_to_no_end_leaves_nothing_that_can_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def broken(*_: object) -> None:
        # Until it is proven there is nothing to create with, nor to list.
        with pytest.raises(BackendError, match="not been started"):
            await backend.create(request(backend))
        raise error

    monkeypatch.setattr(selfcheck, "prove", broken)
    before = (traces.descriptors(), traces.descendants(os.getpid()))
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    for attempt in (backend.start(), backend.checks()):
        with pytest.raises(type(error)):
            await attempt
        with pytest.raises(BackendError, match="not been started"):
            await backend.create(request(backend))
        assert (traces.descriptors(), traces.descendants(os.getpid())) == before
        assert traces.files(tmp_path) == {"run"}


@pytest.mark.requires("cgroup")
async def test_a_start_that_ends_right_behind_its_control_groups_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def killed(name: str, places: Mapping[str, cgroups.Place]) -> None:
        made.extend(cgroups.Cgroups(name, places).folders)
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "Cgroups", killed)
    with pytest.raises(KeyboardInterrupt):
        await BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG).start()
    assert made
    assert not [group for group in made if group.exists()]


async def test_control_groups_that_cannot_be_removed_keep_nothing_else_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy() -> None:
        raise OSError("Device or resource busy")

    before = (traces.descriptors(), traces.descendants(os.getpid()))
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG)
    await backend.start()
    assert backend._launcher is not None
    monkeypatch.setattr(backend._launcher.cgroups, "close", busy)
    await backend.close()
    assert (traces.descriptors(), traces.descendants(os.getpid())) == before
    assert traces.files(tmp_path) == {"run"}
    assert "busy" in caplog.text


async def test_a_probe_that_cannot_reach_the_listener_outside_proves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    check = await failed(tmp_path, listeners=[address])
    assert check.ok is None
    assert "proves nothing" in check.detail
    assert "proves nothing" in await refusal(tmp_path, listeners=[address])


async def test_no_sandbox_reaches_the_gateways_own_listener(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = BubblewrapBackend(
            runtime_dir=str(tmp_path / "run"), log=LOG, listeners=[listener.getsockname()]
        )
        assert all(check.ok for check in await backend.checks())
        listener.settimeout(5)
        listener.accept()[0].close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_an_architecture_without_a_filter_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    said = await refusal(tmp_path)
    assert "riscv64" in said
    assert "x86_64" in said


async def test_another_system_than_linux_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "Sandboxes need Linux, and this is Darwin." in await refusal(tmp_path)


async def test_a_runtime_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    said = await refusal(tmp_path)
    assert "runtime_dir" in said
    assert "755" in said


@pytest.mark.requires("root")
async def test_a_range_of_uids_that_cannot_be_is_refused(tmp_path: Path) -> None:
    assert "uid_range" in await refusal(tmp_path, uid_range=(0, 10))


async def test_a_probe_that_has_ended_before_its_number_is_looked_at_proves_what_it_told(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, late = os.pidfd_open, []

    def open_late(pid: int, flags: int = 0) -> int:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] != str(os.getpid()):
            # No child of this process: the probe. The loop stands still, and its monitor reaps it.
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            late.append(pid)
        return opened(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", open_late)
    async with started():
        assert late


async def test_a_start_that_is_cancelled_waits_for_the_thread_that_it_has_begun() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def join(pid: int) -> None:
        begun.set()
        go_on.wait(10)
        ended.append(pid)

    started = SimpleNamespace(
        cgroup=SimpleNamespace(groups=["/group"], join=join), tree=SimpleNamespace(pid=7)
    )
    task = asyncio.create_task(launcher.Launcher._finish(None, started))  # type: ignore[arg-type]
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [7]
