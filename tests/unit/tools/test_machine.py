"""What a machine lacks is installed where nobody is asked, and otherwise told in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import interpreters, machine
from tools.machine import Package, SetupError

#: Programs that stand for the system's: each notes its words, and apt-get "installs" on the call that WORKS
#: names.
APT_GET = """#!/bin/sh
echo "apt-get $*" >> "$NOTES"
case "$*" in
*install*) [ "$(grep -c install "$NOTES")" -ge "$WORKS" ] && touch "$NOTES.installed" ;;
esac
"""
SUDO = """#!/bin/sh
echo "sudo $*" >> "$NOTES"
[ "$SUDO_WORKS" = 1 ] || exit 1
shift; exec "$@"
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which apt-get and sudo are ours; the file holds what they were called with."""
    for name, text in (("apt-get", APT_GET), ("sudo", SUDO)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("WORKS", "1")
    monkeypatch.setenv("SUDO_WORKS", "1")
    return tmp_path / "notes"


def wanting(notes: Path) -> tuple[Package, ...]:
    """A package that is there once apt-get has "installed" it, and one that is there already."""
    return (
        Package("bubblewrap", Path(f"{notes}.installed").exists),
        Package("python3-venv", lambda: True),
    )


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_what_is_there_is_left_alone(notes: Path) -> None:
    machine.ensure((Package("bubblewrap", lambda: True),))
    assert not notes.exists()


def test_root_installs_what_is_missing_and_only_that(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 0)
    machine.ensure(wanting(notes))
    (line,) = notes.read_text().splitlines()
    assert line.startswith("apt-get install --yes")
    assert line.endswith(" bubblewrap")


def test_package_lists_are_fetched_where_the_first_try_fails(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch, 0)
    (notes.parent / "apt-get").write_text(APT_GET + '[ -e "$NOTES.installed" ]\n')
    monkeypatch.setenv("WORKS", "2")
    machine.ensure(wanting(notes))
    assert [line.split()[1] for line in notes.read_text().splitlines()] == ["install", "update", "install"]


def test_a_user_whose_sudo_asks_nothing_installs_with_it(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch, 1000)
    machine.ensure(wanting(notes))
    assert "apt-get install" in notes.read_text()


def test_an_interpreter_needs_the_venv_package_of_its_own_version() -> None:
    code = "from tools import machine; print([package.name for package in machine.TO_SERVE])"
    for version in interpreters.VERSIONS:
        python = interpreters.find(version)
        if python is not None:
            names = subprocess.run([python, "-c", code], cwd=machine.ROOT, capture_output=True, text=True)
            assert f"'python{version}-venv'" in names.stdout, names.stderr


@pytest.mark.parametrize(
    ("uid", "system_python", "present"),
    [
        (0, "#!/bin/sh\nexit 0\n", True),
        (0, "#!/bin/sh\nexit 1\n", False),
        (0, None, False),
        (1000, None, True),
    ],
    ids=["root, and it can", "root, and it cannot", "root, and there is none", "a user"],
)
def test_the_tests_of_root_need_a_system_python_that_can_make_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, system_python: str | None, present: bool
) -> None:
    python = tmp_path / "python3"
    if system_python is not None:
        python.write_text(system_python)
        python.chmod(0o755)
    as_user(monkeypatch, uid)
    monkeypatch.setattr(machine, "SYSTEM_PYTHON", str(python))
    (package,) = [package for package in machine.TO_TEST if package.name == "python3-venv"]
    assert package.present() is present


def test_any_other_user_reads_the_exact_command(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    monkeypatch.setenv("SUDO_WORKS", "0")
    command = "sudo apt-get update && sudo apt-get install bubblewrap"
    with pytest.raises(SetupError, match=f"Type this, and try again: {command}$"):
        machine.ensure(wanting(notes))
    assert "apt-get" not in notes.read_text().replace("sudo -n true", "")


def test_a_package_that_changes_nothing_is_an_error(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 0)
    with pytest.raises(SetupError, match="not usable"):
        machine.ensure((Package("bubblewrap", lambda: False),))


@pytest.mark.parametrize(
    ("system", "version", "sentence"),
    [
        ("Darwin", (3, 12), "on macOS, run this inside a Linux virtual machine"),
        ("Windows", (3, 12), r"Windows Subsystem for Linux \(WSL 2\)"),
        ("FreeBSD", (3, 12), "Sandboxes need Linux, and this is FreeBSD"),
        ("Linux", (3, 10), "Python 3.11 or later is needed, and this is 3.10"),
    ],
)
def test_a_system_that_has_no_sandboxes_gets_one_sentence_with_the_remedy(
    system: str, version: tuple[int, int], sentence: str
) -> None:
    with pytest.raises(SetupError, match=sentence) as error:
        machine.check_system(system, version)
    assert "\n" not in str(error.value)


#: What Python on Windows does not have, of what is used here.
ONLY_ON_UNIX = ("fcntl", "pwd", "grp", "resource", "termios")


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
@pytest.mark.parametrize("program", ["serve", "check", "bench", "bench_cluster"])
def test_every_make_says_the_sentence_and_nothing_else(system: str, program: str) -> None:
    lines = ["import os, platform, sys", f"platform.system = lambda: {system!r}"]
    if system == "Windows":
        lines += ["import subprocess", "del os.geteuid"]
        lines += [f"sys.modules[{name!r}] = None" for name in ONLY_ON_UNIX]
    lines += [f"from tools import {program}", f"{program}.main()"]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=machine.ROOT, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert result.stderr.strip() == machine._SYSTEMS_WITHOUT[system]
    assert result.stdout == ""
