"""Resolves the lock files again, for every Python that is declared, with the digest of every file.

uv is used for this and nothing else: it resolves for several Python versions at once, which pip's tools
cannot. The locks name no registry; where packages come from is a matter of the site.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from .machine import ROOT

#: Lock -> what it is resolved from.
LOCKS = {
    "kernelspecs/python3/requirements.txt": ["kernelspecs/python3/requirements.in"],
    "requirements/bench-enterprise-gateway.txt": ["requirements/bench-enterprise-gateway.in"],
    "requirements/bench-kernel-gateway.txt": ["requirements/bench-kernel-gateway.in"],
    "requirements/gateway.txt": ["setup.cfg", "requirements/gateway.in"],
    "requirements/relay.txt": ["requirements/relay.in"],
    "requirements/serve.txt": ["setup.cfg", "requirements/serve.in"],
    "requirements/smoke.txt": ["setup.cfg", "--extra=test"],
    "requirements/test.txt": ["setup.cfg", "--extra=test", "requirements/test.in"],
}

_OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--quiet"]


def main() -> None:
    """Make every lock, keeping versions that still fit unless `--upgrade` is given."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        bin_folder = Path(folder, "bin")
        subprocess.run([bin_folder / "pip", "install", "-q", "uv"], check=True)
        compile_lock = [str(bin_folder / "uv"), "pip", "compile", *_OPTIONS, *sys.argv[1:]]
        for lock, sources in LOCKS.items():
            subprocess.run(
                [*compile_lock, "-o", lock, *sources], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
            )
            print(f"{lock} is resolved", flush=True)


if __name__ == "__main__":
    main()
