"""What this machine must have before anything can be built, and how it gets it.

Packages come from the machine's own package manager, and only where that asks nobody: as root, or where
sudo needs no password. Otherwise the exact command is printed, for a person to type.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

OLDEST_PYTHON = (3, 11)

#: What an account has that was made for one run of the tests.
SYSTEM_PYTHON = "/usr/bin/python3"


def cache() -> Path:
    """The folder of what takes long to make and outlives a clone, below the account's cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "jupyter-sandbox-gateway"


class SetupError(Exception):
    """This machine cannot go on by itself. The message says why, and what to do, in a sentence."""


@dataclass(frozen=True)
class Package:
    """A Debian package, and how to tell that what it brings is there already."""

    name: str
    present: Callable[[], bool]


def program(package: str, *names: str) -> Package:
    """A package that brings these programs."""
    return Package(package, lambda: all(shutil.which(name) for name in names))


def _system_python_makes_environments() -> bool:
    command = [SYSTEM_PYTHON, "-c", "import ensurepip"]
    return Path(SYSTEM_PYTHON).exists() and subprocess.run(command, capture_output=True).returncode == 0


#: What `make serve` needs. Debian's Python has `venv`, and in a package what `venv` cannot do without. Each
#: version has its own; python3-venv brings that of the default version.
TO_SERVE = (
    program("bubblewrap", "bwrap"),
    Package(
        "python{}.{}-venv".format(*sys.version_info),
        lambda: importlib.util.find_spec("ensurepip") is not None,
    ),
)

#: What `make test` needs beyond that.
TO_TEST = (
    *TO_SERVE,
    # Only root makes an account that runs the system's own Python.
    Package("python3-venv", lambda: os.geteuid() != 0 or _system_python_makes_environments()),
    program("chromium", "chromium"),
    program("nodejs", "node"),
    program("npm", "npm"),
    program("curl", "curl"),
    program("git", "git"),
    program("openssl", "openssl"),
    # The system call filter is held against the runtimes' profile and the system's table of calls.
    Package("golang-github-containers-common", Path("/usr/share/containers/seccomp.json").exists),
    Package("linux-libc-dev", Path("/usr/include/asm-generic/unistd.h").exists),
    # A kernel that is not Python; with R itself.
    Package("r-cran-irkernel", lambda: Path("/usr/lib/R/site-library/IRkernel").exists()),
)

#: What the images need, with the base that they start from in the tests.
TO_IMAGES = (program("mmdebstrap", "mmdebstrap"), program("buildah", "buildah"))

#: What a Kubernetes for the tests needs beyond that, to be built and to run, but for Go.
TO_CLUSTER = (
    *TO_IMAGES,
    program("gcc", "gcc"),
    Package("libc6-dev", Path("/usr/include/stdio.h").exists),
    Package("libseccomp-dev", Path("/usr/include/seccomp.h").exists),
    program("pkg-config", "pkg-config"),
    program("openssl", "openssl"),
    program("iproute2", "ip"),
    program("iptables", "iptables", "ip6tables"),
    program("ipset", "ipset"),
    program("nftables", "nft"),
    program("conntrack", "conntrack"),
    Package("containernetworking-plugins", Path("/usr/lib/cni/host-local").exists),
)

_SYSTEMS_WITHOUT = {
    "Darwin": "Sandboxes need Linux: on macOS, run this inside a Linux virtual machine"
    " (for example one made by Lima, Multipass or UTM).",
    "Windows": "Sandboxes need Linux: on Windows, run this inside the Windows Subsystem for Linux (WSL 2).",
}


def check_system(system: str = platform.system(), version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Raises `SetupError` on a system that has no sandboxes, or with a Python that is too old."""
    if system != "Linux":
        raise SetupError(_SYSTEMS_WITHOUT.get(system, f"Sandboxes need Linux, and this is {system}."))
    if version < OLDEST_PYTHON:
        raise SetupError(
            f"Python 3.11 or later is needed, and this is {version[0]}.{version[1]}:"
            " run `make PYTHON=python3.12` (or the name of another that is installed)."
        )


def ensure(packages: tuple[Package, ...]) -> None:
    """Install what is missing, or raise `SetupError` with the command that would."""
    missing = [package.name for package in packages if not package.present()]
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise SetupError(f"Install these with the package manager of this system, and try again: {names}")
    become_root = _become_root()
    if become_root is None:
        raise SetupError(
            "These packages are missing. Type this, and try again: "
            f"sudo apt-get update && sudo apt-get install {names}"
        )
    print(f"Installing with apt-get: {names}", flush=True)
    install = [*become_root, "apt-get", "install", "--yes", "-qq", "--no-install-recommends", *missing]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(install, env=environment, stdout=subprocess.DEVNULL).returncode != 0:
        # The package lists may be missing, as in a fresh container, or too old for the mirror.
        subprocess.run([*become_root, "apt-get", "update", "-qq"], env=environment, check=False)
        if subprocess.run(install, env=environment, stdout=subprocess.DEVNULL).returncode != 0:
            raise SetupError(f"This command failed; its own message is above: {' '.join(install)}")
    importlib.invalidate_caches()  # ensurepip may have come
    still = [package.name for package in packages if not package.present()]
    if still:
        raise SetupError(f"Installed, and yet not usable (this is {sys.executable}): {', '.join(still)}")


def _become_root() -> list[str] | None:
    """What to put before a command that needs root; None where a person would be asked."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0:
        # sudo drops the environment; debconf must be told again not to ask.
        return [*sudo, "env", "DEBIAN_FRONTEND=noninteractive"]
    return None
