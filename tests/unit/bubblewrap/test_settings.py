"""`metadata.sandbox` of a kernelspec: what may be said, and that it only tightens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.backends.base import LimitReport, SpecError
from gateway.backends.bubblewrap import endpoints, limits, settings
from gateway.backends.bubblewrap.limits import Limits
from gateway.backends.bubblewrap.settings import Bind
from gateway.backends.sizes import MIB, format_size

BOUNDS = Limits(
    memory=1024 * MIB,
    processes=256,
    cpus=2.0,
    file_size=256 * MIB,
    open_files=1024,
    tmp_size=256 * MIB,
    home_size=256 * MIB,
    life=3600.0,
)


def test_without_settings_the_configured_limits_hold() -> None:
    assert settings.read({}, BOUNDS, []) == (BOUNDS, [])


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("memory", "512MiB", 512 * MIB),
        ("memory", 512 * MIB, 512 * MIB),
        ("memory", "1 GiB", 1024 * MIB),
        ("file_size", "64KiB", 64 * 1024),
        ("processes", 16, 16),
        ("processes", 256, 256),
        ("cpus", 0.5, 0.5),
        ("cpus", 2, 2),
        ("open_files", 64, 64),
        ("tmp_size", "1MiB", MIB),
        ("home_size", "1MiB", MIB),
        ("life", 3600, 3600),
    ],
)
def test_a_tighter_limit_or_the_same_is_taken(name: str, value: object, number: float) -> None:
    assert getattr(settings.read({name: value}, BOUNDS, []).limits, name) == number


def test_a_life_is_taken_where_none_is_configured() -> None:
    unbounded = settings.read({"life": 10}, limits.Limits(**{**vars(BOUNDS), "life": None}), [])
    assert unbounded.limits.life == 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"memory": "2GiB"}, ["memory", "'2GiB'", "at most 1 GiB"]),
        ({"memory": 1024 * MIB + 1}, ["memory", "at most 1 GiB"]),
        ({"processes": 257}, ["processes", "257", "at most 256"]),
        ({"cpus": 2.5}, ["cpus", "2.5", "at most 2"]),
        ({"life": 3601}, ["life", "at most 3600"]),
        ({"memory": "1MiB"}, ["memory", "at least 64 MiB"]),
        ({"processes": 0}, ["processes", "at least 16"]),
        ({"cpus": 0}, ["cpus", "at least 0.01"]),
        ({"life": -1}, ["life", "at least 1"]),
        ({"memory": "512MB"}, ["memory", "'512MB'", "KiB, MiB, GiB"]),
        ({"memory": -5}, ["memory", "-5"]),
        ({"memory": True}, ["memory", "True"]),
        ({"memory": None}, ["memory", "None"]),
        ({"memory": "9" * 30}, ["memory", "999"]),
        ({"processes": 20.5}, ["processes", "whole number"]),
        ({"processes": "20"}, ["processes", "whole number"]),
        ({"cpus": "1"}, ["cpus", "number"]),
        ({"cpus": float("nan")}, ["cpus", "number"]),
        ({"life": float("inf")}, ["life", "number"]),
        ({"cpus": 10**400}, ["cpus", "number"]),
        ({"life": 10**400}, ["life", "number"]),
        ({"transport": "udp"}, ["transport", "'udp'", "'ipc' or 'tcp'"]),
        ({"transport": []}, ["transport", "[]"]),
        ({"sign": 1}, ["sign", "true or false"]),
        ({"network": True}, ["'network'", "read_only", "memory"]),
        ({"read_only": {}}, ["read_only", "a list"]),
        ({"read_only": ["/srv"]}, ["read_only[0]", '"source"']),
        ({"read_only": [{"source": "/srv", "mode": "rw"}]}, ["read_only[0]"]),
        ({"read_only": [{"source": "data"}]}, ["read_only[0].source", "absolute"]),
        ({"read_only": [{"source": "/srv\0"}]}, ["read_only[0].source", "absolute"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_may_not_be_is_refused_by_member_value_and_rule(
    given: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(SpecError) as refused:
        settings.read(given, BOUNDS, ["/srv"])
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_a_refusal_does_not_repeat_a_value_without_end() -> None:
    with pytest.raises(SpecError) as refused:
        settings.read({"memory": "9" * 100_000}, BOUNDS, [])
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_transport_and_sign_are_left_to_the_kernel_layer(transport: str) -> None:
    assert settings.read({"transport": transport, "sign": True}, BOUNDS, []).limits == BOUNDS


# -- data ---------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a folder, beside it a secret, and links between them."""
    (tmp_path / "root/course").mkdir(parents=True)
    (tmp_path / "root-of-others").mkdir()
    (tmp_path / "secret").write_text("")
    (tmp_path / "root/way-out").symlink_to(tmp_path / "secret")
    (tmp_path / "way-in").symlink_to(tmp_path / "root/course")
    return tmp_path / "root"


