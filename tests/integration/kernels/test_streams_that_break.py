"""A kernel whose sandbox outlives its stream: cells go on, and nothing of them is lost or repeated."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from gateway.kernels.kernel import Kernel
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs
from tests.integration.kernels.client import Client, becomes, started
from tests.support.survivor import SurvivorBackend, SurvivorSandbox

pytestmark = pytest.mark.gen_test(timeout=120)


@asynccontextmanager
async def surviving(folder: Path, specs: Path) -> AsyncIterator[tuple[Kernel, Client, SurvivorBackend]]:
    backend = SurvivorBackend(folder / "survivors")
    await backend.start()
    manager = KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False)
    kernels = Kernels(backend=backend, kernelspecs=KernelSpecs(manager=manager))
    try:
        kernel = await started(kernels)
        yield kernel, Client(kernel), backend
    finally:
        for kernel in kernels.list():
            await kernels.delete(kernel.id)
        await kernels.close()
        assert await backend.list() == []


def sandbox_of(kernel: Kernel) -> SurvivorSandbox:
    sandbox = kernel._sandbox
    assert isinstance(sandbox, SurvivorSandbox)
    return sandbox


def cut(kernel: Kernel) -> None:
    """End the stream that the kernel's link has."""
    os.kill(sandbox_of(kernel).bringers[-1], signal.SIGKILL)


async def has_another_stream(kernel: Kernel, count: int) -> None:
    async with asyncio.timeout(30):
        while len(sandbox_of(kernel).bringers) < count:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


async def test_a_flood_over_streams_that_break_arrives_whole_and_once(tmp_path, specs_folder):
    async with surviving(tmp_path, specs_folder) as (kernel, client, _):
        cell = await client.begin(
            "import time\nfor n in range(4000):\n"
            "    print(n, flush=True)\n    if n % 40 == 0: time.sleep(0.02)"
        )
        told = client.told[cell]
        for count in range(1, 6):
            await client.until(lambda count=count: told.text.count("\n") > 500 * count)
            cut(kernel)
            await has_another_stream(kernel, count + 1)
        await client.end(cell)
        assert told.text == "".join(f"{n}\n" for n in range(4000))
        assert told.reply["status"] == "ok"


async def test_cells_that_are_sent_without_a_stream_run_once_and_in_order(tmp_path, specs_folder):
    async with surviving(tmp_path, specs_folder) as (kernel, client, _):
        await client.run("ran = []")
        cut(kernel)
        cells = [await client.begin(f"ran.append({n})") for n in range(20)]
        for cell in cells:
            await client.end(cell)
        assert (await client.run("print(ran)")).text == f"{[*range(20)]}\n"
        assert kernel.execution_state == "idle"


async def test_a_kernel_is_restarted_and_interrupted_over_streams_that_break(tmp_path, specs_folder):
    async with surviving(tmp_path, specs_folder) as (kernel, client, _):
        await client.run("x = 1")
        restarting = asyncio.create_task(kernel.restart())
        await asyncio.sleep(0)
        cut(kernel)
        await restarting
        assert (await client.run("print('x' in globals())")).text == "False\n"
        cell = await client.begin_busy()
        cut(kernel)
        await kernel.interrupt()
        assert (await client.end(cell)).error == "KeyboardInterrupt"


async def test_a_kernel_that_dies_without_a_stream_ends_its_cell_with_the_reason(tmp_path, specs_folder):
    async with surviving(tmp_path, specs_folder) as (kernel, client, _):
        cell = await client.begin_busy("time.sleep(0.3); os._exit(7)")
        cut(kernel)
        told = await client.end(cell)
        assert told.error == "KernelDied"
        assert "exit code 7" in told.reply["evalue"]
        await becomes(kernel, "idle")


async def test_a_sandbox_that_ends_without_a_stream_ends_its_cells_and_is_replaced(tmp_path, specs_folder):
    async with surviving(tmp_path, specs_folder) as (kernel, client, _):
        lost = sandbox_of(kernel)
        cell = await client.begin_busy()
        lost.kill()
        told = await client.end(cell)
        assert told.error == "KernelDied"
        assert "its relay has ended" in told.reply["evalue"]
        await becomes(kernel, "idle")
        assert sandbox_of(kernel) is not lost
        assert (await client.run("print('again')")).text == "again\n"
