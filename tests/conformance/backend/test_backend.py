"""The contract of `gateway/backends/base.py`, sentence by sentence."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import uuid
from pathlib import Path

import pytest

from gateway.backends.base import BackendError, Ending, SpecError
from tests.conformance.backend import traces
from tests.conformance.backend.conftest import Started
from tests.conformance.backend.gateways import gateway_process
from tests.conformance.backend.kinds import BackendKind
from tests.conformance.backend.visit import (
    CRASH,
    PYTHON,
    STAY,
    Visit,
    found_inside,
    request,
    script,
    visiting,
)

pytestmark = pytest.mark.gen_test(timeout=90)


# -- create -------------------------------------------------------------------------------------------


async def test_a_sandbox_has_a_relay_that_starts_a_kernel(started: Started) -> None:
    async with started() as backend, visiting(backend) as (_, visit):
        await visit.until(lambda: "here" in visit.lines)


async def test_a_real_kernel_answers(started: Started) -> None:
    argv = [PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    async with started() as backend, visiting(backend, argv) as (_, visit):
        await visit.until(lambda: visit.answers.get(1) is not None)
        assert visit.answers[1] == {"id": 1, "ok": True}


async def test_the_kernel_finds_its_home_and_its_programs(started: Started) -> None:
    body = """
import shutil
tell([os.getcwd(), os.environ["HOME"], os.access(".", 2), shutil.which("sh"), shutil.which(sys.executable)])
"""
    async with started() as backend, visiting(backend, script(body)) as (sandbox, visit):
        where, home, writable, shell, python = await visit.found()
        assert where == home == sandbox.home
        assert writable
        assert shell
        assert python


async def test_nothing_of_the_gateways_environment_is_inside(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = uuid.uuid4().hex
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", secret)
    body = """
import glob
seen = {}
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        seen[path] = open(path, "rb").read().decode()
    except OSError:
        pass
tell([dict(os.environ), seen])
"""
    async with started() as backend:
        assert secret not in json.dumps(await found_inside(backend, body))


async def test_a_kernel_id_is_taken_once(started: Started) -> None:
    async with started() as backend:
        wanted = request(backend)
        sandbox = await backend.create(wanted)
        with pytest.raises(BackendError, match="already"):
            await backend.create(wanted)
        await sandbox.destroy()
        await (await backend.create(wanted)).destroy()


async def test_sandboxes_that_are_made_at_once_are_apart(started: Started) -> None:
    """Each writes a file and sees no other's."""
    body = """
open(os.urandom(8).hex(), "w").close()
tell(len(os.listdir(".")))
"""
    async with started() as backend:
        assert await asyncio.gather(*(found_inside(backend, body) for _ in range(8))) == [1] * 8
        assert await backend.list() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "1024GiB"}, ["memory", "1024GiB", "1 GiB"]),
        ({"memory": []}, ["memory", "[]"]),
        ({"network": True}, ["network"]),
    ],
    ids=["loosened", "of a wrong type", "unknown"],
)
async def test_a_setting_that_may_not_be_is_refused_by_name_value_and_bound(
    started: Started, settings: dict[str, object], words: list[str]
) -> None:
    async with started() as backend:
        with pytest.raises(SpecError) as refused:
            await backend.create(request(backend, settings=settings))
        assert all(word in str(refused.value) for word in words)
        assert await backend.list() == []


async def test_a_missing_program_is_named(started: Started) -> None:
    """By the backend, which may see it, or else by the relay."""
    async with started() as backend:
        try:
            async with visiting(backend, ["/nowhere/python", "-f", "{connection_file}"]) as (_, visit):
                await visit.until(lambda: 1 in visit.answers)
                said = visit.answers[1]["error"]
        except SpecError as error:
            said = str(error)
        assert "/nowhere/python" in said


@pytest.mark.parametrize("delay", [0, 0.003, 0.01, 0.02, 0.05])
async def test_a_create_that_is_cancelled_leaves_nothing(
    started: Started, backend_kind: BackendKind, tmp_path: Path, delay: float
) -> None:
    async with started() as backend:
        await (await backend.create(request(backend))).destroy()
        before = backend_kind.left(tmp_path)
        task = asyncio.create_task(backend.create(request(backend)))
        await asyncio.sleep(delay)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.destroy()
        assert await backend.list() == []
        assert backend_kind.left(tmp_path) == before


# -- list, connect, wait ------------------------------------------------------------------------------


async def test_the_living_sandboxes_are_listed(started: Started) -> None:
    async with started() as backend:
        first, second = await backend.create(request(backend)), await backend.create(request(backend))
        assert {each.kernel_id for each in await backend.list()} == {first.kernel_id, second.kernel_id}
        await first.destroy()
        assert [each.kernel_id for each in await backend.list()] == [second.kernel_id]


