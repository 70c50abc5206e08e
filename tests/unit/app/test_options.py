"""An option, class or trait that is not known ends the start, with the nearest name that is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from traitlets import Int, Unicode
from traitlets.config import LoggingConfigurable

from gateway.app import JupyterGateway
from gateway.app_options import StrictApp


class Engine(LoggingConfigurable):
    power = Int(1, config=True)


class Vehicle(StrictApp):
    name = "jupyter-vehicle"
    classes = [Engine]  # noqa: RUF012  # traitlets' way
    aliases = {**StrictApp.aliases, "wheels": "Vehicle.wheels"}  # noqa: RUF012
    subcommands = {"inspect": ("nowhere.Inspect", "Look at it.")}  # noqa: RUF012
    wheels = Int(4, config=True)
    colour = Unicode("red", config=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder that is the only one."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "")
    return tmp_path


def read(*argv: str) -> Vehicle:
    vehicle = Vehicle(log=logging.getLogger("vehicle"))
    vehicle.initialize([*argv])
    return vehicle


REFUSED = {
    "a mistyped option": (["--whels=3"], "There is no option --whels. Did you mean --wheels?"),
    "a mistyped option with its value apart": (
        ["--whels", "3"],
        "There is no option --whels. Did you mean --wheels?",
    ),
    "a mistyped flag": (["--degub"], "There is no option --degub. Did you mean --debug?"),
    "an option like no other": (["--xyzzy"], "There is no option --xyzzy. --help-all lists what there is."),
    "a mistyped trait": (
        ["--Vehicle.color=red"],
        "Vehicle has no trait 'color'. Did you mean Vehicle.colour?",
    ),
    "a mistyped trait of a part": (
        ["--Engine.powr=2"],
        "Engine has no trait 'powr'. Did you mean Engine.power?",
    ),
    "a mistyped class": (["--Engin.power=2"], "There is no class 'Engin' to configure. Did you mean Engine?"),
    "a mistyped command": (["inspekt"], "There is no command 'inspekt'. Did you mean inspect?"),
    "a stray word after an option": (["--wheels=3", "inspekt"], "There is no command 'inspekt'."),
    "a command after an option": (
        ["--debug", "inspect"],
        "A command comes before all options: jupyter-vehicle inspect ...",
    ),
    "a command after an option, with an option of its own": (
        ["--debug", "inspect", "--deeply"],
        "A command comes before all options: jupyter-vehicle inspect ...",
    ),
    "a stray word after --": (["--", "anything"], "There is no command 'anything'."),
    "a value of the wrong type": (["--wheels=many"], "many"),
    "a file that is not there": (
        ["--config=/nowhere/at/all.py"],
        "There is no configuration file '/nowhere/at/all.py'.",
    ),
}


@pytest.mark.parametrize(("argv", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_an_option_that_is_not_known_ends_the_start_with_a_suggestion(
    folder: Path, caplog: pytest.LogCaptureFixture, argv: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as end:
        read(*argv)
    assert end.value.code == 1
    assert sentence in caplog.text


FILES = {
    "a trait in Python": ("jupyter_vehicle_config.py", "c.Engine.powr = 2", "Did you mean Engine.power?"),
    "a trait in JSON": (
        "jupyter_vehicle_config.json",
        '{"Engine": {"powr": 2}}',
        "Did you mean Engine.power?",
    ),
    "a class": ("jupyter_vehicle_config.py", "c.Engin.power = 2", "There is no class 'Engin' to configure."),
    "a trait in the shared file": (
        "jupyter_config.py",
        "c.Vehicle.color = 'red'",
        "Did you mean Vehicle.colour?",
    ),
    "a file that is no Python": (
        "jupyter_vehicle_config.py",
        "c.Engine.power = 'never closed",
        "unterminated",
    ),
}


@pytest.mark.parametrize(("name", "text", "sentence"), FILES.values(), ids=FILES.keys())
def test_a_configuration_file_may_hold_nothing_unknown(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, sentence: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises((SystemExit, SyntaxError)) as end:
        read()
    assert sentence in caplog.text + str(end.value)


def test_the_shared_file_may_configure_other_programs(folder: Path) -> None:
    (folder / "jupyter_config.py").write_text("c.ServerApp.port = 1\nc.Vehicle.wheels = 3")
    assert read().wheels == 3


def test_options_come_before_files_and_python_before_nothing(folder: Path) -> None:
    (folder / "jupyter_vehicle_config.py").write_text("c.Vehicle.wheels = 3\nc.Engine.power = 5")
    assert read().wheels == 3
    assert read("--wheels=6").wheels == 6
    assert Engine(parent=read("--Engine.power=7")).power == 7
    assert Engine(parent=read()).power == 5


def test_a_file_that_is_named_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"Vehicle": {"wheels": 8}}')
    assert read(f"--config={tmp_path / 'mine.json'}").wheels == 8


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ({"token_file": "/t", "certfile": "/c", "keyfile": "/k", "client_ca": "/a"}, ["/t", "/k"]),
        ({"certfile": "/certificate-and-key"}, ["/certificate-and-key"]),
        ({}, []),
    ],
)
def test_what_holds_a_secret_is_hidden_from_sandboxes_and_a_public_certificate_is_not(
    given: dict[str, str], hidden: list[str]
) -> None:
    assert JupyterGateway(**given).make_backend().hidden_paths == hidden
