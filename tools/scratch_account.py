"""An ordinary user for a while: an account with a home and a clone of its own, gone afterwards.

What a developer sees as root says little about what an ordinary user gets: user namespaces, cgroups
and the paths that may be read all differ. So as root, `make test` runs the tests that make sandboxes a
second time as such a user, in a clone of what is being tested (uncommitted changes included), with the
system's own Python. The caches of pip, uv and npm are copied, so that nothing is fetched twice.

    python -m tools.scratch_account tests/escape ...
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .machine import ROOT, SYSTEM_PYTHON, SetupError

_PREFIX = "gateway-test-"
_PATH = "/usr/local/bin:/usr/bin:/bin"

#: What of this environment concerns the machine and not the account: where packages come from, and how.
_OF_THE_MACHINE = ("PIP_", "UV_", "NPM_CONFIG_", "npm_config_", "SSL_CERT_", "REQUESTS_CA_", "NODE_EXTRA_CA_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")

#: Where a cache lies: the variable that may say so, and the folder below a home where it does not.
_CACHES = {"PIP_CACHE_DIR": ".cache/pip", "UV_CACHE_DIR": ".cache/uv", "npm_config_cache": ".npm"}

#: Most people are in some group beside their own, and their sandboxes stay in it. These open nothing.
_GROUPS = "users,games"


@dataclass(frozen=True)
class Account:
    """A user that exists while `scratch_account` runs."""

    name: str
    home: Path

    @property
    def project(self) -> Path:
        """Its clone."""
        return self.home / "project"

    def run(self, *command: str) -> bool:
        """Run a program as this user in its clone, without root's environment; whether it ended well."""
        wanted = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "PATH": _PATH}
        wanted |= {"LANG": "C.UTF-8", "CI": os.environ.get("CI", "")}
        for name, value in os.environ.items():
            if name.startswith(_OF_THE_MACHINE) or name.lower() in _PROXIES:
                wanted[name] = value
        # Its caches are its own: copies below its home.
        for name in _CACHES:
            wanted.pop(name, None)
        prefix = ["runuser", "-u", self.name, "--", "env", "-i", "-C", str(self.project)]
        words = [f"{name}={value}" for name, value in wanted.items()]
        return subprocess.run([*prefix, *words, *command]).returncode == 0


@contextlib.contextmanager
def scratch_account() -> Iterator[Account]:
    """A new account with a clone of the project; it and all that it has left are removed at the end."""
    _sweep()
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
    home = Path("/home", name)
    place = ("--create-home", "--home-dir", str(home))
    _as_root("useradd", *place, "--shell", "/bin/bash", "--groups", _GROUPS, name)
    try:
        account = Account(name, home)
        _clone(account)
        _copy_caches(account)
        _as_root("chown", "-R", f"{name}:", str(home))
        yield account
    finally:
        _remove(name)


def _clone(account: Account) -> None:
    """A clone of this repository, with the changes that are not committed."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-c", f"safe.directory={ROOT}/.git", "-C", str(ROOT)]
    _as_root(*git, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(account.project))
    listing = [*git, "ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard"]
    changed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    for path in filter(None, changed.split("\0")):
        source, target = ROOT / path, account.project / path
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)


def _copy_caches(account: Account) -> None:
    for variable, below_home in _CACHES.items():
        source = Path(os.environ.get(variable) or Path.home() / below_home)
        if source.is_dir():
            shutil.copytree(source, account.home / below_home)


def _sweep() -> None:
    """Remove the accounts of earlier runs that were killed."""
    for entry in pwd.getpwall():
        if entry.pw_name.startswith(_PREFIX):
            maker = entry.pw_name.removeprefix(_PREFIX).partition("-")[0]
            if not Path("/proc", maker).exists():
                _remove(entry.pw_name)


def _remove(name: str) -> None:
    """End the account's processes, then delete it and its home."""
    uid = pwd.getpwnam(name).pw_uid
    deadline = time.monotonic() + 10
    while processes := _processes(uid):
        if time.monotonic() > deadline:
            raise SetupError(
                f"Processes of {name} do not end: {processes}. Remove it with: userdel -r {name}"
            )
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _as_root("userdel", "--remove", name)


def _processes(uid: int) -> list[int]:
    """The processes of a user, by /proc; zombies do not count."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
            )
            if int(status["Uid"].split()[0]) == uid and status["State"].split()[0] != "Z":
                found.append(int(folder.name))
    return found


def _as_root(*words: str) -> None:
    result = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise SetupError(f"{' '.join(words)} failed: {result.stderr.strip()}")


def main() -> None:
    """Run the tests that are named as an ordinary user; exits with 0 where all went well."""
    # An exit, so that the account is removed all the same.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with scratch_account() as account:
            well = account.run(SYSTEM_PYTHON, "-m", "tools.check", *sys.argv[1:])
    except SetupError as error:
        sys.exit(str(error))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
