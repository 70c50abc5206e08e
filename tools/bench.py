"""`make bench`: set up this gateway, its peers and the kernel, and measure them in one run (tests/bench)."""

from __future__ import annotations

import subprocess
import sys

from . import environments, machine, serve
from .machine import ROOT, SetupError


def main() -> None:
    """Exits 1 on a missed gate; arguments go to the bench, for example `--rounds 1`."""
    kernel_gateway = environments.peer("kernel-gateway")
    enterprise_gateway = environments.peer("enterprise-gateway")
    try:
        machine.check_system()
        machine.ensure(machine.TO_SERVE)
        for environment in (environments.TEST, kernel_gateway, enterprise_gateway):
            environments.make(environment)
        serve.make_kernel()
    except SetupError as error:
        sys.exit(str(error))
    (ROOT / "artifacts").mkdir(exist_ok=True)
    command = [
        str(environments.TEST.bin / "python"),
        *["-m", "tests.bench", f"--json={ROOT / 'artifacts/bench.json'}"],
        f"--kernel-python={serve.KERNEL / 'bin' / 'python'}",
        f"--kernel-gateway={kernel_gateway.bin / 'jupyter-kernelgateway'}",
        f"--enterprise-gateway={enterprise_gateway.bin / 'jupyter-enterprisegateway'}",
        *sys.argv[1:],
    ]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
