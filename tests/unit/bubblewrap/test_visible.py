"""Which paths of the host a kernelspec leads to, on made-up trees."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.backends.base import SpecError
from gateway.backends.bubblewrap import endpoints, visible
from gateway.backends.bubblewrap.hidden import Cover
from gateway.backends.bubblewrap.settings import Bind
from gateway.backends.bubblewrap.visible import Rules, Visible, look

RULES = Rules(interpreter=[], programs="/nowhere/bin", hidden=[])


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def sources(seen: Visible, below: Path) -> list[str]:
    """What is shown of the made-up tree."""
    return [os.path.relpath(bind.source, below) for bind in seen.binds if bind.source.startswith(str(below))]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return program(tmp_path / "base/bin/python3").parent.parent


@pytest.fixture
def venv(tmp_path: Path, base: Path) -> Path:
    """A virtual environment as PEP 405 has them."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to("python3")
    (tmp_path / "venv/bin/python3").symlink_to(base / "bin/python3")
    (tmp_path / "venv/pyvenv.cfg").write_text(f"version = 3.11\nhome = {base}/bin\n")
    return tmp_path / "venv"


def test_the_system_is_shown_and_no_home() -> None:
    seen = look(RULES)
    targets = {bind.target for bind in seen.binds} | {path for _, path in seen.links}
    assert {"/usr", "/bin", "/lib"} <= targets
    assert not targets & {"/", "/etc", "/etc/passwd", "/home", "/opt", "/root", "/run", "/sys", "/var"}


def test_a_system_program_shows_nothing_more() -> None:
    assert look(RULES, ["sh"]).binds == look(RULES).binds
    assert look(RULES, ["/bin/sh"]).binds == look(RULES).binds


def test_a_program_shows_the_prefix_around_its_bin(tmp_path: Path) -> None:
    path = program(tmp_path / "conda/bin/R")
    seen = look(RULES, [str(path), "--slave"])
    assert sources(seen, tmp_path) == ["conda"]
    assert seen.search_path[0] == str(path.parent)


def test_a_program_that_is_in_no_bin_shows_its_folder(tmp_path: Path) -> None:
    path = program(tmp_path / "ark/ark")
    assert sources(look(RULES, [str(path)]), tmp_path) == ["ark"]


def test_a_virtual_environment_shows_the_prefix_it_was_made_from(tmp_path: Path, venv: Path) -> None:
    assert sources(look(RULES, [str(venv / "bin/python")]), tmp_path) == ["base", "venv"]


def test_every_link_on_the_way_to_a_program_is_followed(tmp_path: Path) -> None:
    real = program(tmp_path / "python-3.12.7/bin/python3.12")
    (tmp_path / "python-3.12").symlink_to("python-3.12.7")
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "python-3.12/bin/python3.12")
    seen = look(RULES, [str(tmp_path / "venv/bin/python")])
    assert sources(seen, tmp_path) == ["python-3.12", "python-3.12.7", "venv"]
    assert real.exists()


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "e/bin/loop"
    path.parent.mkdir(parents=True)
    path.symlink_to("loop")
    with pytest.raises(SpecError, match="does not exist"):
        look(RULES, [str(path)])


def test_a_bare_name_is_looked_up_in_the_gateways_environment_first(tmp_path: Path) -> None:
    path = program(tmp_path / "env/bin/sh")
    seen = look(RULES._replace(programs=str(path.parent)), ["sh"])
    assert sources(seen, tmp_path) == ["env"]
    assert seen.search_path == [str(path.parent), "/usr/local/bin", "/usr/bin", "/bin"]


def test_files_that_the_arguments_name_are_shown(tmp_path: Path) -> None:
    script = program(tmp_path / "kernels/mine/kernel.sh")
    module = program(tmp_path / "js/node_modules/a/node_modules/b/kernel.js")
    seen = look(RULES, ["sh", str(script), str(module), "{connection_file}", "/missing/file"])
    assert sources(seen, tmp_path) == ["js/node_modules", "kernels/mine"]


def test_the_kernelspecs_folder_and_its_data_are_shown(tmp_path: Path) -> None:
    (tmp_path / "spec").mkdir()
    data = Bind(str(tmp_path), "/data/x")
    seen = look(RULES, ["sh"], str(tmp_path / "spec"), [data])
    assert data in seen.binds
    assert Bind(str(tmp_path / "spec"), str(tmp_path / "spec")) in seen.binds


