"""Virtual environments beside the sources, each made from one lock file and made again when that changes.

Stamps in each hold the digests of what it was made from, so that a second start costs two files' reading.
uv does the installing, in a fraction of pip's time; pip installs uv, in an environment of its own. Locks are
made by `make lock`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .machine import ROOT, SetupError

_MADE_FROM = "made-from.sha256"
_PROJECT = "project.sha256"


@dataclass(frozen=True)
class Environment:
    """`with_project` installs this project too, from where it lies; `python` is the interpreter below it.

    What `has_kernels` is compiled whole: an environment is read-only in a sandbox, where it cannot be later.
    """

    folder: Path
    lock: Path
    with_project: bool
    python: str = sys.executable
    has_kernels: bool = True

    @property
    def bin(self) -> Path:
        return self.folder / "bin"


SERVE = Environment(ROOT / ".venv", ROOT / "requirements/serve.txt", with_project=True)
TEST = Environment(ROOT / ".venv-test", ROOT / "requirements/test.txt", with_project=True)
_UV = Environment(ROOT / ".venv-uv", ROOT / "requirements/uv.txt", with_project=False)


def peer(name: str) -> Environment:
    """Another gateway, for the bench: `name` is the last part of its package's name."""
    return Environment(ROOT / f".venv-{name}", ROOT / f"requirements/bench-{name}.txt", with_project=False)


def smoke(version: str, python: str) -> Environment:
    """An environment that can run the tests that need no client, on another interpreter."""
    return Environment(
        ROOT / f".venv-{version}", ROOT / "requirements/smoke.txt", True, python, has_kernels=False
    )


def make(environment: Environment) -> bool:
    """Make the environment if it is missing or was made from something else; whether it did.

    Where only the project's own metadata has changed, the project alone is installed again.
    """
    with _only_one(environment.folder):
        made_from, project = _digests(environment)
        stamps = {environment.folder / _MADE_FROM: made_from, environment.folder / _PROJECT: project}
        current = [stamp.exists() and stamp.read_text() == digest for stamp, digest in stamps.items()]
        if all(current) and (environment.bin / "python").exists():
            return False
        if not current[0]:
            name = environment.folder.relative_to(ROOT)
            print(f"Making {name} from {environment.lock.relative_to(ROOT)} ...", flush=True)
            shutil.rmtree(environment.folder, ignore_errors=True)
            _fill(environment)
        if environment.with_project:
            _install(environment, "-e", str(ROOT))
        for stamp, digest in stamps.items():
            stamp.write_text(digest)
        return True


@functools.cache
def uv() -> str:
    """uv, in the version that its lock names."""
    make(_UV)
    return str(_UV.bin / "uv")


def _fill(environment: Environment) -> None:
    """A new environment with what its lock names."""
    exactly = ("--require-hashes", "-r", str(environment.lock))
    if environment == _UV:
        _run(environment.python, "-m", "venv", str(environment.folder))
        pip = (str(environment.bin / "python"), "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "-q", "--no-deps", *exactly)
    else:
        _run(uv(), "venv", "-q", "--python", environment.python, str(environment.folder))
        _install(environment, *(["--compile-bytecode"] if environment.has_kernels else []), *exactly)


def _install(environment: Environment, *what: str) -> None:
    """Install this and nothing that it depends on: the lock has everything."""
    _run(uv(), "pip", "install", "-q", "--no-deps", "--python", str(environment.bin / "python"), *what)


def _digests(environment: Environment) -> tuple[str, str]:
    """What it is made from: lock, interpreter, place, and how; and the metadata of the project in it."""
    parts = [environment.lock.read_bytes(), _identity(environment.python), str(environment.folder).encode()]
    parts.append(b"compiled" if environment.has_kernels else b"")
    project = (ROOT / "setup.cfg").read_bytes() if environment.with_project else b""
    return hashlib.sha256(b"\0".join(parts)).hexdigest(), hashlib.sha256(project).hexdigest()


def _identity(python: str) -> bytes:
    """Which interpreter that is; an upgrade of it in place counts as another one."""
    code = "import sys; print(sys.base_prefix, sys.version)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True).stdout


def _run(*command: str) -> None:
    if subprocess.run(command, env=packages.for_uv(os.environ)).returncode != 0:
        raise SetupError(f"This command failed; its own message is above: {' '.join(command)}")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two `make` at once wait for each other instead of writing one environment together."""
    import fcntl  # only Unix has it; elsewhere `check_system` says what is missing, once this can be imported

    with open(folder.with_name(folder.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
