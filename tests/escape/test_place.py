"""The program of the probes refuses to run anywhere but in a sandbox or in the control environment.

No test here hands it a probe: were a refusal broken, there would still be nothing to run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.escape import control
from tests.escape.probes import place, surroundings
from tests.escape.probes.__main__ import NOT_HERE
from tests.escape.probes.table import PROBES, run

#: A place as a sandbox is, but for what `without` takes away.
_OPTIONS = {
    "user": ["--unshare-user", "--uid", "1000"],
    "pid": ["--unshare-pid"],
    "ipc": ["--unshare-ipc"],
    "uts": ["--unshare-uts"],
    "net": ["--unshare-net"],
    "root": ["--tmpfs", "/"],
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "probes.pyz"
    path.write_bytes(control.program())
    return path


def _start(
    argv: list[str], facts: dict[str, Any], pass_fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    line = json.dumps(facts | {"probes": []}) + "\n"
    return subprocess.run(
        argv, input=line, capture_output=True, text=True, timeout=30, check=False, pass_fds=pass_fds
    )


@pytest.mark.parametrize("mode", ["probe", "control"])
@pytest.mark.parametrize("kind", ["made for the occasion", "a pod"])
@pytest.mark.parametrize("told", ["everything", "nothing", "something wrong"])
def test_the_program_refuses_to_run_bare(
    mode: str, told: str, kind: str, program: Path, facts: dict[str, Any]
) -> None:
    namespaces = {
        "everything": facts["host_namespaces"],
        "nothing": None,
        "something wrong": dict.fromkeys(place.NAMESPACES, "mnt:[1]"),
    }
    told_of_the_place = {"host_namespaces": namespaces[told]}
    if kind == "a pod":
        # With every address that it has: the rest must do.
        told_of_the_place["pod_addresses"] = [str(address) for address in place._addresses("/proc")]
    done = _start([sys.executable, "-I", str(program), mode], facts | told_of_the_place)
    assert (done.returncode, done.stdout) == (NOT_HERE, "")
    assert done.stderr.startswith("No probe runs here. ")


def _enter(without: str, program: Path, facts: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    options = [option for name, some in _OPTIONS.items() if name != without for option in some]
    if without == "root":
        options += ["--ro-bind", "/", "/"]
    binds = []
    for path in {"/usr", sys.base_prefix}:
        binds += ["--ro-bind", path, path]
    for path in ("/lib", "/lib64", "/bin"):
        binds += ["--ro-bind-try", path, path]
    argv = [
        *("bwrap", *options, *binds, "--proc", "/proc", "--dev", "/dev"),
        *("--ro-bind", str(program), "/dev/probes.pyz", "--"),
        *(str(Path(sys.executable).resolve()), "-I", "-S", "/dev/probes.pyz", "probe"),
    ]
    return _start(argv, facts)


def test_the_program_runs_in_a_place_like_a_sandbox(program: Path, facts: dict[str, Any]) -> None:
    done = _enter("nothing", program, facts)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        ("pid", "The pid namespace is the host's."),
        ("ipc", "The ipc namespace is the host's."),
        ("uts", "The uts namespace is the host's."),
        ("net", "The net namespace is the host's."),
        ("root", "The root file system is "),
    ],
)
def test_the_program_refuses_to_run_where_one_thing_is_missing(
    without: str, reason: str, program: Path, facts: dict[str, Any]
) -> None:
    done = _enter(without, program, facts)
    assert done.returncode == NOT_HERE
    assert reason in done.stderr


@pytest.mark.requires("root")
def test_the_program_refuses_to_run_in_the_hosts_user_namespace(program: Path, facts: dict[str, Any]) -> None:
    """bubblewrap makes one for everybody but root, asked or not."""
    done = _enter("user", program, facts)
    assert done.returncode == NOT_HERE
    assert "The user namespace is the host's." in done.stderr


_ROUTES = "Iface\tDestination\tGateway\tFlags\n"
_IPV6_ROUTE = f"{'0' * 32} 40 {'0' * 32} 00 {'0' * 32} 00000400 00000001 00000000 {{flags}} {{interface}}\n"
_LOOPBACK = "Main:\n  +-- 127.0.0.0/8 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
_IPV4 = "     |-- {}\n        /32 host LOCAL\n"
_IPV6 = "{} 02 40 00 80     eth0\n"

#: In /proc of a process in a place where probes may run: one made for the occasion, and a pod.
_FRESH = {
    **{f"self__ns__{kind}": f"{kind}:[1000{number}]" for number, kind in enumerate(place.NAMESPACES)},
    "self__uid_map": "1000 1912345000 1\n",
    "self__mountinfo": "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / / rw shared:7 - tmpfs tmpfs rw\n",
    "net__route": _ROUTES + "lo\t00000000\t00000000\t0001\n",
    "net__ipv6_route": _IPV6_ROUTE.format(flags="00000001", interface="lo"),
}
_A_POD = {
    **_FRESH,
    "self__uid_map": "         0 2173698048      65536\n",
    "self__gid_map": "         0 2173698048      65536\n",
    "self__mountinfo": "1 0 0:1 / / ro,relatime - overlay overlay rw\n2 1 0:2 / /tmp rw - ext4 /dev/a rw\n",
    "net__route": _ROUTES + "eth0\t00000000\t0100000A\t0003\n",
    "net__ipv6_route": _IPV6_ROUTE.format(flags="00000003", interface="eth0"),
    "net__fib_trie": _LOOPBACK + _IPV4.format("10.244.0.7"),
    "net__if_inet6": f"{'0' * 31}1 01 80 10 80       lo\n"
    + _IPV6.format("fe8000000000000048c0f8fffe2c4f44")
    + _IPV6.format("fd6a7367c00200000000000000000007"),
}
_HOST = {"host_namespaces": {kind: f"{kind}:[1]" for kind in place.NAMESPACES}}
_TOLD_A_POD = {
    **_HOST,
    "node_namespaces": {kind: f"{kind}:[2]" for kind in place.NAMESPACES},
    "pod_addresses": ["10.244.0.7", "fd6a:7367:c002::7"],
}


def _made_up_proc(folder: Path, files: dict[str, str]) -> str:
    """A /proc with these files; "__" stands for "/"."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if "__ns__" in name:
            path.symlink_to(text)
        else:
            path.write_text(text)
    return str(folder)


