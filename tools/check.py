"""`make test`: every check and every test, and as root the client and sandbox tests as an ordinary user too.

    python -m tools.check                 all of it
    python -m tools.check tests/e2e ...   set up, and run only these tests, as this account

Every step runs, also after one that failed, and a table at the end says how each went and how long it took.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environments, interpreters, machine, scratch_account, serve
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
    machine.check_system()
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


def tests(paths: Sequence[str]) -> dict[str, Callable[[], bool]]:
    """A step for each folder below tests/ that has tests.

    Each in a process of its own: what one folder keeps for its whole run (a gateway, a browser) is then no
    child of the next one's process, where some count their children.
    """
    folders: dict[str, list[str]] = {}
    for path in paths or sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").glob("*/")):
        if any((ROOT / path).rglob("test_*.py")) or path.endswith(".py"):
            folders.setdefault("/".join(Path(path).parts[:2]), []).append(path)
    python = str(_TOOLS / "python")
    return {
        name: command(python, "-m", "pytest", "--durations=5", *members) for name, members in folders.items()
    }


def steps(paths: Sequence[str]) -> dict[str, Callable[[], bool]]:
    """Name -> step, in order."""
    if paths:
        return tests(paths)
    everything = {
        "format": command(str(_TOOLS / "ruff"), "format", "--check", "."),
        "lint": command(str(_TOOLS / "ruff"), "check", "."),
        "types": command(str(_TOOLS / "mypy")),
        **tests([]),
    }
    if os.geteuid() == 0:
        everything["as an ordinary user"] = lambda: scratch_account.check(AS_ORDINARY_USER)
    return everything


def main() -> None:
    # An exit, so that the scratch account is removed all the same.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    try:
        set_up(sys.argv[1:])
    except SetupError as error:
        sys.exit(str(error))
    rows = [("set up", True, time.monotonic() - began)]
    for name, step in steps(sys.argv[1:]).items():
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        rows.append((name, step(), time.monotonic() - began))
    print()
    for name, well, seconds in rows:
        print(f"{'ok' if well else 'FAILED':<8}{seconds:7.1f} s  {name}")
    sys.exit(0 if all(well for _, well, _ in rows) else 1)


if __name__ == "__main__":
    main()
