"""A cluster's life, and what tests do to it: up, down, stop or start one component, import an image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..machine import ROOT, SetupError
from . import keeper, parts, pki
from .components import CTR, FELIX_HEALTH_PORT, PATH, components, write_settings
from .instance import NODE, NUMBERS, PODS_IPV4, PODS_IPV6, STATES, Instance

_MANIFESTS = Path(__file__).parent / "manifests"

#: Seconds for what takes a few, on a machine that does much else.
_PATIENCE_S = 120.0
_POLL_S = 0.1

#: Lines of a log that are shown when something failed.
_TAIL = 25

#: Pods reach the host's end of the wire under the node's address: the host knows no way to theirs.
_MASQUERADE = f"""
table inet cluster {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "node0" ip saddr {PODS_IPV4} masquerade
    oifname "node0" ip6 saddr {PODS_IPV6} masquerade
  }}
}}
"""


class TakenError(SetupError):
    """The cluster runs already, or is just being started."""


class Cluster:
    """One cluster of this machine, whether it runs or not. Only root can do anything with it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._owner: int | None = None
        self._keeper: subprocess.Popen[str] | None = None

    @classmethod
    def of(cls, kubeconfig: str) -> Cluster | None:
        """The cluster whose kubeconfig this is; None for any other's."""
        for number in NUMBERS:
            if Path(kubeconfig) == Instance(number).kubeconfig:
                return cls(Instance(number))
        return None

    @property
    def runs(self) -> bool:
        return self.instance.keeper() is not None

    @property
    def is_ready(self) -> bool:
        """Whether its API server answers and says that the node is ready."""
        return self._answers("wait", "--timeout=1s", "--for=condition=Ready", f"node/{NODE}")

    def environment(self) -> dict[str, str]:
        """What programs need to use it: KUBECONFIG, and a PATH with kubectl and helm."""
        tools = [str(part.folder) for part in parts.parts() if part.name in ("kubernetes", "helm")]
        path = os.pathsep.join([*tools, os.environ.get("PATH", os.defpath)])
        # No proxy knows the way there.
        direct = ",".join(filter(None, [os.environ.get("no_proxy"), self.instance.node_ipv4]))
        kubeconfig = str(self.instance.kubeconfig)
        return {"KUBECONFIG": kubeconfig, "PATH": path, "no_proxy": direct, "NO_PROXY": direct}

    def up(self, *, stay: bool) -> None:
        """Start it and wait until its node is Ready. Unless it may `stay`, it ends with this process.

        Raises `TakenError`, or `SetupError` where it cannot; nothing of it is then left but its logs.
        """
        built = parts.build()
        self._start_keeper(built)
        try:
            self._start_everything(built)
        except BaseException:
            self.down()
            raise
        if stay:
            assert self._owner is not None
            os.write(self._owner, keeper.STAY)
            os.close(self._owner)
            self._owner = None

    def down(self) -> None:
        """End it, and return when nothing of it is left but its logs. Does nothing where it does not run."""
        process = self.instance.keeper()
        if process is not None:
            os.kill(process, signal.SIGTERM)
            _until(lambda: not self.runs, "The cluster does not end.")
        elif self.instance.state.exists():
            keeper.clear(self.instance, keep_log=True)  # a keeper that was killed could not
        self._disown()

    def enter(self, *command: str) -> list[str]:
        """The command that runs this one in the node."""
        init = self.instance.init.read_text()
        spaces = ("--net", "--mount", "--ipc", "--uts", "--pid")
        return ["nsenter", "--target", init, *spaces, "env", f"PATH={PATH}", *command]

    def run(self, *command: str) -> str:
        """Run a program in the node and return what it printed. Raises `SetupError` where it fails."""
        result = subprocess.run(self.enter(*command), capture_output=True, text=True)
        if result.returncode != 0:
            raise SetupError(f"In the node, {' '.join(command)} failed: {result.stderr.strip()}")
        return result.stdout

    def kubectl(self, *words: str) -> str:
        """Run kubectl as the cluster's administrator. Raises `SetupError` where it fails."""
        environment = {**os.environ, **self.environment()}
        result = subprocess.run(["kubectl", *words], env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise SetupError(f"kubectl {' '.join(words)} failed: {result.stderr.strip()}")
        return result.stdout

    def start(self, name: str) -> None:
        """Start a component: "felix", "kubelet", "containerd", "kube-apiserver" ... Its log goes on."""
        component = components(self.instance)[name]
        # A session of its own, whose leader the node's first process then is the parent of.
        script = f'echo $$ > /run/{name}.pid; exec "$@"'
        command = self.enter("setsid", "--fork", "sh", "-c", script, "sh", *component.argv)
        with (self.instance.log / f"{name}.log").open("ab") as log:
            # Nothing of the machine's: a proxy, for one, would be asked for the cluster's own addresses.
            environment = {"PATH": os.environ.get("PATH", os.defpath), **component.environment}
            subprocess.run(
                command,
                check=True,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a component by a signal, and wait until it has ended; what it made in the node stays."""
        process = self.run("cat", f"/run/{name}.pid").strip()
        self.run("kill", f"-{number.value}", process)
        gone = ("sh", "-c", f"! test -e /proc/{process}")
        _until(lambda: _succeeds(self.enter(*gone)), f"{name} does not end.")

    def import_image(self, archive: Path) -> None:
        """Give the node the image of an OCI archive, under the name in it, unless it has just that one."""
        with tarfile.open(archive) as members:
            index = members.extractfile("index.json")
            assert index is not None
            (manifest,) = json.load(index)["manifests"]
        name = manifest["annotations"]["org.opencontainers.image.ref.name"]
        if manifest["digest"] in self.run(*CTR, "images", "list", f"name=={name}"):
            return
        with archive.open("rb") as file:
            command = self.enter(*CTR, "images", "import", "-")
            result = subprocess.run(command, stdin=file, capture_output=True, text=True)
        if result.returncode != 0:
            raise SetupError(f"{archive} could not be imported: {result.stderr.strip()}")

    def _start_keeper(self, built: dict[str, Path]) -> None:
        STATES.mkdir(parents=True, exist_ok=True)
        self.instance.state.mkdir(exist_ok=True)
        owned, self._owner = os.pipe()
        command = [sys.executable, "-m", "tools.cluster.keeper", str(self.instance.number)]
        log = self.instance.keeper_log
        with log.open("wb") as errors, os.fdopen(owned, "rb") as stdin:
            process = self._keeper = subprocess.Popen(
                [*command, *map(str, built.values())],
                cwd=ROOT,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None
        with process.stdout:
            answer = process.stdout.readline().strip()
        if answer != keeper.MADE:
            self._disown()
            if answer == keeper.TAKEN:
                raise TakenError(f"Cluster {self.instance.number} runs already: see {self.instance.state}.")
            raise SetupError(answer or f"The cluster's keeper failed:\n{_tail(log)}")

    def _disown(self) -> None:
        """Let go of a keeper that has ended, or ends now."""
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None

    def _start_everything(self, built: dict[str, Path]) -> None:
        self.run("nft", _MASQUERADE)
        pki.make(self.instance)
        write_settings(self.instance)
        for name in ("etcd", "kube-apiserver", "containerd"):
            self.start(name)
        with ThreadPoolExecutor() as pool:
            images = pool.submit(self._import_parts, built)
            self._wait_for("kube-apiserver", lambda: self._answers("get", "--raw=/readyz"))
            for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
                self.start(name)
            self.kubectl("create", "-f", str(built["calico"] / "crds"))
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            self.kubectl("create", "-f", str(_MANIFESTS))
            images.result()
        for name in ("felix", "kubelet"):
            self.start(name)
        self._wait_for("felix", self._felix_is_ready)
        self._wait_for("kubelet", lambda: self.is_ready)
        dns = (
            "wait",
            "--timeout=1s",
            "--for=condition=Available",
            "--namespace=kube-system",
            "deployment/coredns",
        )
        self._wait_for("kubelet", lambda: self._answers(*dns))

    def _import_parts(self, built: dict[str, Path]) -> None:
        self._wait_for("containerd", lambda: _succeeds(self.enter(*CTR, "version")))
        for folder in built.values():
            for archive in folder.glob("*.tar"):
                self.import_image(archive)

    def _answers(self, *words: str) -> bool:
        return _succeeds(["kubectl", *words], {**os.environ, **self.environment()})

    def _felix_is_ready(self) -> bool:
        address = f"http://{self.instance.node_ipv4}:{FELIX_HEALTH_PORT}/readiness"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(address, timeout=1):
                return True
        except OSError:
            return False

    def _wait_for(self, name: str, condition: Callable[[], bool]) -> None:
        try:
            _until(condition, f"The cluster's {name} is not ready after {_PATIENCE_S:.0f} s.")
        except SetupError as error:
            raise SetupError(f"{error} Its log ends:\n{_tail(self.instance.log / f'{name}.log')}") from error


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SetupError(otherwise)
        time.sleep(_POLL_S)


def _succeeds(command: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:]) if log.exists() else "(nothing)"
