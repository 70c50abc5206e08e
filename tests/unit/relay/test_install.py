"""What `relay install` leaves in a folder: the relay, for everybody to read, and a folder that is closed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.relay import install as installing

_NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def source(place: Path) -> Path:
    """The relay's folder, as in its image."""
    folder = place / "source"
    relay = Path(installing.__file__).parent
    shutil.copytree(relay, folder / "gateway/relay", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(relay.parent / "__init__.py", folder / "gateway")
    program = folder / "bin" / "program"
    program.parent.mkdir()
    program.write_bytes(os.urandom(3 << 20))
    program.chmod(0o755)
    closed = folder / "closed"
    closed.mkdir(0o000)
    return folder


@pytest.fixture
def target(place: Path) -> Path:
    folder = place / "target"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def install(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", f"{source}/gateway/relay/__main__.py", "install", str(target)]
    return subprocess.run(command, capture_output=True, text=True)


def install_as_nobody(source: Path, target: Path) -> int:
    """The same as another user, where this is root, and without the interpreter's start; its status."""
    spec = importlib.util.spec_from_file_location("staged", source / "gateway/relay/install.py")
    assert spec is not None
    assert spec.loader is not None
    staged = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(staged)
    child = os.fork()
    if not child:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            staged.install(str(target))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Path -> bytes of everything in it but what is closed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "closed" not in path.parts and "__pycache__" not in path.parts
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_is_installed_is_the_same_and_can_install_itself(source: Path, target: Path) -> None:
    assert install(source, target).returncode == 0
    assert contents(target) == contents(source)
    again = target.with_name("again")
    again.mkdir()
    assert install(target, again).returncode == 0
    assert contents(again) == contents(source)


def test_everybody_may_read_it_and_nobody_may_write(source: Path, target: Path) -> None:
    old = os.umask(0o077)
    try:
        assert install_as_nobody(source, target) == 0
    finally:
        os.umask(old)
    for path in target.rglob("*"):
        if "closed" not in path.parts:
            expected = 0o555 if path.is_dir() or path.name == "program" else 0o444
            assert (path, mode(path)) == (path, expected)


def test_the_place_of_the_last_words_is_closed_even_to_its_owner(source: Path, target: Path) -> None:
    assert install_as_nobody(source, target) == 0
    assert mode(target / "closed") == 0
    (target / "closed").chmod(0o700)
    log = target / installing.TERMINATION_LOG
    assert log.read_bytes() == b""
    assert not mode(log) & 0o222


def test_a_second_attempt_finishes_what_the_first_has_left(source: Path, target: Path) -> None:
    assert install_as_nobody(source, target) == 0
    half = target / "bin/program"
    half.parent.chmod(0o755)
    half.unlink()
    half.write_bytes(b"half")
    half.parent.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(half, _NOBODY, _NOBODY)
    assert install_as_nobody(source, target) == 0
    assert contents(target) == contents(source)
    assert mode(target / "closed") == 0


def test_a_folder_that_is_not_there_is_told_in_a_sentence(source: Path, target: Path) -> None:
    result = install(source, target / "none")
    assert result.returncode == 1
    assert result.stderr.startswith("relay: the relay cannot be put into")
    assert "No such file or directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1