def test_parents_come_before_their_children_and_nothing_twice(tmp_path: Path) -> None:
    path = program(tmp_path / "env/bin/python")
    inner = tmp_path / "env/share/jupyter/kernels/python3"
    inner.mkdir(parents=True)
    assert sources(look(RULES, [str(path)], str(inner)), tmp_path) == ["env"]
    targets = [bind.target for bind in look(RULES, [str(path)], str(inner)).binds]
    assert targets == sorted(targets, key=lambda target: (target.count("/"), target))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/missing/python", ["/missing/python", "kernel.json"]),
        ("no-such-program", ["no-such-program", "/nowhere/bin", "/usr/bin"]),
        ("bin/python", ["absolute"]),
        (__file__, ["not executable"]),
    ],
)
def test_a_program_that_cannot_be_run_is_named(name: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as refused:
        look(RULES, [name])
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    "wide",
    ["/", "/home", "/home/somebody", "/root", "/etc", "/var", "/opt", "/tmp", "/run", "/srv"],  # noqa: S108
)
def test_top_folders_and_homes_are_too_wide(wide: str) -> None:
    assert visible.is_broad(wide)
    with pytest.raises(SpecError, match="of its own"):
        look(RULES, ["sh"], wide)


def test_the_gateways_home_and_what_is_above_it_are_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/data/people/me", "/bin/sh"))
    monkeypatch.setattr("pwd.getpwuid", lambda uid: entry)
    assert visible.is_broad("/data")
    assert visible.is_broad("/data/people")
    assert visible.is_broad("/data/people/me")
    assert visible.is_broad("/data/people/me/.local")
    assert not visible.is_broad("/data/people/me/venv")
    assert not visible.is_broad("/data/people/meagre")


def test_what_only_its_owner_may_read_is_refused_where_the_gateway_is_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "env/bin/python")
    path.parents[1].chmod(0o700)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(SpecError, match=r"chmod -R o\+rX"):
        look(RULES, [str(path)])
    path.parents[1].chmod(0o755)
    assert look(RULES, [str(path)])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path.parents[1].chmod(0o700)
    assert look(RULES, [str(path)])


def test_a_user_without_an_entry_has_no_home_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert not visible.is_broad("/data/venv")


def test_a_link_to_a_wide_folder_is_too_wide(tmp_path: Path) -> None:
    (tmp_path / "spec").symlink_to("/var")
    with pytest.raises(SpecError, match="of its own"):
        look(RULES, ["sh"], str(tmp_path / "spec"))


def test_jupyters_configuration_in_an_environment_is_covered(tmp_path: Path, venv: Path, base: Path) -> None:
    for prefix in (venv, base):
        (prefix / "etc/jupyter").mkdir(parents=True)
    seen = look(RULES, [str(venv / "bin/python")])
    assert {Cover(str(prefix / "etc/jupyter"), True) for prefix in (venv, base)} <= set(seen.covered)


def test_a_hidden_folder_is_covered_wherever_it_shows(tmp_path: Path) -> None:
    program(tmp_path / "real/bin/python")
    (tmp_path / "env").symlink_to("real")
    for name in ("real/keys", "elsewhere"):
        (tmp_path / name).mkdir()
    hidden = [str(tmp_path / "real/keys"), str(tmp_path / "elsewhere"), str(tmp_path / "missing")]
    seen = look(RULES._replace(hidden=hidden), [str(tmp_path / "env/bin/python")])
    assert [cover for cover in seen.covered if cover.target.startswith(str(tmp_path))] == [
        Cover(str(tmp_path / "env/keys"), True),
        Cover(str(tmp_path / "real/keys"), True),
    ]


@pytest.mark.parametrize(
    "hidden", ["token", "missing", "missing/token", "link", "link-to-a-folder", "behind"]
)
def test_a_kernel_that_would_be_shown_the_folder_of_a_hidden_file_is_refused(
    tmp_path: Path, hidden: str
) -> None:
    """A cover over a file goes when the file is replaced, and over what is not there there is none."""
    path = program(tmp_path / "env/bin/python")
    (tmp_path / "env/token").write_text("")
    (tmp_path / "outside").mkdir()
    (tmp_path / "env/link").symlink_to(tmp_path / "outside/token")
    (tmp_path / "env/link-to-a-folder").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/in").symlink_to(tmp_path / "env/token")
    spot = tmp_path / ("outside/in" if hidden == "behind" else f"env/{hidden}")
    with pytest.raises(SpecError, match=rf"Move it out of {tmp_path}/env\."):
        look(RULES._replace(hidden=[str(spot)]), [str(path)])


def test_a_hidden_file_in_a_covered_folder_is_out_of_sight(tmp_path: Path) -> None:
    path = program(tmp_path / "env/bin/python")
    (tmp_path / "env/etc/jupyter").mkdir(parents=True)
    (tmp_path / "env/keys").mkdir()
    hidden = ["etc/jupyter/jupyter_gateway_config.py", "keys", "keys/token"]
    seen = look(RULES._replace(hidden=[str(tmp_path / "env" / name) for name in hidden]), [str(path)])
    assert {cover.target for cover in seen.covered} >= {
        str(tmp_path / "env/etc/jupyter"),
        str(tmp_path / "env/keys"),
    }


