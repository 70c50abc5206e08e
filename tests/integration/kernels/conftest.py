"""A registry over the real bubblewrap backend, with a kernelspec of this interpreter."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tornado.ioloop
from jupyter_client.kernelspec import KernelSpecManager

from gateway.backends.bubblewrap import BubblewrapBackend
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs

MEMORY = 300 * 1024 * 1024


def write_spec(folder: Path, name: str, argv: list[str], **metadata: object) -> None:
    spec = {"argv": argv, "display_name": name, "language": "python", "metadata": {"sandbox": metadata}}
    (folder / name).mkdir()
    (folder / name / "kernel.json").write_text(json.dumps(spec))


@pytest.fixture
def specs_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kernels"
    folder.mkdir()
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_spec(folder, "python", argv)
    write_spec(folder, "small", argv, memory=MEMORY)
    return folder


@pytest.fixture
def kernels(io_loop: tornado.ioloop.IOLoop, specs_folder: Path, tmp_path: Path) -> Iterator[Kernels]:
    backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"))
    manager = KernelSpecManager(kernel_dirs=[str(specs_folder)], ensure_native_kernel=False)
    made: list[Kernels] = []

    async def begin() -> None:
        await backend.start()
        made.append(Kernels(backend=backend, kernelspecs=KernelSpecs(manager=manager)))

    async def end() -> None:
        await made[0].close()
        await backend.close()

    io_loop.run_sync(begin)
    yield made[0]
    io_loop.run_sync(end)
