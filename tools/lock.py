"""Resolves the lock files again, for every Python that is declared, with the digest of every file.

uv resolves for several Python versions at once, which pip's tools cannot. The locks name no registry; where
packages come from is a matter of the site.
"""

from __future__ import annotations

import os
import subprocess
import sys

from . import environments, packages
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
    "requirements/uv.txt": ["requirements/uv.in"],
}

_OPTIONS = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--quiet"]


def main() -> None:
    """Make every lock, keeping versions that still fit unless `--upgrade` is given."""
    compile_lock = [environments.uv(), "pip", "compile", *_OPTIONS, *sys.argv[1:]]
    site = packages.for_uv(os.environ)
    for lock, sources in LOCKS.items():
        subprocess.run(
            [*compile_lock, "-o", lock, *sources], cwd=ROOT, env=site, check=True, stdout=subprocess.DEVNULL
        )
        print(f"{lock} is resolved", flush=True)


if __name__ == "__main__":
    main()
