"""Every Python that is declared: run where there is one, its syntax checked where there is none.

What runs there is what depends on the interpreter most and on the machine least: the wire, the
relay, the link and the application's options, without sandboxes.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import environments, interpreters

ROOT = Path(__file__).parents[2]

#: What runs on the other interpreters; two files compare with the codecs of clients, which are not there.
SMOKE = (
    "tests/unit/wire",
    "--ignore=tests/unit/wire/test_legacy.py",
    "--ignore=tests/unit/wire/test_v1.py",
    "tests/unit/relay",
    "tests/unit/link",
    "tests/unit/kernels",
    "tests/integration/relay/test_sessions.py",
)


@pytest.mark.parametrize("version", interpreters.VERSIONS)
def test_it_runs_on_every_interpreter_that_can_be_had_and_parses_on_the_others(version: str) -> None:
    if version == "{}.{}".format(*sys.version_info):
        return  # this run is the one
    python = interpreters.find(version)
    if python is None:
        # ruff knows which syntax came with which version, and reports what is too new.
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=E9"]
        command += [f"--target-version=py{version.replace('.', '')}", "gateway"]
    else:
        environment = environments.smoke(version, python)
        environments.make(environment)
        command = [str(environment.bin / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *SMOKE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_version_that_is_not_declared_is_not_tested_and_the_other_way_round() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert tuple(declared) == interpreters.VERSIONS
    assert setup["options"]["python_requires"] == f">={interpreters.VERSIONS[0]}"


def test_syntax_that_is_too_new_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("type Name = str\n")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=E9", "--target-version=py311"]
    assert subprocess.run([*command, str(tmp_path)], capture_output=True).returncode == 1
