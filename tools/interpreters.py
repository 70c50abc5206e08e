"""The Python versions that the project declares, and the interpreters of them that this machine has."""

from __future__ import annotations

import functools
import glob
import shutil
import subprocess
import sys
from pathlib import Path

from .environments import Environment, smoke

#: As in setup.cfg.
VERSIONS = ("3.11", "3.12", "3.13")


@functools.cache
def find(version: str) -> str | None:
    """An interpreter of that version that can make environments; None where there is none."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(glob.glob(str(Path.home() / f".pyenv/versions/{version}.*/bin/python{version}")))
    code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        if candidate is None:
            continue
        # A version manager's shim may be found and have nothing behind it.
        result = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if result.returncode == 0 and result.stdout.strip() == version:
            return candidate
    return None


def others() -> dict[str, str]:
    """Version -> interpreter, of those that can be had beside the one that runs this."""
    own = "{}.{}".format(*sys.version_info)
    found = {version: find(version) for version in VERSIONS if version != own}
    return {version: python for version, python in found.items() if python is not None}


def environments() -> list[Environment]:
    """An environment for each of `others`."""
    return [smoke(version, python) for version, python in others().items()]
