"""What a cluster is called, who may have one, and that none is made where one is named."""

from __future__ import annotations

import fcntl
import io
import ipaddress
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.cluster import Cluster, cgroups, instance, provision
from tools.cluster.cluster import TakenError
from tools.cluster.instance import NUMBERS, Instance
from tools.machine import ROOT, SetupError


def test_clusters_share_no_name_and_no_address() -> None:
    every = [Instance(number) for number in NUMBERS]
    for member in ("name", "state", "node_ipv4", "node_ipv6", "host_ipv4", "host_ipv6", "lock"):
        assert len({getattr(each, member) for each in every}) == len(every), member
    # IFNAMSIZ, which counts a byte at the end.
    assert all(len(each.name) < 16 for each in every)


@pytest.mark.parametrize("number", [NUMBERS[0], NUMBERS[-1]])
def test_host_and_node_are_in_the_clusters_network_and_pods_and_services_are_not(number: int) -> None:
    each = Instance(number)
    network = ipaddress.ip_network(each.network_ipv4)
    assert ipaddress.ip_address(each.host_ipv4) in network
    assert ipaddress.ip_address(each.node_ipv4) in network
    for other in (instance.PODS_IPV4, instance.SERVICES_IPV4):
        assert not network.overlaps(ipaddress.ip_network(other))
    assert ipaddress.ip_address(instance.DNS_IPV4) in ipaddress.ip_network(instance.SERVICES_IPV4)
    for address in (each.host_ipv6, each.node_ipv6):
        assert ipaddress.ip_address(address).is_private


def test_the_keeper_is_who_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "STATES", tmp_path)
    one = Instance(1)
    assert one.keeper() is None
    hold = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, one.lock], **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"held\n"
        assert one.keeper() == holder.pid
    assert one.keeper() is None
    with one.lock.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # free again


def test_a_kubeconfig_leads_to_its_cluster_and_no_other_does() -> None:
    found = Cluster.of(str(Instance(3).kubeconfig))
    assert found is not None
    assert found.instance == Instance(3)
    assert Cluster.of("/home/somebody/.kube/config") is None


def test_an_ordinary_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SetupError, match="Only root can make a cluster: type sudo"):
        provision.check_account()


@pytest.mark.parametrize(("kubeconfig", "uid"), [("/somewhere", 0), ("", 1000)])
def test_no_cluster_is_made_where_one_is_named_or_nobody_may(
    kubeconfig: str, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(provision, "set_up", lambda: pytest.fail("something is set up"))
    with provision.for_tests() as environment:
        assert environment == {}


def test_a_cluster_of_this_machine_that_is_named_is_used_with_its_own_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kubeconfig = str(Instance(0).kubeconfig)
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    with provision.for_tests() as environment:
        assert environment["KUBECONFIG"] == kubeconfig
        assert "/kubernetes-" in environment["PATH"]


def test_a_number_that_somebody_else_takes_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def up(self: Cluster, *, stay: bool) -> None:
        assert not stay
        if self.instance.number < 3:
            raise TakenError

    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(provision, "set_up", lambda: None)
    monkeypatch.setattr(Cluster, "up", up)
    monkeypatch.setattr(Cluster, "down", lambda self: ended.append(self.instance.number))
    with provision.for_tests() as environment:
        assert environment["KUBECONFIG"] == str(Instance(3).kubeconfig)
        assert not ended
    assert ended == [3]


def test_a_unified_hierarchy_without_a_controller_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset memory")
    with pytest.raises(SetupError, match="lacks: pids"):
        cgroups._make_unified(tmp_path, "group")


def test_in_a_unified_hierarchy_every_controller_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset hugetlb memory pids")
    cgroups._make_unified(tmp_path, "group")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +cpuset +memory +pids"
    assert (tmp_path / "group").is_dir()


@pytest.mark.parametrize("words", [(), ("sideways",), ("up", "down")])
def test_a_command_that_is_not_known_gets_the_list(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tools.cluster", *words]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "usage: python -m tools.cluster build|up|down|shell\n")


def test_a_node_is_given_an_image_unless_it_has_just_that_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = {"org.opencontainers.image.ref.name": "localhost/x:1"}
    index = json.dumps({"manifests": [{"digest": "sha256:new", "annotations": name}]}).encode()
    member = tarfile.TarInfo("index.json")
    member.size = len(index)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(member, io.BytesIO(index))
    cluster, asked, given = Cluster(Instance(1)), [], []
    has = ["", "localhost/x:1 sha256:old", "localhost/x:1 sha256:new"]
    monkeypatch.setattr(cluster, "run", lambda *words: asked.append(words[-1]) or has[len(asked) - 1])
    monkeypatch.setattr(cluster, "enter", lambda *words: given.append(words[-2:]) or ["true"])
    for _ in has:
        cluster.import_image(tmp_path / "x.tar")
    assert asked == ["name==localhost/x:1"] * 3
    assert given == [("import", "-")] * 2
