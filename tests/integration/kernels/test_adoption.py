"""A gateway that takes over the kernels that an earlier one has left (the backend's sandboxes survive it)."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from gateway.auth import Identity
from gateway.backends.base import SandboxRequest
from gateway.kernels.errors import KernelGoneError, TooManyKernelsError
from gateway.kernels.kernel import Kernel
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs
from gateway.web.sessions import Sessions
from tests.integration.kernels.client import PATIENCE, Client, becomes, started
from tests.support.survivor import SurvivorBackend, SurvivorSandbox

pytestmark = pytest.mark.gen_test(timeout=120)


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


class Gateways:
    """One gateway after the other, over the same sandboxes."""

    def __init__(self, folder: Path, specs: Path) -> None:
        self.backend = SurvivorBackend(folder)
        self._specs = specs
        self._kernels: Kernels | None = None

    async def next(self, **options: Any) -> Kernels:
        """A gateway that has started, after the end of the last one."""
        await self.leave()
        manager = KernelSpecManager(kernel_dirs=[str(self._specs)], ensure_native_kernel=False)
        self._kernels = Kernels(backend=self.backend, kernelspecs=KernelSpecs(manager=manager), **options)
        await self._kernels.start()
        return self._kernels

    async def leave(self) -> None:
        """End the gateway that there is."""
        if self._kernels is not None:
            await self._kernels.close()
            self._kernels = None

    async def sandbox(self, kernel_id: str) -> SurvivorSandbox:
        (found,) = [sandbox for sandbox in await self.backend.list() if sandbox.kernel_id == kernel_id]
        return found


@asynccontextmanager
async def gateways(folder: Path, specs: Path) -> AsyncIterator[Gateways]:
    made = Gateways(folder / "survivors", specs)
    await made.backend.start()
    try:
        yield made
    finally:
        kernels = await made.next()
        for kernel in kernels.list():
            await kernels.delete(kernel.id)
        await kernels.close()
        assert await made.backend.list() == []


async def ready(kernels: Kernels, kernel_id: str) -> Kernel:
    kernel = kernels.get(kernel_id)
    async with asyncio.timeout(PATIENCE):
        await kernel.wait_ready()
    return kernel


async def test_a_cell_goes_on_between_two_gateways_and_is_told_whole_and_once(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        client = Client(kernel)
        cell = await client.begin(
            "import time\nfor n in range(600):\n    print(n, flush=True)\n    time.sleep(0.002)"
        )
        told = client.told[cell]
        await client.until(lambda: told.text.count("\n") > 100)
        following = await each.next()
        with pytest.raises(KernelGoneError):
            await client.until(lambda: False)
        adopted = await ready(following, kernel.id)
        assert (adopted.name, adopted.owner) == ("python", "someone")
        client.attachment = adopted.attach(client.attachment.session_id)
        await client.end(cell)
        assert told.text == "".join(f"{n}\n" for n in range(600))
        assert (await client.run("print(n)")).text == "599\n"
        await adopted.restart()
        assert (await client.run("print('n' in globals())")).text == "False\n"


async def test_a_kernel_that_is_busy_when_it_is_adopted_says_so(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        client = Client(kernel)
        await client.begin_busy()
        adopted = await ready(await each.next(), kernel.id)
        assert adopted.execution_state == "busy"
        await adopted.interrupt()
        await becomes(adopted, "idle")


async def test_a_request_of_before_is_ended_when_the_sandbox_is_lost_after(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        client = Client(kernel)
        cell = await client.begin_busy()
        adopted = await ready(await each.next(), kernel.id)
        client.attachment = adopted.attach(client.attachment.session_id)
        (await each.sandbox(kernel.id)).kill()
        assert "its relay has ended" in (await client.end(cell)).reply["evalue"]
        await becomes(adopted, "idle")


async def test_a_kernel_that_died_between_two_gateways_is_started_again_and_its_cell_ended(
    tmp_path, specs_folder
):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        client = Client(kernel)
        cell = await client.begin_busy("time.sleep(0.3); os._exit(7)")
        relay = (await each.sandbox(kernel.id))._process
        await each.leave()
        while children(relay):  # noqa: ASYNC110  # what is waited for is in another process
            await asyncio.sleep(0.02)
        adopted = (await each.next()).get(kernel.id)
        client.attachment = adopted.attach(client.attachment.session_id)
        assert "exit code 7" in (await client.end(cell)).reply["evalue"]
        await becomes(adopted, "idle")
        assert (await client.run("print('again')")).text == "again\n"
        assert adopted._restarts == 1


async def test_a_kernel_that_was_never_started_comes_up_in_a_new_sandbox(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel_id = str(uuid.uuid4())
        request = SandboxRequest(kernel_id, "python", ["python"], "", {}, "someone")
        left = await each.backend.create(request)
        adopted = await ready(await each.next(), kernel_id)
        assert adopted.execution_state == "idle"
        assert not left.lives


async def test_a_kernel_whose_kernelspec_is_gone_runs_on_and_can_be_made_no_more(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        shutil.rmtree(specs_folder / "python")
        adopted = await ready(await each.next(), kernel.id)
        assert (await Client(adopted).run("print(6 * 7)")).text == "42\n"
        (await each.sandbox(kernel.id)).kill()
        await becomes(adopted, "dead")
        assert "kernelspec 'python' is not there any more" in str(adopted.reason)


async def test_a_kernel_that_is_deleted_as_soon_as_it_is_adopted_leaves_nothing(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        following = await each.next()
        await following.delete(kernel.id)
        assert await each.backend.list() == []


async def test_adopted_kernels_count(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        await started(await each.next())
        following = await each.next(max_kernels=1)
        with pytest.raises(TooManyKernelsError):
            following.create("python", {}, "someone")


async def test_sessions_are_found_again_as_they_were_last(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernels = await each.next()
        kernel, other = await started(kernels), await started(kernels)
        sessions = Sessions(kernels)
        kept = sessions.add("someone", "a.ipynb", "a", "notebook", kernel)
        gone = sessions.add("someone", "b.ipynb", "b", "notebook", kernel)
        sessions.add("else", "c", "", "console", other)
        kept.path = "renamed.ipynb"
        sessions.changed(kernel)
        sessions.remove(gone)
        kernels = await each.next()
        found = {session.id: session for session in Sessions(kernels).of(Identity("someone"))}
        assert list(found) == [kept.id]
        assert found[kept.id] == dataclasses.replace(kept, kernel=kernels.get(kernel.id))
        assert [session.path for session in Sessions(kernels).of(Identity("else"))] == ["c"]


async def test_a_new_sandbox_of_a_kernel_knows_its_sessions_too(tmp_path, specs_folder):
    async with gateways(tmp_path, specs_folder) as each:
        kernels = await each.next()
        kernel = await started(kernels)
        Sessions(kernels).add("someone", "a.ipynb", "a", "notebook", kernel)
        (await each.sandbox(kernel.id)).kill()
        await becomes(kernel, "autorestarting")
        await becomes(kernel, "idle")
        kernels = await each.next()
        assert [session.path for session in Sessions(kernels).of(Identity("someone"))] == ["a.ipynb"]


@pytest.mark.parametrize("text", ["{", "7", "[7]", '[["too", "few"]]'])
async def test_what_cannot_be_read_of_sessions_costs_the_sessions_and_no_more(tmp_path, specs_folder, text):
    async with gateways(tmp_path, specs_folder) as each:
        kernel = await started(await each.next())
        kernel.remember(text)
        kernels = await each.next()
        assert Sessions(kernels).of(Identity("someone")) == []
        assert (await ready(kernels, kernel.id)).execution_state == "idle"