async def test_a_second_stream_is_had_only_where_sandboxes_survive(started: Started) -> None:
    async with started() as backend:
        sandbox = await backend.create(request(backend))
        first = await sandbox.connect()
        if backend.survives_gateway:
            await (await sandbox.connect()).close()
        else:
            with pytest.raises(BackendError):
                await sandbox.connect()
        await first.close()


async def test_waiting_may_be_cancelled_and_repeated(started: Started) -> None:
    async with started() as backend:
        sandbox = await backend.create(request(backend))
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sandbox.wait(), 0.01)
        await sandbox.destroy()
        ending = await sandbox.wait()
        assert ending == await sandbox.wait()
        assert re.fullmatch(r"[a-z].*[^.]", ending.reason), ending
        assert not ending.expired


async def test_a_life_has_its_limit_and_the_reason_says_so(
    started: Started, backend_kind: BackendKind
) -> None:
    life = backend_kind.short_life
    async with started() as backend, visiting(backend, settings={"life": life}) as (sandbox, _):
        assert await sandbox.wait() == Ending(f"it reached its maximum life of {life} s", expired=True)
        assert await backend.list() == []


# -- destroy ------------------------------------------------------------------------------------------


async def test_after_destroy_nothing_is_left(
    started: Started, backend_kind: BackendKind, tmp_path: Path
) -> None:
    async with started() as backend:
        await (await backend.create(request(backend))).destroy()
        before = (backend_kind.left(tmp_path), traces.mounts())
        async with visiting(backend) as (sandbox, visit):
            await visit.until(lambda: "here" in visit.lines)
            during = backend_kind.running()
            assert during > before[0].running
            await sandbox.destroy()
            assert not backend_kind.running() & (during - before[0].running)
        assert (backend_kind.left(tmp_path), traces.mounts()) == before


async def test_destroy_may_be_called_at_once_again_and_by_many(started: Started) -> None:
    async with started() as backend:
        sandbox = await backend.create(request(backend))
        await asyncio.gather(*(sandbox.destroy() for _ in range(3)))
        await sandbox.destroy()
        assert await backend.list() == []


async def test_a_relay_that_ends_takes_its_sandbox_along(started: Started, backend_kind: BackendKind) -> None:
    async with started() as backend:
        before = backend_kind.running()
        wanted = request(backend, CRASH if backend.survives_gateway else STAY)
        sandbox = await backend.create(wanted)
        visit = await Visit.start(sandbox, wanted.argv)
        if not backend.survives_gateway:
            await visit.until(lambda: "here" in visit.lines)
            await visit.close()
        async with asyncio.timeout(backend_kind.soon):
            await sandbox.wait()
        await visit.close()
        assert await backend.list() == []
        await sandbox.destroy()
        assert backend_kind.running() == before


async def test_close_ends_what_cannot_survive_and_leaves_what_can(
    started: Started, backend_kind: BackendKind
) -> None:
    before = (backend_kind.running(), backend_kind.descriptors())
    async with started() as backend:
        sandboxes = [await backend.create(request(backend)) for _ in range(3)]
        await sandboxes[0].remember("a text")
    if backend.survives_gateway:
        async with started() as backend:
            found = await backend.list()
            assert {each.kernel_id: each.memory for each in found} == {
                each.kernel_id: each.memory for each in sandboxes
            }
            assert sandboxes[0].memory == "a text"
            await asyncio.gather(*(each.destroy() for each in found))
    else:
        for sandbox in sandboxes:
            await sandbox.wait()
    assert (backend_kind.running(), backend_kind.descriptors()) == before
    await backend.close()


async def test_a_backend_says_what_it_checked_and_what_keeps_its_limits(
    started: Started, backend_kind: BackendKind
) -> None:
    async with started() as backend:
        checks = await backend.checks()
        assert {check.name: check for check in checks if not check.ok}.keys() == backend_kind.unknown
        assert {"memory", "processes", "cpus", "tmp_size", "life"} <= {
            limit.name for limit in backend.describe_limits()
        }


# -- the end of the gateway ---------------------------------------------------------------------------


async def test_a_killed_gateway_leaves_exactly_what_its_backend_says(
    any_kind: BackendKind, tmp_path: Path
) -> None:
    with gateway_process(any_kind.name, tmp_path, 2) as (process, kernel_ids):
        below = traces.descendants(process.pid)
        os.kill(process.pid, signal.SIGKILL)
    backend = any_kind.make(tmp_path)
    if backend.survives_gateway:
        await backend.start()
        found = await backend.list()
        assert sorted(sandbox.kernel_id for sandbox in found) == sorted(kernel_ids)
        for sandbox in found:
            transport = await sandbox.connect()
            assert await transport.receive()
            await transport.close()
            await sandbox.destroy()
        assert await backend.list() == []
    else:
        assert len(below) >= 2 * 3, "a monitor, a relay and a kernel in each"
        assert traces.soon(lambda: not traces.alive(below)), traces.alive(below)
        await backend.start()
        assert await backend.list() == []
    await backend.close()
