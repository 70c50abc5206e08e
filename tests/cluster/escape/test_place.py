"""The program of the probes refuses to run in a pod that is none of ours, and runs in an executor.

No test here hands it a probe.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.cluster.deployed import Deployed
from tests.cluster.escape.conftest import node_namespaces
from tests.cluster.kubectl import Namespace, Pod, kubectl
from tests.conformance.backend.visit import found_inside
from tests.escape import control
from tests.escape.probes.__main__ import NOT_HERE

pytestmark = [pytest.mark.requires("cluster", "pod-users"), pytest.mark.gen_test(timeout=300)]

#: Runs the program with these facts and no probe, told the addresses that the pod has.
_RUN = """
import base64, json, subprocess, sys, tempfile
words = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
with tempfile.TemporaryDirectory() as folder:
    with open(folder + "/program", "wb") as file:
        file.write(base64.b64decode(PROGRAM))
    done = subprocess.run(
        [sys.executable, "-I", "-S", folder + "/program", "probe"], capture_output=True, text=True,
        input=json.dumps({**FACTS, "pod_addresses": words, "probes": []}) + "\\n",
    )
found = [done.returncode, done.stdout, done.stderr]
"""


def _code(facts: dict[str, Any]) -> str:
    program = base64.b64encode(control.program()).decode()
    return f"PROGRAM, FACTS = {program!r}, {facts!r}\n{_RUN}"


def _refusal(pod: Pod, facts: dict[str, Any]) -> str:
    words = ("exec", "--stdin", "--namespace", pod.namespace, pod.name, "--", "python3", "-c")
    read = "import json, sys; code = json.load(sys.stdin); exec(code); print(json.dumps(found))"
    status, printed, said = json.loads(kubectl(*words, read, stdin=_code(facts)))
    assert (status, printed) == (NOT_HERE, "")
    return str(said)


async def test_the_program_runs_in_an_executor(there: Deployed, facts: dict[str, Any]) -> None:
    async with there.backend("place") as backend:
        found = await found_inside(backend, _code(facts) + "\ntell(found)")
    assert found == [0, "", ""]


async def test_the_program_refuses_to_run_in_an_ordinary_pod(
    namespace: Namespace, facts: dict[str, Any]
) -> None:
    (pod,) = namespace.pods(bare={})
    said = _refusal(pod, facts)
    for reason in (
        "The user namespace is the host's.",
        "The user namespace has identities of the machine's own (uid_map).",
        "The root file system can be written.",
    ):
        assert reason in said


async def test_the_program_refuses_to_run_in_a_pod_with_only_users_of_its_own(
    namespace: Namespace, facts: dict[str, Any]
) -> None:
    (pod,) = namespace.pods(users={"spec": {"hostUsers": False}})
    assert _refusal(pod, facts) == "No probe runs here. The root file system can be written.\n"


@pytest.mark.requires("own-cluster")
async def test_the_program_refuses_to_run_in_a_pod_that_is_its_node(
    namespace: Namespace, facts: dict[str, Any]
) -> None:
    (pod,) = namespace.pods(node={"spec": {"hostNetwork": True, "hostPID": True, "hostIPC": True}})
    said = _refusal(pod, facts | {"node_namespaces": node_namespaces()})
    for kind in ("ipc", "net", "pid"):
        assert f"The {kind} namespace is the node's." in said
    assert "There are routes by several interfaces" in said