def data(root: Path, source: object, target: object = None) -> list[Bind]:
    entry = {"source": str(source)} if target is None else {"source": str(source), "target": target}
    return list(settings.read({"read_only": [entry]}, BOUNDS, [str(root)]).data)


@pytest.mark.parametrize(
    ("target", "shown"),
    [(None, "/data/course"), ("lesson", "/data/lesson"), ("/data/a/b", "/data/a/b"), ("a/../b", "/data/b")],
)
def test_data_is_shown_below_data(root: Path, target: object, shown: str) -> None:
    assert data(root, root / "course", target) == [Bind(str(root / "course"), shown)]


def test_a_link_into_the_root_is_shown_by_what_stands_behind_it(root: Path) -> None:
    assert data(root, root.parent / "way-in", "x") == [Bind(str(root / "course"), "/data/x")]


@pytest.mark.parametrize("source", ["way-out", "../secret", "../root-of-others", "missing", ".."])
def test_what_is_not_below_the_root_is_refused(root: Path, source: str) -> None:
    with pytest.raises(SpecError, match=r"read_only\[0\]\.source"):
        data(root, root / source)


@pytest.mark.parametrize("loose", ["", "root/folder", "links"])
def test_data_that_others_could_exchange_before_it_is_mounted_is_refused(root: Path, loose: str) -> None:
    (root / "folder/course").mkdir(parents=True)
    (root.parent / "links").mkdir()
    (root.parent / "links/root").symlink_to(root)
    entries, roots = [{"source": str(root / "folder/course")}], [str(root.parent / "links/root")]
    assert settings.read({"read_only": entries}, BOUNDS, roots).data
    (root.parent / loose).chmod(0o777)
    with pytest.raises(SpecError, match=f"through {root.parent / loose}, where others"):
        settings.read({"read_only": entries}, BOUNDS, roots)


@pytest.mark.parametrize("place", ["", "a/b/"])
@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_data_with_a_socket_or_a_pipe_in_it_is_refused(root: Path, place: str, kind: str) -> None:
    folder = root / "course" / place
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / "it")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "it"))
    with pytest.raises(SpecError, match=f"holds {root}/course/{place}it, which is no file"):
        data(root, root / "course")
    with pytest.raises(SpecError, match="which is no file"):
        data(root, folder / "it")


def test_data_of_more_files_than_can_be_looked_at_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "MOST", 3)
    for name in ("a", "b", "c"):
        (root / "course" / name).touch()
    assert data(root, root / "course")
    (root / "course/d").touch()
    with pytest.raises(SpecError, match="too many to look for sockets"):
        data(root, root / "course")


@pytest.mark.parametrize("target", ["..", "../etc", "/etc", "/data", "/", "a/../..", 5, "a\0b"])
def test_a_target_outside_of_data_is_refused(root: Path, target: object) -> None:
    with pytest.raises(SpecError, match=r"read_only\[0\]\.target"):
        data(root, root / "course", target)


@pytest.mark.parametrize("second", ["a", "a/b"])
def test_targets_may_not_meet(root: Path, second: str) -> None:
    entries = [{"source": str(root / "course"), "target": target} for target in ("a", second)]
    with pytest.raises(SpecError, match=r"read_only\[1\]"):
        settings.read({"read_only": entries}, BOUNDS, [str(root)])


def test_without_a_data_root_the_refusal_names_the_setting(root: Path) -> None:
    with pytest.raises(SpecError, match="data_roots"):
        settings.read({"read_only": [{"source": str(root)}]}, BOUNDS, [])


# -- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"), [(1 << 30, "1 GiB"), (3 * MIB // 2, "1536 KiB"), (1000, "1000 bytes"), (0, "0 bytes")]
)
def test_sizes_are_told_exactly(size: int, text: str) -> None:
    assert format_size(size) == text


def test_rlimits_stand_in_for_memory_only_without_its_cgroup() -> None:
    with_group = " ".join(limits.rlimits(BOUNDS, {"memory"}))
    assert "--data" not in with_group
    assert "--as" not in with_group
    assert f"--data={BOUNDS.memory}" in limits.rlimits(BOUNDS, set())


def test_no_rlimit_exceeds_what_the_gateway_may_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (10, 10))
    assert "--nofile=10" in limits.rlimits(BOUNDS, set())


def test_each_limit_says_what_keeps_it() -> None:
    told = {report.name: report for report in limits.describe(BOUNDS, {"memory": "v2", "swap": "v2"})}
    assert told["memory"] == LimitReport("memory", "1 GiB", "cgroup v2", best_effort=False)
    assert told["processes"].best_effort
    assert told["cpus"].best_effort
    assert not told["life"].best_effort


@pytest.mark.parametrize(("user", "shared"), [(0, False), (1000, True)])
def test_what_an_accounts_sandboxes_share_is_said_where_they_are_one_account(
    user: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    told = {report.name: report.enforced_by for report in limits.describe(BOUNDS, {})}
    assert ("in flight and epoll watches" in told["open_files"]) is shared
