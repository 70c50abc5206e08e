"""Control groups: where they can be made, on made-up hierarchies; what is written, on plain files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.backends.bubblewrap import cgroups
from gateway.backends.bubblewrap.cgroups import Cgroups, Place
from gateway.backends.bubblewrap.limits import describe
from tests.unit.bubblewrap.test_settings import BOUNDS


def machine(folder: Path, mounts: list[tuple[str, str, str]], groups: str) -> Path:
    """A /proc/self with these mounts (kind, root, options), each at a folder named after its options."""
    proc = folder / "proc"
    proc.mkdir()
    lines = [
        f"{number} 1 0:{number} {root} {folder}/{options or 'unified'} rw - {kind} {kind} rw,{options}"
        for number, (kind, root, options) in enumerate(mounts, 30)
    ]
    (proc / "mountinfo").write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/a rw", *lines]) + "\n")
    (proc / "cgroup").write_text(groups)
    return proc


def group(path: Path, **files: str) -> Path:
    """A group: a folder with the files that Linux makes in one."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in {"cgroup__procs": "", **files}.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


V1 = [("cgroup", "/", "memory"), ("cgroup", "/", "pids"), ("cgroup", "/", "cpu,cpuacct")]


def test_version_1_is_used_below_the_gateways_own_group(tmp_path: Path) -> None:
    for name in ("memory", "pids", "cpu,cpuacct"):
        group(tmp_path / name / "own")
    proc = machine(tmp_path, V1, "4:memory:/own\n3:pids:/own\n2:cpu,cpuacct:/own\n1:name=systemd:/x\n0::/\n")
    assert cgroups.detect(proc) == {
        "memory": Place("v1", tmp_path / "memory/own"),
        "pids": Place("v1", tmp_path / "pids/own"),
        "cpu": Place("v1", tmp_path / "cpu,cpuacct/own"),
    }


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    group(tmp_path / "memory")
    mounts = [("cgroup", "/docker/abc", "memory")]
    assert cgroups.detect(machine(tmp_path, mounts, "4:memory:/docker/abc\n")) == {
        "memory": Place("v1", tmp_path / "memory")
    }


def test_a_group_that_may_not_be_written_is_none(tmp_path: Path) -> None:
    proc = machine(tmp_path, V1, "4:memory:/own\n")
    assert cgroups.detect(proc) == {}


def test_no_cgroups_at_all_are_none(tmp_path: Path) -> None:
    assert cgroups.detect(machine(tmp_path, [], "")) == {}


def test_a_delegated_group_of_version_2_is_used_where_only_the_gateway_is_in_it(tmp_path: Path) -> None:
    own = group(
        tmp_path / "unified/user/scope",
        cgroup__procs=f"{os.getpid()}\n{os.getppid()}\n",
        cgroup__controllers="cpuset cpu io memory pids",
        cgroup__subtree_control="",
    )
    proc = machine(tmp_path, [("cgroup2", "/", "")], "0::/user/scope\n")
    assert cgroups.detect(proc) == {name: Place("v2", own) for name in ("memory", "swap", "pids", "cpu")}


def test_a_group_of_version_2_with_other_processes_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    group(
        tmp_path / "unified/user/scope",
        cgroup__procs=f"{os.getpid()}\n999999999\n",
        cgroup__controllers="cpu memory pids",
        cgroup__subtree_control="",
    )
    assert cgroups.detect(machine(tmp_path, [("cgroup2", "/", "")], "0::/user/scope\n")) == {}


