"""What is missing on a machine, from what it tells, and what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.backends.base import Check
from gateway.backends.bubblewrap import diagnosis, selfcheck
from gateway.backends.bubblewrap.selfcheck import Findings, Plan


def machine(proc: Path, **values: int) -> Path:
    """A /proc with some settings."""
    for name, value in values.items():
        path = proc / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return proc


@pytest.mark.parametrize(
    ("values", "told", "words"),
    [
        ({"user__max_user_namespaces": 0}, "", ["sysctl -w user.max_user_namespaces"]),
        ({"kernel__unprivileged_userns_clone": 0}, "", ["sysctl -w kernel.unprivileged_userns_clone=1"]),
        (
            {"kernel__apparmor_restrict_unprivileged_userns": 1},
            "bwrap: setting up uid map: Permission denied",
            ["/etc/apparmor.d/bwrap", "userns,", "profile bwrap /usr/bin/bwrap", "apparmor_parser -r"],
        ),
        ({}, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted", ["systempaths=unconfined"]),
        ({}, "unshare: unshare failed: Operation not permitted", ["--cap-add SYS_ADMIN"]),
        ({}, "bwrap: No permissions to create a new namespace", ["seccomp=unconfined"]),
        (
            {"user__max_user_namespaces": 15000, "kernel__apparmor_restrict_unprivileged_userns": 0},
            "something else",
            ["docs/design.md"],
        ),
    ],
    ids=[
        "no namespaces",
        "Debian's switch",
        "Ubuntu's AppArmor",
        "masked proc",
        "no mounts",
        "no userns",
        "?",
    ],
)
def test_each_restriction_has_its_remedy(
    tmp_path: Path, values: dict[str, int], told: str, words: list[str]
) -> None:
    check = diagnosis.explain(told, proc=machine(tmp_path, **values))
    assert check.ok is False
    assert told in check.detail
    assert all(word in check.remedy for word in words), check.remedy


@pytest.mark.parametrize(
    ("told", "ok"),
    [
        ("bubblewrap 0.8.0\n", True),
        ("bubblewrap 0.11.0", True),
        ("bubblewrap 1.0", True),
        ("bubblewrap 0.7.9", False),
        ("bubblewrap 0.6.1", False),
        ("who knows", None),
    ],
)
def test_the_version_is_held_against_the_oldest_that_works(told: str, ok: bool | None) -> None:
    assert diagnosis.judge_version("/usr/bin/bwrap", told).ok is ok


@pytest.mark.parametrize("manager", diagnosis.INSTALL)
def test_the_remedy_is_the_command_of_the_machines_own_package_manager(
    monkeypatch: pytest.MonkeyPatch, manager: str
) -> None:
    monkeypatch.setattr(diagnosis, "find", lambda name: name if name == manager else None)
    (missing,) = [check for check in diagnosis.look_for_tools("bwrap") if not check.ok]
    assert missing.remedy == diagnosis.INSTALL[manager]


def test_an_unknown_package_manager_is_left_to_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find", lambda name: None)
    assert "package manager" in diagnosis.look_for_tools("bwrap")[-1].remedy


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = diagnosis.find
    monkeypatch.setattr(diagnosis, "find", lambda name: None if name == "prlimit" else real(name))
    assert "prlimit" in diagnosis.look_for_tools("bwrap")[-1].detail


# -- the proof ----------------------------------------------------------------------------------------

PLAN = Plan("nonce", [("127.0.0.1", 1)], "/s/inside", "/s/outside", ["/probe"])
GOOD = Findings([], [], ["lo"], [1000] * 6, [1000], [0], 2, 1)
OUTSIDE = Findings([("127.0.0.1", 1)], ["/s/outside"], ["lo", "eth0"], [0] * 6, [], [1], 0, 0)


def judged(
    inside: Findings = GOOD, outside: Findings | None = OUTSIDE, appeared: bool = False
) -> dict[str, Check]:
    return {check.name: check for check in selfcheck.judge(PLAN, inside, outside, appeared)}


def test_isolation_is_shown_where_the_probe_fails_inside_and_succeeds_outside() -> None:
    assert {name: check.ok for name, check in judged().items()} == {
        "control": True,
        "network": True,
        "files": True,
        "privileges": True,
    }


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("network", {"reached": [("127.0.0.1", 1)]}),
        ("network", {"interfaces": ["lo", "eth0"]}),
        ("files", {"written": ["/probe"]}),
        ("privileges", {"ids": [0] * 6}),
        ("privileges", {"ids": [1000] * 5 + [0]}),
        ("privileges", {"groups": [1000, 4]}),
        ("privileges", {"capabilities": [0, 1]}),
        ("privileges", {"seccomp": 0}),
        ("privileges", {"no_new_privs": 0}),
    ],
)
def test_each_thing_that_a_sandbox_must_not_have_fails_its_check(
    name: str, members: dict[str, object]
) -> None:
    checks = judged(inside=GOOD.__class__(**{**vars(GOOD), **members}))
    assert [each for each, check in checks.items() if check.ok is False] == [name]
    assert checks[name].remedy


OVERFLOW_GID = int(Path("/proc/sys/kernel/overflowgid").read_text())


@pytest.mark.parametrize(
    ("user", "groups", "well"),
    [
        (1000, [1000], True),
        (1000, [1000, OVERFLOW_GID, OVERFLOW_GID], True),
        (1000, [1000, 4], False),
        (0, [], True),
        (0, [1000, OVERFLOW_GID], False),
    ],
)
def test_groups_without_a_name_are_what_an_ordinary_user_cannot_give_up_and_root_can(
    user: int, groups: list[int], well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    inside = GOOD.__class__(**{**vars(GOOD), "groups": groups})
    assert judged(inside=inside)["privileges"].ok is well


def test_a_file_that_appears_outside_fails_although_the_probe_did_not_say_so() -> None:
    assert judged(appeared=True)["files"].ok is False


@pytest.mark.parametrize("members", [{"reached": []}, {"written": []}])
def test_a_control_that_fails_leaves_the_proof_open(members: dict[str, object]) -> None:
    control = judged(outside=OUTSIDE.__class__(**{**vars(OUTSIDE), **members}))["control"]
    assert control.ok is None
    assert "proves nothing" in control.detail


def test_a_control_that_did_not_run_leaves_the_proof_open() -> None:
    assert judged(outside=None)["control"].ok is None


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b"nonsense", b'{"nonce": "other"}', b'{"nonce": "nonce"}']
)
def test_an_answer_that_is_not_the_probes_is_none(answer: bytes) -> None:
    assert selfcheck.parse(answer, PLAN) is None
