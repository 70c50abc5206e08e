"""Virtual environments beside the sources, each made from one lock file and made again when that changes.

Stamps in each hold the digests of what it was made from, so that a second start costs two files' reading.
pip does the installing: it is in every virtual environment, and it honours the mirror, certificate and
cache settings that a site has made for it. Locks are made by `make lock`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .machine import ROOT, SetupError

_MADE_FROM = "made-from.sha256"
_PROJECT = "project.sha256"


@dataclass(frozen=True)
class Environment:
    """`with_project` installs this project too, from where it lies; `python` is the interpreter below it."""

    folder: Path
    lock: Path
    with_project: bool
    python: str = sys.executable

    @property
    def bin(self) -> Path:
        return self.folder / "bin"


SERVE = Environment(ROOT / ".venv", ROOT / "requirements/serve.txt", with_project=True)
TEST = Environment(ROOT / ".venv-test", ROOT / "requirements/test.txt", with_project=True)


def peer(name: str) -> Environment:
    """Another gateway, for the bench: `name` is the last part of its package's name."""
    return Environment(ROOT / f".venv-{name}", ROOT / f"requirements/bench-{name}.txt", with_project=False)


def smoke(version: str, python: str) -> Environment:
    """An environment that can run the tests that need no client, on another interpreter."""
    return Environment(ROOT / f".venv-{version}", ROOT / "requirements/smoke.txt", True, python)


def make(environment: Environment) -> bool:
    """Make the environment if it is missing or was made from something else; whether it did.

    Where only the project's own metadata has changed, the project alone is installed again.
    """
    with _only_one(environment.folder):
        made_from, project = _digests(environment)
        pip = (str(environment.bin / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q")
        stamps = {environment.folder / _MADE_FROM: made_from, environment.folder / _PROJECT: project}
        current = [stamp.exists() and stamp.read_text() == digest for stamp, digest in stamps.items()]
        if all(current) and (environment.bin / "python").exists():
            return False
        if not current[0]:
            name = environment.folder.relative_to(ROOT)
            print(f"Making {name} from {environment.lock.relative_to(ROOT)} ...", flush=True)
            shutil.rmtree(environment.folder, ignore_errors=True)
            _run(environment.python, "-m", "venv", str(environment.folder))
            _run(*pip, "--require-hashes", "--no-deps", "-r", str(environment.lock))
        if environment.with_project:
            _run(*pip, "--no-deps", "-e", str(ROOT))
        for stamp, digest in stamps.items():
            stamp.write_text(digest)
        return True


def _digests(environment: Environment) -> tuple[str, str]:
    """What it is made from: lock, interpreter and place; and the metadata of the project in it."""
    lock = [environment.lock.read_bytes(), _identity(environment.python), str(environment.folder).encode()]
    project = (ROOT / "setup.cfg").read_bytes() if environment.with_project else b""
    return hashlib.sha256(b"\0".join(lock)).hexdigest(), hashlib.sha256(project).hexdigest()


def _identity(python: str) -> bytes:
    """Which interpreter that is; an upgrade of it in place counts as another one."""
    code = "import sys; print(sys.base_prefix, sys.version)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True).stdout


def _run(*command: str) -> None:
    if subprocess.run(command).returncode != 0:
        raise SetupError(f"This command failed; its own message is above: {' '.join(command)}")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two `make` at once wait for each other instead of writing one environment together."""
    import fcntl  # only Unix has it; elsewhere `check_system` says what is missing, once this can be imported

    with open(folder.with_name(folder.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
