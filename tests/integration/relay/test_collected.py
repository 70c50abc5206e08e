"""The relay as its image has it, with an interpreter and libraries of its own, on the interpreter at hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.relay.harness import Relay
from tools.machine import ROOT


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "relay"
    script = ROOT / "k8s/images/relay/collect.py"
    subprocess.run([sys.executable, script, ROOT, folder], check=True)
    return folder


@pytest.fixture
def program(collected: Path) -> list[str]:
    loader = [f"{collected}/bin/ld.so", "--library-path", f"{collected}/lib"]
    return [*loader, f"{collected}/bin/python3", "-I", "-S", f"{collected}/gateway/relay/__main__.py"]


@pytest.fixture
def relay(collected: Path, program: list[str], run_dirs: Path) -> Iterator[Relay]:
    made = Relay(collected, str(run_dirs / "0"), program=program)
    made.hello()
    made.open()
    yield made
    made.kill()


def mapped(relay: Relay) -> set[str]:
    """The files that the relay's process has in its memory to run."""
    lines = Path(f"/proc/{relay.process.pid}/maps").read_text().splitlines()
    fields = [line.split(maxsplit=5) for line in lines if "/" in line]
    return {file for _, permissions, _, _, _, file in fields if "x" in permissions}


@pytest.mark.parametrize("members", [{}, {"sign": True}, {"transport": "tcp"}], ids=["ipc", "signed", "tcp"])
def test_it_runs_a_kernel_of_another_interpreter(relay: Relay, members: dict[str, object]) -> None:
    assert relay.answer(relay.start(**members)) == {"id": 1, "ok": True}
    assert relay.run("import sys; print(sys.executable)") == (f"{sys.executable}\n", "ok")


def test_no_program_and_no_library_of_the_machine_is_loaded(relay: Relay, collected: Path) -> None:
    assert relay.answer(relay.start())["ok"]
    files = mapped(relay)
    assert any("_zmq" in file for file in files)
    assert not {file for file in files if not file.startswith(f"{collected}/")}


def test_a_kernel_that_dies_is_told_of(relay: Relay) -> None:
    assert relay.answer(relay.start())["ok"]
    text, status = relay.run("import os; os.kill(os.getpid(), 9)")
    assert status == "error"
    assert text == "The kernel was ended by SIGKILL.\n"


def test_what_it_has_not_is_told_without_a_traceback(program: list[str]) -> None:
    result = subprocess.run([*program, "dance"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("usage: relay")
