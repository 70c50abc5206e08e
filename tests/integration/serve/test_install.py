"""The project installed beside ipykernel, in an environment below a home that others may be unable to enter.

That is how a person has it who never saw this repository: the kernelspec `python3` is that environment's.
uv installs it, by the same metadata as pip and in a tenth of its time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cells import run_cell
from tests.support.gateways import ROOT, GatewayProgram, bare_environment, call
from tools import environments, packages

TOKEN = "installed-token"  # noqa: S105  # of a gateway that lives for one test


def interpreter_below(folder: Path) -> Path:
    """An interpreter, and its standard library, below this account's home.

    The one that runs the tests, where it lies there already (a version manager's); else a copy of it,
    which finds its library beside itself.
    """
    base = Path(sys.base_prefix)
    version = "python{}.{}".format(*sys.version_info)
    if base.is_relative_to(Path.home()):
        return base / "bin" / version
    (folder / "python" / "bin").mkdir(parents=True)
    copied = folder / "python" / "bin" / version
    shutil.copy(base / "bin" / version, copied)
    shutil.copytree(
        base / "lib" / version, folder / "python" / "lib" / version, ignore=shutil.ignore_patterns("test")
    )
    return copied


def sources_in(folder: Path) -> Path:
    """The project without what was built in it: a build takes what an earlier one has left."""
    sources = folder / "sources"
    shutil.copytree(ROOT / "gateway", sources / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    return sources


@pytest.fixture
def installed(home_folder: Path) -> Iterator[GatewayProgram]:
    """A gateway in a fresh environment that holds this project and ipykernel, as its command starts it."""
    python = interpreter_below(home_folder)
    environment = home_folder / "environment"
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    # Compiled, as pip does it: a sandbox cannot write there, and its kernel is to start in time.
    install = [environments.uv(), "pip", "install", "--quiet", "--compile-bytecode"]
    install += ["--python", environment / "bin" / "python", sources_in(home_folder), "ipykernel"]
    subprocess.run(install, check=True, env=packages.for_uv(os.environ))
    port_and_token = ["--ip=127.0.0.1", "--port=0", f"--token={TOKEN}"]
    command = [str(environment / "bin" / "jupyter"), "gateway", *port_and_token]
    program = GatewayProgram(command, bare_environment(home_folder), home_folder)
    yield program
    program.end()
    program.close()


def test_an_installed_gateway_has_its_environments_kernel(
    installed: GatewayProgram, home_folder: Path
) -> None:
    url = installed.url()
    status, kernel = call(f"{url}api/kernels", TOKEN, "POST", {"name": "python3"})
    assert status == 201, kernel
    code = "import sys, os; print(sys.prefix, os.getuid())"
    assert asyncio.run(run_cell(code, url, TOKEN, kernel["id"])).split() == [
        str(home_folder / "environment"),
        "1000",
    ]
