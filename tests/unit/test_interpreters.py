"""Every Python that is declared: run where there is one, its syntax checked where there is none.

Every module is imported there, and what depends on the interpreter most and on the machine least is run:
the wire, the relay with a kernel, the link, the kernels, the web layer, and the application with its options,
without sandboxes. What takes long and can hardly differ (floods, timers, most started programs) is left out.
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

APP = "tests/unit/app/test_app.py"
SESSIONS = "tests/integration/relay/test_sessions.py"

#: What runs on the other interpreters. Four of the files that are left out need clients and tools that are
#: not in these environments: test_legacy.py, test_v1.py, test_openapi.py and test_lab.py.
SMOKE = (
    "tests/unit/wire",
    "--ignore=tests/unit/wire/test_legacy.py",
    "--ignore=tests/unit/wire/test_v1.py",
    "tests/unit/relay",
    "--ignore=tests/unit/relay/test_sockets.py",
    f"{SESSIONS}::test_a_reply_goes_to_its_session_and_what_is_published_to_all",
    "tests/unit/link",
    "tests/unit/transport",
    "tests/unit/leaves",
    "tests/unit/kernels",
    "tests/unit/web",
    "--ignore=tests/unit/web/test_openapi.py",
    "tests/unit/web_channels",
    "--ignore=tests/unit/web_channels/test_receipts.py",
    "--ignore=tests/unit/web_channels/test_lab.py",
    "tests/unit/app/test_listen.py",
    "tests/unit/app/test_options.py",
    "tests/unit/app/test_token.py",
    f"{APP}::test_it_says_where_it_is_and_lets_in_who_has_the_random_token",
    f"{APP}::test_a_signal_ends_it_in_order_with_status_0",
    f"{APP}::test_show_config_says_what_is_set_and_how_each_limit_is_kept",
    f"{APP}::test_the_doctor_prints_a_table_with_remedies",
)

#: gateway.lab runs in JupyterLab's server, which is not in these environments; the others are programs.
NOT_IMPORTED = {"gateway.lab", "gateway.__main__", "gateway.relay.__main__"}

IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def modules() -> list[str]:
    """The dotted name of every module of the gateway and of the tools."""
    files = [file for package in ("gateway", "tools") for file in (ROOT / package).rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return sorted(name.removesuffix(".__init__") for name in names - NOT_IMPORTED)


def run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("version", interpreters.VERSIONS)
def test_it_runs_on_every_interpreter_that_can_be_had_and_parses_on_the_others(version: str) -> None:
    if version == "{}.{}".format(*sys.version_info):
        return  # this run is the one
    python = interpreters.find(version)
    if python is None:
        # ruff knows which syntax came with which version, and reports what is too new.
        target = f"--target-version=py{version.replace('.', '')}"
        run(sys.executable, "-m", "ruff", "check", "--isolated", "--select=E9", target, "gateway", "tools")
    else:
        environment = environments.smoke(version, python)
        environments.make(environment)
        run(str(environment.bin / "python"), "-c", IMPORT, *modules())
        run(str(environment.bin / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *SMOKE)


def test_no_module_is_left_out_but_those_that_are_named() -> None:
    names = modules()
    assert {"gateway", "gateway.app", "gateway.web.api", "gateway.backends.bubblewrap.backend"} <= {*names}
    assert {"tools", "tools.serve", "tools.check"} <= {*names}
    for name in NOT_IMPORTED:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists()


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