@pytest.mark.parametrize(
    ("top", "user", "chosen", "controllers"),
    [
        ("cpu memory pids", "memory pids", "", ["memory", "swap", "pids", "cpu"]),
        ("cpu memory pids", "cpu memory pids", "user", ["memory", "swap", "pids", "cpu"]),
        ("memory pids", "memory pids", "user", ["memory", "swap", "pids"]),
        ("cpu io", "pids io", "user", ["pids"]),
        ("", "", "", []),
    ],
)
def test_root_uses_the_nearest_group_of_version_2_that_hands_the_most_controllers_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: str, user: str, chosen: str, controllers: list[str]
) -> None:
    """All from one: a process is in one group of version 2, so the limits of a second would be lost."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    group(tmp_path / "unified", cgroup__subtree_control=top)
    group(tmp_path / "unified/user", cgroup__subtree_control=user)
    group(tmp_path / "unified/user/scope", cgroup__procs="999999999\n", cgroup__subtree_control="")
    places = cgroups.detect(machine(tmp_path, [("cgroup2", "/", "")], "0::/user/scope\n"))
    assert places == dict.fromkeys(controllers, Place("v2", tmp_path / "unified" / chosen))


def test_a_second_gateway_of_a_shell_makes_its_groups_beside_those_of_the_first(tmp_path: Path) -> None:
    """The first has moved the shell into a group of its own, which must not be delegated in its turn."""
    scope = group(tmp_path / "unified/scope", cgroup__subtree_control="cpu memory pids")
    group(
        scope / "gateway",
        cgroup__procs=f"{os.getpid()}\n",
        cgroup__controllers="cpu memory pids",
        cgroup__subtree_control="",
    )
    places = cgroups.detect(machine(tmp_path, [("cgroup2", "/", "")], "0::/scope/gateway\n"))
    assert {place.folder for place in places.values()} == {scope}


@pytest.mark.parametrize(
    ("files", "counted"),
    [
        ({}, True),
        ({"memory__max": "max"}, False),
        ({"memory__max": "max", "memory__swap__max": "max"}, True),
    ],
)
def test_swap_is_limited_where_linux_may_be_counting_it(
    tmp_path: Path, files: dict[str, str], counted: bool
) -> None:
    group(
        tmp_path / "unified/own",
        cgroup__procs=f"{os.getpid()}\n",
        cgroup__controllers="memory",
        cgroup__subtree_control="",
        **files,
    )
    places = cgroups.detect(machine(tmp_path, [("cgroup2", "/", "")], "0::/own\n"))
    assert ("swap" in places) is counted


def test_controllers_of_version_1_go_before_those_of_version_2(tmp_path: Path) -> None:
    group(tmp_path / "memory/own")
    own = group(
        tmp_path / "unified/own", cgroup__controllers="memory pids", cgroup__subtree_control="memory pids"
    )
    proc = machine(tmp_path, [("cgroup2", "/", ""), ("cgroup", "/", "memory")], "4:memory:/own\n0::/own\n")
    assert cgroups.detect(proc) == {
        "memory": Place("v1", tmp_path / "memory/own"),
        "pids": Place("v2", own),
    }


def test_the_gateway_moves_out_of_a_delegated_group_before_it_hands_controllers_down(tmp_path: Path) -> None:
    own = group(tmp_path / "own", cgroup__procs=f"{os.getpid()}\n", cgroup__subtree_control="")
    made = Cgroups("mine", {"memory": Place("v2", own)})
    assert (own / "gateway/cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    assert (own / "mine/cgroup.subtree_control").read_text() == "+memory"
    assert made.controllers == {"memory": "v2"}
    assert made.folders == [own / "mine"]


def test_groups_of_version_2_are_not_made_in_two_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two places"):
        Cgroups("mine", {"memory": Place("v2", tmp_path), "cpu": Place("v2", tmp_path / "above")})


def test_a_group_of_version_2_that_gets_no_controller_is_removed(tmp_path: Path) -> None:
    own = group(tmp_path / "own", cgroup__procs=f"{os.getpid()}\n")
    (own / "cgroup.subtree_control").mkdir()  # cannot be written, whoever runs this
    made = Cgroups("mine", {"memory": Place("v2", own), "pids": Place("v2", own)})
    assert (made.controllers, made.folders) == ({}, [])
    assert not (own / "mine").exists()
    assert len(made.problems) == 2


def test_a_controller_whose_group_cannot_be_made_is_told_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = Cgroups("mine", {"pids": Place("v1", tmp_path / "file")})
    assert made.controllers == {}
    check = made.check()
    assert check.ok
    assert "no pids group can be made" in check.detail
    assert "best effort" in check.detail


def test_that_swap_is_not_counted_is_told_and_is_best_effort(tmp_path: Path) -> None:
    parent = group(tmp_path / "own", cgroup__subtree_control="memory")
    made = Cgroups("mine", {"memory": Place("v2", parent), "swap": Place("v2", parent)})
    assert made.controllers == {"memory": "v2"}
    assert "swapaccount=1" in made.check().detail
    (memory,) = [row for row in describe(BOUNDS, made.controllers) if row.name == "memory"]
    assert memory.best_effort
    assert "swap" in memory.enforced_by


def test_a_process_that_is_not_in_its_group_after_all_is_an_error(tmp_path: Path) -> None:
    """As where two hierarchies of one kind were joined, and the second took it out of the first."""
    moved = cgroups.Cgroup({"memory": group(tmp_path / "memory"), "pids": group(tmp_path / "pids")})
    moved.join(1234)
    (tmp_path / "pids/cgroup.procs").unlink()
    (tmp_path / "pids/cgroup.procs").symlink_to("/dev/null")
    with pytest.raises(OSError, match="did not get into"):
        moved.join(1234)


@pytest.mark.parametrize(
    ("controller", "version", "files"),
    [
        ("memory", "v1", {"memory.limit_in_bytes": "1073741824"}),
        ("memory", "v2", {"memory.max": "1073741824"}),
        ("swap", "v1", {"memory.memsw.limit_in_bytes": "1073741824"}),
        ("pids", "v1", {"pids.max": "257"}),
        ("pids", "v2", {"pids.max": "257"}),
        ("cpu", "v1", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "200000"}),
        ("cpu", "v2", {"cpu.max": "200000 100000"}),
    ],
)
def test_limits_are_written_as_linux_reads_them(
    tmp_path: Path, controller: str, version: str, files: dict[str, str]
) -> None:
    parent = group(tmp_path / "own", cgroup__subtree_control=controller)
    made = Cgroups("mine", {controller: Place(version, parent)}).create("kernel", BOUNDS)
    folder = made.groups[controller]
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("memory.events", "/sys/fs/cgroup/memory.events"),
        ("memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"),
    ],
)
def test_deaths_by_memory_are_counted_and_shown_where_a_container_sees_them(
    tmp_path: Path, name: str, place: str
) -> None:
    (tmp_path / name).write_text("oom_kill_disable 0\nunder_oom 0\noom 7\noom_kill 3\n")
    made = cgroups.Cgroup({"memory": tmp_path})
    assert made.deaths_by_memory() == 3
    assert place in {bind.target for bind in made.shown}


def test_without_a_memory_group_nothing_is_claimed() -> None:
    assert cgroups.Cgroup({}).deaths_by_memory() == 0
    assert cgroups.Cgroup({}).shown == []
