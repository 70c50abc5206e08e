"""What this machine lacks for sandboxes, and what to type: tools, versions, and Linux's own restrictions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ...relay.seccomp import UnsupportedArchitectureError, build_filter
from ..base import Check
from .command import OUTER_ENVIRONMENT

#: `--disable-userns` and `--size` are of this version.
OLDEST_BWRAP = (0, 8, 0)

#: Package manager -> how it installs bubblewrap; looked for in this order.
INSTALL: Mapping[str, str] = {
    "apt-get": "sudo apt-get install bubblewrap util-linux",
    "dnf": "sudo dnf install bubblewrap util-linux",
    "apk": "sudo apk add bubblewrap util-linux-misc setpriv mount",
    "pacman": "sudo pacman -S bubblewrap util-linux",
    "zypper": "sudo zypper install bubblewrap util-linux",
}

_ELSEWHERE = (
    "Run the gateway on Linux: in a virtual machine, or under WSL 2 on Windows. Containers on macOS and "
    "Windows run in such a machine."
)

#: Ubuntu from 23.10 on: a program needs a profile that grants user namespaces.
_APPARMOR = (
    "Give bubblewrap a profile that lets it make user namespaces: printf 'abi <abi/4.0>,\\ninclude "
    "<tunables/global>\\nprofile bwrap {bwrap} flags=(unconfined) {{\\n  userns,\\n}}\\n' | sudo tee "
    "/etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap"
)
_CLONE = (
    "sudo sysctl -w kernel.unprivileged_userns_clone=1 (in a file of /etc/sysctl.d it stays after a boot)"
)
_NAMESPACES = (
    "sudo sysctl -w user.max_user_namespaces=15000 (in a file of /etc/sysctl.d it stays after a boot)"
)
_CONTAINER = (
    "A container's own restrictions forbid what a sandbox needs. Run the gateway outside the container, or "
    "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined, as root in it also with --cap-add SYS_ADMIN."
)
_UNKNOWN = "docs/design.md says what a sandbox needs of Linux; dmesg may say what refused it."


def look_for_tools(bwrap: str) -> list[Check]:
    """Whether what builds sandboxes is there; the last check is the first that fails."""
    checks = []
    for look in (_platform, _architecture, lambda: _bwrap(bwrap), _programs):
        checks.append(look())
        if not checks[-1].ok:
            break
    return checks


def find(program: str) -> str | None:
    """The absolute path of a program where the chain that builds a sandbox will look for it."""
    return shutil.which(program, path=OUTER_ENVIRONMENT["PATH"])


def _platform() -> Check:
    name = platform.system()
    if name != "Linux":
        return Check("platform", False, f"Sandboxes need Linux, and this is {name}.", _ELSEWHERE)
    return Check("platform", True, f"Linux {platform.release()}")


def _architecture() -> Check:
    machine = platform.machine()
    try:
        build_filter(machine, deny_unaccounted_memory=True)
    except UnsupportedArchitectureError as error:
        return Check("architecture", False, str(error))
    return Check("architecture", True, f"There is a system call filter for {machine}.")


def _bwrap(name: str) -> Check:
    path = find(name)
    if path is None:
        return Check("bubblewrap", False, f"There is no program {name!r}.", _install("bubblewrap"))
    try:
        told = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            env=OUTER_ENVIRONMENT,
            timeout=20,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("bubblewrap", False, f"{path} cannot be run: {error}.", _install("bubblewrap"))
    return judge_version(path, told)


def judge_version(path: str, told: str) -> Check:
    """What `bwrap --version` told."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", told)
    if match is None:
        return Check("bubblewrap", None, f"{path} does not tell its version: {told.strip()[:100]!r}.")
    version = tuple(int(part or 0) for part in match.groups())
    oldest = ".".join(map(str, OLDEST_BWRAP))
    if version < OLDEST_BWRAP:
        return Check(
            "bubblewrap",
            False,
            f"bubblewrap {match[0]} is too old; sandboxes need {oldest}.",
            "Debian 12, Ubuntu 23.10, Fedora 38 and later have it. Or build it from its sources and set "
            "BubblewrapBackend.bwrap to its path.",
        )
    return Check("bubblewrap", True, f"bubblewrap {match[0]}, {path}")


def _programs() -> Check:
    needed = ["choom", "prlimit", "sh"]
    if os.geteuid() == 0:
        needed += ["mount", "nsenter", "setpriv", "unshare"]
    missing = [name for name in needed if find(name) is None]
    if missing:
        return Check(
            "programs", False, f"These programs are missing: {', '.join(missing)}.", _install("util-linux")
        )
    return Check("programs", True, f"{', '.join(needed)} are there.")


def _install(package: str) -> str:
    for manager, line in INSTALL.items():
        if find(manager):
            return line
    return f"Install {package} with this system's package manager."


def explain(told: str, bwrap: str = "/usr/bin/bwrap", proc: Path = Path("/proc")) -> Check:
    """Why no sandbox came up, from what the attempt printed and from Linux's settings below `proc`."""
    detail = f"No sandbox can be made here: {told[-500:].strip() or 'it ended without a word'}"
    return Check("sandbox", False, detail, _remedy(told, bwrap, proc))


def _remedy(told: str, bwrap: str, proc: Path) -> str:
    if _setting(proc / "sys/user/max_user_namespaces") == 0:
        return _NAMESPACES
    if _setting(proc / "sys/kernel/unprivileged_userns_clone") == 0:
        return _CLONE
    if _setting(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == 1:
        return _APPARMOR.format(bwrap=bwrap)
    if re.search(r"mount proc|unshare failed|nsenter|new namespace|Operation not permitted", told):
        return _CONTAINER
    return _UNKNOWN


def _setting(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