@pytest.mark.parametrize("spot", ["secret", "secret/sub", "way-in"])
@pytest.mark.parametrize("asked_by", ["data", "the kernelspec's folder", "argv", "the program"])
def test_what_lies_in_a_hidden_folder_is_shown_to_nobody_who_asks(
    tmp_path: Path, spot: str, asked_by: str
) -> None:
    path = program(tmp_path / "secret/sub/bin/python")
    program(tmp_path / "secret/bin/python")
    (tmp_path / "way-in").symlink_to(path.parents[1])
    asked = str(tmp_path / spot)
    asking: dict[str, tuple[list[str], str, list[Bind]]] = {
        "data": (["sh"], "", [Bind(asked, "/data/x")]),
        "the kernelspec's folder": (["sh"], asked, []),
        "argv": (["sh", asked + "/bin/python"], "", []),
        "the program": ([asked + "/bin/python"], "", []),
    }
    rules = RULES._replace(hidden=[str(tmp_path / "secret")])
    with pytest.raises(SpecError, match=f"lies in {tmp_path}/secret, which no sandbox may see"):
        look(rules, *asking[asked_by])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of whoever runs the gateway."""
    folder = tmp_path / "home"
    folder.mkdir()
    entry = pwd.struct_passwd(("me", "x", os.geteuid(), 1000, "", str(folder), "/bin/sh"))
    monkeypatch.setattr("pwd.getpwuid", lambda uid: entry)
    return folder


@pytest.mark.parametrize("name", [".ssh/id", ".config/gcloud/key", ".netrc", "link/id"])
def test_a_file_among_the_keys_of_a_home_that_argv_names_is_refused(home: Path, name: str) -> None:
    (home / "link").symlink_to(".ssh")
    (home / ".ssh").mkdir()
    path = program(home / name)
    with pytest.raises(SpecError, match="of its own"):
        look(RULES, ["sh", str(path)])


@pytest.mark.parametrize(
    "name",
    [
        ".local/share/jupyter/kernels/mine/kernel.sh",
        ".julia/packages/IJulia/abc/src/kernel.jl",
        ".nvm/versions/node/v20/lib/node_modules/a/kernel.js",
        ".venv/share/mine/kernel.sh",
        "mine/kernel.sh",
    ],
)
def test_a_file_where_kernels_are_kept_in_a_home_may_be_named(home: Path, name: str) -> None:
    venv = program(home / ".venv/bin/python")
    (home / ".venv/pyvenv.cfg").write_text("")
    assert look(RULES, [str(venv), str(program(home / name))])


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta"])
def test_a_folder_with_a_dot_in_a_home_is_too_wide_unless_it_is_an_environment(home: Path, mark: str) -> None:
    path = program(home / ".cargo/bin/kernel")
    with pytest.raises(SpecError, match="of its own"):
        look(RULES, [str(path)])
    (home / ".cargo" / mark).mkdir()
    assert look(RULES, [str(path)])


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    """The socket of a program in an environment."""
    (tmp_path / "env/run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "env/run/app.sock"))
        yield tmp_path / "env/run/app.sock"


def test_sockets_of_programs_that_run_are_covered_wherever_they_show(tmp_path: Path, listener: Path) -> None:
    (tmp_path / "link").symlink_to("env")
    path = program(tmp_path / "env/bin/python")
    seen = look(RULES, [str(tmp_path / "link/bin/python")], data=[Bind(str(tmp_path), "/data/x")])
    assert [cover for cover in seen.covered if cover.target.endswith("app.sock")] == [
        Cover("/data/x/env/run/app.sock", False),
        Cover(str(listener), False),
        Cover(str(tmp_path / "link/run/app.sock"), False),
    ]
    assert path.exists()


def test_pipes_and_sockets_in_the_kernelspecs_folder_are_covered(tmp_path: Path, listener: Path) -> None:
    (tmp_path / "env/a/b").mkdir(parents=True)
    os.mkfifo(tmp_path / "env/a/b/pipe")
    (tmp_path / "env/link").symlink_to("a/b/pipe")
    seen = look(RULES, ["sh"], str(tmp_path / "env"))
    shown = [cover.target for cover in seen.covered if cover.target.startswith(str(tmp_path))]
    assert shown == [str(tmp_path / "env/a/b/pipe"), str(listener)]


def test_a_kernelspecs_folder_of_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "MOST", 10)
    (tmp_path / "spec").mkdir()
    for number in range(11):
        (tmp_path / f"spec/{number}").touch()
    with pytest.raises(SpecError, match="too many"):
        look(RULES, ["sh"], str(tmp_path / "spec"))


def test_this_interpreter_is_found_with_its_base() -> None:
    shown = [bind.target for bind in look(RULES, [sys.executable]).binds]
    for prefix in (sys.prefix, sys.base_prefix):
        assert visible.is_system(prefix) or prefix in shown
