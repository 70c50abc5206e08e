"""`make serve`: set up what is needed, then become the gateway.

The gateway prints its URL, its token and the lines to paste. Arguments are its options.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environments, machine, packages
from .machine import ROOT, SetupError

#: The teaching environment, with its kernelspec in share/jupyter.
KERNEL = ROOT / "build" / "python3"

#: What the printed JupyterLab line opens: a folder that holds nothing but copies of notebooks/.
SCRATCH = ROOT / ".serve" / "notebooks"


def set_up() -> None:
    """Everything that the gateway and the printed lines need. Raises `SetupError`."""
    machine.check_system()
    machine.ensure(machine.TO_SERVE)
    with ThreadPoolExecutor() as pool:
        # Two environments at once: each is a download and then one processor's work.
        kernel, gateway = pool.submit(make_kernel), pool.submit(environments.make, environments.SERVE)
        kernel.result()
        gateway.result()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        if not (SCRATCH / notebook.name).exists():
            shutil.copy(notebook, SCRATCH)


def make_kernel() -> None:
    """The teaching environment; nothing to do where it is up to date."""
    if not KERNEL.exists():
        print(f"Making {KERNEL.relative_to(ROOT)} from kernelspecs/python3/requirements.txt ...", flush=True)
    KERNEL.parent.mkdir(exist_ok=True)
    told = {**packages.for_uv(os.environ), "UV": environments.uv()}
    if subprocess.run([ROOT / "kernelspecs" / "build", KERNEL, sys.executable], env=told).returncode != 0:
        raise SetupError("The teaching environment could not be built; the reason is above.")


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The gateway's environment: this one's, with the teaching kernelspec before any other."""
    paths = [str(KERNEL / "share" / "jupyter"), *filter(None, [outer.get("JUPYTER_PATH")])]
    return {**outer, "JUPYTER_PATH": os.pathsep.join(paths)}


def main() -> None:
    try:
        set_up()
    except SetupError as error:
        sys.exit(str(error))
    program = str(Path(environments.SERVE.bin, "jupyter-gateway"))
    argv = [program, f"--JupyterGateway.lab_folder={SCRATCH}", *sys.argv[1:]]
    sys.stdout.flush()
    os.execve(program, argv, environment(os.environ))  # noqa: S606  # a signal is to reach the gateway


if __name__ == "__main__":
    main()
