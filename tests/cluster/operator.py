"""What an operator types: k8s/setup.sh, k8s/deploy.sh, helm; and a client of the gateway that comes of it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.installation import Installation
from tests.cluster.kubectl import kubectl, until

K8S = Path(__file__).parents[2] / "k8s"
CHART = K8S / "helm" / "integr8scode"
RELEASE = "integr8scode"

#: A line of setup.sh: what became of which object.
_LINE = re.compile(
    r"^(created|changed|unchanged|to be created|to be changed|left to the chart) +(\w+ \S+)$", re.M
)


def run(*words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program, with the gateway's own beside it on the PATH; an environment may be given instead."""
    if env is None:
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env)


def without_the_doctor() -> dict[str, str]:
    """An environment without the gateway's program: the scripts end without its doctor's findings."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if each != own)
    return {**os.environ, "PATH": path}


def well(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    """What it printed. Raises `AssertionError` with all that it said where it fails."""
    result = run(*words, env=env)
    assert result.returncode == 0, f"{words}: {result.stdout}\n{result.stderr}"
    return result.stdout


def told(output: str) -> dict[str, str]:
    """Object -> what setup.sh says of it."""
    return {what: became for became, what in _LINE.findall(output)}


@dataclass(frozen=True)
class Operator:
    """Somebody with the kustomization of an installation, on a cluster."""

    installation: Installation
    overlay: Path
    #: The name of the secret that has the token.
    token_in: str = "gateway-token"  # noqa: S105  # a name

    @property
    def namespace(self) -> str:
        """The gateway's."""
        return self.installation.gateway

    def setup(self, *words: str, doctor: bool = False) -> str:
        return self._script("setup.sh", words, doctor)

    def deploy(self, *words: str, doctor: bool = False) -> str:
        return self._script("deploy.sh", words, doctor)

    def _script(self, name: str, words: Iterable[str], doctor: bool) -> str:
        """The doctor takes longer than all the rest: it starts two pods."""
        env = None if doctor else without_the_doctor()
        return well(K8S / name, f"--kustomization={self.overlay}", *words, env=env)

    def helm(self, *words: str | Path) -> str:
        return well("helm", f"--namespace={self.namespace}", *words)

    def install(self, *words: str) -> str:
        """As somebody types it who has run setup.sh; `words` are Helm's, and set all values."""
        return self._release("install", *words)

    def upgrade(self, *words: str) -> str:
        return self._release("upgrade", *words)

    def _release(self, command: str, *words: str) -> str:
        names = f"--set=executors.namespace={self.installation.executors}"
        return self.helm(command, RELEASE, CHART, names, "--wait", "--timeout=3m", *words)

    def objects(self) -> list[dict[str, Any]]:
        """All of the kustomization that there are."""
        words = ("get", "--kustomize", str(self.overlay), "--ignore-not-found", "--output=json")
        text = kubectl(*words)
        found: list[dict[str, Any]] = json.loads(text)["items"] if text else []
        return found

    def versions(self) -> dict[str, str]:
        """Object -> its version, which every change changes; of those that do not change by themselves."""
        found = [each for each in self.objects() if each["kind"] not in ("Deployment", "ResourceQuota")]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in found}

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object of the gateway's namespace; {} where there is none."""
        text = kubectl(
            "get", kind, name, "--namespace", self.namespace, "--ignore-not-found", "--output=json"
        )
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def gateway(self) -> str:
        """The name of the gateway's pod, where there is one and it is ready."""
        words = ("--namespace", self.namespace, "--selector=component=gateway", "--output=json")
        (pod,) = json.loads(kubectl("get", "pods", *words))["items"]
        assert all(each["ready"] for each in pod["status"]["containerStatuses"]), pod["status"]
        name: str = pod["metadata"]["name"]
        return name

    def executors(self) -> list[str]:
        """Names of the pods with kernels."""
        words = ("--namespace", self.installation.executors, "--selector=component=executor")
        return kubectl("get", "pods", *words, "--output=jsonpath={.items[*].metadata.name}").split()

    @property
    def token(self) -> str:
        secret = self.get("secret", self.token_in)
        return base64.b64decode(secret["data"]["token"]).decode()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Through a forwarded port of the Service, which lasts as long as the gateway's pod."""
        argv = ["kubectl", "port-forward", "--namespace", self.namespace, "service/gateway", ":8888"]
        # It has a line for each connection, too, and would wait for somebody to read them from a pipe.
        with tempfile.NamedTemporaryFile() as said, subprocess.Popen(argv, stdout=said) as process:
            try:
                until(lambda: Path(said.name).stat().st_size > 0, "kubectl port-forward does not listen")
                found = re.search(r"127\.0\.0\.1:(\d+)", Path(said.name).read_text())
                assert found is not None, "kubectl port-forward does not listen"
                yield Client(f"http://127.0.0.1:{found[1]}", self.token)
            finally:
                process.terminate()


@dataclass(frozen=True)
class Client:
    """A client of the gateway."""

    url: str
    token: str

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Raises `HTTPError` for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def start(self) -> str:
        """A kernel that is ready; its id."""
        kernel: str = self.ask("POST", "/api/kernels", {})["id"]
        until(
            lambda: self.state(kernel) == "idle", f"the kernel is {self.ask('GET', f'/api/kernels/{kernel}')}"
        )
        return kernel

    def state(self, kernel: str) -> str:
        found: str = self.ask("GET", f"/api/kernels/{kernel}")["execution_state"]
        return found
