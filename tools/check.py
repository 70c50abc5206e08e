"""`make test`: every check and every test, and as root those of clients and sandboxes as an ordinary user.

    python -m tools.check                 all of it
    python -m tools.check tests/e2e ...   set up, and run only these folders, files or tests, as this account

All of it runs, also after something failed, two commands at a time; a table at the end says how each went and
how long it took.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environments, interpreters, lanes, machine, serve
from .lanes import Row
from .machine import ROOT, SetupError

#: What runs as an ordinary user where this is root: whatever makes sandboxes, and what people type.
AS_ORDINARY_USER = (
    "tests/integration/serve",
    "tests/integration/bubblewrap",
    "tests/conformance/backend",
    "tests/escape",
    "tests/e2e",
)

#: The row that runs them.
ORDINARY = "as an ordinary user"

#: All of that runs as root too, but for these folders, of which only some does. The clients see of a gateway
#: what it answers, whoever runs it; what is left to root has a test that needs root's control groups.
AS_ROOT = {"tests/e2e": ["tests/e2e/test_notebooks.py"]}

#: Commands that run side by side: most of them wait, for a kernel, a page or a pod, half of the time.
LANES = 2

#: Of which each folder has a command of its own, and the files beside them have one.
_DIVIDED = ROOT / "tests" / "cluster"

#: What stops parts of the cluster and fills its node: it comes when all else that runs pods has ended.
DISRUPTIVE = "tests/cluster/disruptive"

#: What begins first, in this order. What runs pods waits for them half of the time, so that two of it go well
#: side by side; what is disruptive then has beside it what computes and starts the least.
_FIRST = (
    *(DISRUPTIVE, "tests/cluster", "tests/cluster/clients", "tests/cluster/backend", "tests/cluster/escape"),
    *("tests/unit", ORDINARY, "tests/integration"),
)

#: How a test says that it needs a cluster.
_NEEDS_CLUSTER = 'requires("cluster"'

_TOOLS = environments.TEST.bin
_PYTHON = str(_TOOLS / "python")

Command = tuple[str, ...]


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


def needs_cluster(paths: Sequence[str]) -> bool:
    """Whether any of these tests, or of all where none is named, asks for a cluster."""
    places = [ROOT / path.partition("::")[0] for path in paths] or [ROOT / "tests"]
    files = (file for place in places for file in ([place] if place.is_file() else place.rglob("test_*.py")))
    return any(_NEEDS_CLUSTER in file.read_text() for file in files)


def has_tests(path: str) -> bool:
    """Whether there is such a file, or a folder that has tests; "::" and what follows is pytest's to find."""
    place = ROOT / path.partition("::")[0]
    return place.is_file() or any(place.rglob("test_*.py"))


def tests(paths: Sequence[str], accounts: Path) -> dict[str, Command]:
    """A command for each folder below tests/ that has tests, or for what was asked for of it.

    Each in a process of its own: what one folder keeps for its whole run (a gateway, a browser) is then no
    child of the next one's process, where some count their children. They leave in `accounts` what they ran.
    Raises `SetupError` for a path that has no tests.
    """
    for path in paths:
        if not has_tests(path):
            raise SetupError(f"There are no tests in {path!r}.")
    folders = {} if paths else _every_folder()
    for path in paths:
        folders.setdefault("/".join(Path(path).parts[:2]), []).append(path)
    found = {}
    for name, members in folders.items():
        account = accounts / f"{name.replace('/', '-')}.json"
        found[name] = (_PYTHON, "-m", "pytest", "--durations=5", f"--account={account}", *members)
    return found


def _every_folder() -> dict[str, list[str]]:
    """What is run for each."""
    folders = [*(ROOT / "tests").glob("*/"), *_DIVIDED.glob("*/")]
    folders.remove(_DIVIDED)
    names = sorted(str(folder.relative_to(ROOT)) for folder in folders)
    beside = [str(file.relative_to(ROOT)) for file in sorted(_DIVIDED.glob("test_*.py"))]
    found = {**{name: [name] for name in names if has_tests(name)}, str(_DIVIDED.relative_to(ROOT)): beside}
    return {**found, **(AS_ROOT if os.geteuid() == 0 else {})}


def left_to_ordinary_user() -> list[str]:
    """The files of tests that root does not run itself."""
    if os.geteuid() != 0:
        return []
    return [
        name
        for folder, members in AS_ROOT.items()
        for file in sorted((ROOT / folder).rglob("test_*.py"))
        if (name := str(file.relative_to(ROOT))) not in members
    ]


def judge(paths: Sequence[str], accounts: Path) -> Command:
    """What accounts for all that the tests did not run, when they have ended."""
    left = [] if paths else [f"--left={file}" for file in left_to_ordinary_user()]
    return (
        *(_PYTHON, "-m", "tests.support.accounts", *left, "tests/platforms.toml", str(accounts)),
        *(paths or ["tests"]),
    )


def commands(paths: Sequence[str], accounts: Path) -> dict[str, Command]:
    """Name -> command, what takes longest early. Raises `SetupError` for a path that has no tests."""
    found = tests(paths, accounts)
    if paths:
        return found
    if os.geteuid() == 0:
        found[ORDINARY] = (sys.executable, "-m", "tools.scratch_account", *AS_ORDINARY_USER)
    return {
        "format": (str(_TOOLS / "ruff"), "format", "--check", "."),
        "lint": (str(_TOOLS / "ruff"), "check", "."),
        "types": (str(_TOOLS / "mypy"), f"--cache-dir={machine.cache() / 'mypy'}"),
        **{name: found.pop(name) for name in _FIRST if name in found},
        **found,
    }


def behind(names: Iterable[str]) -> dict[str, list[str]]:
    """Which of these commands begin only when others have ended, and which others."""
    pods = str(_DIVIDED.relative_to(ROOT))
    return {DISRUPTIVE: [name for name in names if name.startswith(pods) and name != DISRUPTIVE]}


def main() -> None:
    # An exit, so that what runs is ended and the scratch account is removed all the same.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    paths = sys.argv[1:]
    with tempfile.TemporaryDirectory() as accounts, contextlib.ExitStack() as stack:
        began = time.monotonic()
        try:
            machine.check_system()
            wanted = commands(paths, Path(accounts))
            set_up(paths)
            if needs_cluster(paths):
                from . import cluster  # elsewhere than on Linux it cannot be imported, nor come so far

                os.environ.update(stack.enter_context(cluster.for_tests()))
        except SetupError as error:
            sys.exit(str(error))
        rows = [Row("set up", True, time.monotonic() - began)]
        rows += lanes.run(wanted, 1 if paths else min(LANES, os.cpu_count() or 1), behind(wanted))
        rows += lanes.run({"what was not run": judge(paths, Path(accounts))}, 1)
    print()
    for row in rows:
        print(f"{'ok' if row.well else 'FAILED':<8}{row.seconds:7.1f} s  {row.name}")
    print(f"{time.monotonic() - began:15.1f} s  in all")
    sys.exit(0 if all(row.well for row in rows) else 1)


if __name__ == "__main__":
    main()