#: A place of either kind that shares a namespace with the host, or has one of the machine's initial ones.
_NAMESPACES: list[tuple[dict[str, str], list[str]]] = [
    *(
        ({f"self__ns__{kind}": f"{kind}:[1]"}, [f"The {kind} namespace is the host's."])
        for kind in ("ipc", "mnt", "net", "pid", "user", "uts")
    ),
    ({"self__ns__cgroup": "cgroup:[1]"}, []),
    *(
        (
            {f"self__ns__{name.partition(':')[0]}": name},
            [f"The namespace {name} is the machine's initial one."],
        )
        for name in ("ipc:[4026531839]", "uts:[4026531838]", "user:[4026531837]", "pid:[4026531836]")
    ),
]


@pytest.mark.parametrize(
    ("files", "reasons"),
    [
        ({}, []),
        *_NAMESPACES,
        ({"self__uid_map": "0 1912345000 1\n1000 1912345001 1\n"}, []),
        (
            {"self__uid_map": "0 0 4294967295\n"},
            ["The user namespace has the identities of a whole machine."],
        ),
        (
            {"self__uid_map": "0 1000 1\n1 100000 65536\n"},
            ["The user namespace has the identities of a whole machine."],
        ),
        (
            {"self__mountinfo": "1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / /tmp rw - tmpfs tmpfs rw\n"},
            ["The root file system is overlay, not one made for the occasion."],
        ),
        ({"self__mountinfo": ""}, ["The root file system is unknown, not one made for the occasion."]),
        (
            {"net__route": _ROUTES + "eth0\t00000000\t0100000A\t0003\n"},
            ["There is a route off this machine, by eth0."],
        ),
        (
            {"net__ipv6_route": _IPV6_ROUTE.format(flags="00000003", interface="eth1")},
            ["There is a route off this machine, by eth1."],
        ),
        ({"net__ipv6_route": _IPV6_ROUTE.format(flags="00200200", interface="eth1")}, []),
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_reason_alone_is_found_in_a_place_that_else_would_do(
    tmp_path: Path, files: dict[str, str], reasons: list[str]
) -> None:
    """As data, because a place of each kind cannot be made everywhere; `look` itself takes no such place."""
    assert list(place._reasons(_HOST, _made_up_proc(tmp_path, _FRESH | files))) == reasons


@pytest.mark.parametrize(
    ("files", "reasons"),
    [
        ({}, []),
        *_NAMESPACES,
        *(
            ({f"self__ns__{kind}": f"{kind}:[2]"}, [f"The {kind} namespace is the node's."])
            for kind in ("ipc", "mnt", "net", "pid", "user", "uts")
        ),
        *(
            case
            for name in ("uid_map", "gid_map")
            for case in (
                (
                    {f"self__{name}": "0 2173698048 65537\n"},
                    [f"The user namespace has not the identities of a pod ({name})."],
                ),
                (
                    {f"self__{name}": "0 2173698048 65535\n65535 1000 1\n"},
                    [f"The user namespace has identities of the machine's own ({name})."],
                ),
                (
                    {f"self__{name}": "0 65535 2\n"},
                    [f"The user namespace has identities of the machine's own ({name})."],
                ),
                ({f"self__{name}": "0 65536 65536\n"}, []),
                ({f"self__{name}": ""}, [f"The user namespace has not the identities of a pod ({name})."]),
            )
        ),
        (
            {"self__mountinfo": "1 0 0:1 / / ro - ext4 /dev/a ro\n"},
            ["The root file system is ext4, not a container's."],
        ),
        (
            {"self__mountinfo": "1 0 0:1 / / rw,relatime - overlay overlay ro\n"},
            ["The root file system can be written."],
        ),
        (
            {"self__mountinfo": "1 0 0:1 / / ro - overlay overlay ro\n2 1 0:2 / / rw - overlay overlay rw\n"},
            ["The root file system can be written."],
        ),
        (
            {"net__fib_trie": _A_POD["net__fib_trie"] + _IPV4.format("192.0.2.7")},
            ["It has the address 192.0.2.7, which the suite did not say to be the pod's."],
        ),
        (
            {"net__if_inet6": _A_POD["net__if_inet6"] + _IPV6.format("20010db8000000000000000000000007")},
            ["It has the address 2001:db8::7, which the suite did not say to be the pod's."],
        ),
        ({"net__if_inet6": ""}, []),
        (
            {"net__if_inet6": "", "net__fib_trie": _LOOPBACK},
            ["It has no address that the suite said to be the pod's."],
        ),
        (
            {"net__route": _A_POD["net__route"] + "eth1\t00000000\t0100000A\t0003\n"},
            ["There are routes by several interfaces: eth0, eth1."],
        ),
        (
            {"net__ipv6_route": _IPV6_ROUTE.format(flags="00000003", interface="eth1")},
            ["There are routes by several interfaces: eth0, eth1."],
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_reason_alone_is_found_in_a_pod_that_else_would_do(
    tmp_path: Path, files: dict[str, str], reasons: list[str]
) -> None:
    assert list(place._reasons(_TOLD_A_POD, _made_up_proc(tmp_path, _A_POD | files))) == reasons


@pytest.mark.parametrize("told", [_HOST, _TOLD_A_POD], ids=["nothing", "a pod"])
def test_neither_kind_of_place_passes_for_the_other(tmp_path: Path, told: dict[str, Any]) -> None:
    wrong = _A_POD if told is _HOST else {**_FRESH, "self__gid_map": "", "net__fib_trie": ""}
    assert list(place._reasons(told, _made_up_proc(tmp_path, wrong)))


def test_a_probe_is_not_run_without_a_permit(facts: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        PROBES["make_a_ring"]()  # type: ignore[operator]
    with pytest.raises(TypeError, match="permit"):
        run(PROBES["make_a_ring"], facts, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="permit"):
        surroundings.prepare(None)  # type: ignore[arg-type]


def test_a_permit_cannot_be_made_up(facts: dict[str, Any]) -> None:
    with pytest.raises(place.NotHereError):
        place.Permit(object())
    with pytest.raises(place.NotHereError):
        place.look(facts)


def test_the_look_at_a_place_changes_nothing(program: Path, tmp_path: Path, facts: dict[str, Any]) -> None:
    before = sorted(tmp_path.iterdir()), Path("/proc/self/mountinfo").read_text()
    with pytest.raises(place.NotHereError):
        place.look(facts)
    assert before == (sorted(tmp_path.iterdir()), Path("/proc/self/mountinfo").read_text())
