"""`make test`: every check and every test, and as root the client and sandbox tests as an ordinary user too.

    python -m tools.check                 all of it
    python -m tools.check tests/e2e ...   set up, and run only these folders, files or tests, as this account

Every step runs, also after one that failed, and a table at the end says how each went and how long it took.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environments, interpreters, machine, serve
from .machine import ROOT, SetupError

#: What runs again as an ordinary user: whatever makes sandboxes, and what people type.
AS_ORDINARY_USER = (
    "tests/integration/serve",
    "tests/integration/bubblewrap",
    "tests/conformance/backend",
    "tests/escape",
    "tests/e2e",
)

_TOOLS = environments.TEST.bin


def set_up(paths: Sequence[str]) -> None:
    """Everything that these tests need. Raises `SetupError`."""
    machine.ensure(machine.TO_TEST)
    wanted = [environments.TEST, environments.SERVE, *([] if paths else interpreters.environments())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernel = pool.submit(serve.make_kernel)
        # list() has the first failure raised here.
        list(pool.map(environments.make, wanted))
        kernel.result()
    if subprocess.run([ROOT / "tests" / "e2e" / "clients" / "install"]).returncode != 0:
        raise SetupError("The clients from npm could not be fetched; the reason is above.")


def command(*words: str) -> Callable[[], bool]:
    """A step that runs a program in the project's folder; whether it ended well."""
    return lambda: subprocess.run(words, cwd=ROOT).returncode == 0


def as_ordinary_user() -> bool:
    """A step that runs the tests of `AS_ORDINARY_USER` as one."""
    from . import scratch_account  # needs modules of Unix; elsewhere `set_up` says what is missing

    return scratch_account.check(AS_ORDINARY_USER)


def has_tests(path: str) -> bool:
    """Whether there is such a file, or a folder that has tests; "::" and what follows is pytest's to find."""
    place = ROOT / path.partition("::")[0]
    return place.is_file() or any(place.rglob("test_*.py"))


def tests(paths: Sequence[str], accounts: Path) -> dict[str, Callable[[], bool]]:
    """A step for each folder below tests/ that has tests, and one that accounts for what they did not run.

    Each in a process of its own: what one folder keeps for its whole run (a gateway, a browser) is then no
    child of the next one's process, where some count their children. They leave in `accounts` what they ran.
    Raises `SetupError` for a path that has no tests.
    """
    for path in paths:
        if not has_tests(path):
            raise SetupError(f"There are no tests in {path!r}.")
    every_folder = sorted(str(folder.relative_to(ROOT)) for folder in (ROOT / "tests").glob("*/"))
    folders: dict[str, list[str]] = {}
    for path in paths or filter(has_tests, every_folder):
        folders.setdefault("/".join(Path(path).parts[:2]), []).append(path)
    python = str(_TOOLS / "python")
    found = {}
    for name, members in folders.items():
        account = accounts / f"{name.replace('/', '-')}.json"
        found[name] = command(python, "-m", "pytest", "--durations=5", f"--account={account}", *members)
    judge = [python, "-m", "tests.support.accounts", "tests/platforms.toml", str(accounts)]
    return {**found, "what was not run": command(*judge, *(paths or ["tests"]))}


def steps(paths: Sequence[str], accounts: Path) -> dict[str, Callable[[], bool]]:
    """Name -> step, in order. Raises `SetupError` for a path that has no tests."""
    if paths:
        return tests(paths, accounts)
    everything = {
        "format": command(str(_TOOLS / "ruff"), "format", "--check", "."),
        "lint": command(str(_TOOLS / "ruff"), "check", "."),
        "types": command(str(_TOOLS / "mypy")),
        **tests([], accounts),
    }
    if os.geteuid() == 0:
        everything["as an ordinary user"] = as_ordinary_user
    return everything


def run(step: Callable[[], bool]) -> bool:
    """Whether a step ended well; what it could not do is printed, and the other steps go on."""
    try:
        return step()
    except SetupError as error:
        print(error, flush=True)
        return False


def main() -> None:
    # An exit, so that the scratch account is removed all the same.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    paths = sys.argv[1:]
    with tempfile.TemporaryDirectory() as accounts:
        began = time.monotonic()
        try:
            machine.check_system()
            every_step = steps(paths, Path(accounts))
            set_up(paths)
        except SetupError as error:
            sys.exit(str(error))
        rows = [("set up", True, time.monotonic() - began)]
        for name, step in every_step.items():
            print(f"--- {name}", flush=True)
            began = time.monotonic()
            rows.append((name, run(step), time.monotonic() - began))
    print()
    for name, well, seconds in rows:
        print(f"{'ok' if well else 'FAILED':<8}{seconds:7.1f} s  {name}")
    sys.exit(0 if all(well for _, well, _ in rows) else 1)


if __name__ == "__main__":
    main()
