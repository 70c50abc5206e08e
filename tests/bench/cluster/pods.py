"""Pods without a gateway: how long one takes to run, and what is direct in one.

They are what the gateway makes, container for container (`podspec`), so that only the gateway is left out.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import secrets
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.backends.kubernetes import names, reasons
from gateway.backends.kubernetes.api import Api
from gateway.backends.kubernetes.watch import PodWatch
from gateway.transport.base import TransportBrokenError
from gateway.transport.kube_exec import KubeExecTransport
from tests.cluster import pods
from tests.cluster.deployed import Deployed
from tests.cluster.kubectl import PATIENCE_S, kubectl

_ROOT = Path(__file__).parents[3]
_LOG = logging.getLogger(__name__)
#: Seconds that pods may take to run, or to be gone.
_PATIENCE = 120.0
#: Seconds until SIGKILL, as the gateway has it. With none the API server would not wait for their end.
_GRACE = 1

#: Bytes that the bare exec stream carries, and the command in the pod that writes them.
STREAM = 100 * 1024 * 1024
_WRITE = "import sys\nfor _ in range({0} >> 16): sys.stdout.buffer.write(b'x' * (1 << 16))"

#: Runs `inside.py` from the sources that it is given.
_RUN = """
import io, runpy, sys, zipfile
zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())).extractall("/tmp/bench")
sys.path.insert(0, "/tmp/bench")
runpy.run_module("tests.bench.cluster.inside", run_name="__main__")
"""


class BarePods:
    """Pods that are made straight at the API, by the gateway's account and in the executors' namespace."""

    name = "bare pods"

    def __init__(self, there: Deployed, asked: Mapping[str, Any]) -> None:
        """`asked` is a kernelspec's metadata.sandbox."""
        self.there = there
        self.asked = asked

    def running(self, count: int = 1) -> float:
        """Seconds from the first POST of `count` at once until a watch has shown all of them running."""
        return asyncio.run(self._running(count))

    async def _running(self, count: int) -> float:
        instance = f"bare-{secrets.token_hex(3)}"
        path = self.there.installation.pods
        made = [
            pods.executor(self.there.installation.executors, self.asked, instance=instance)
            for _ in range(count)
        ]
        api = await Api.connect(str(self.there.kubeconfig), "")
        news = asyncio.Event()
        watch = PodWatch(api, path, f"{names.INSTANCE}={instance}", lambda *_: news.set(), _LOG)

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(_PATIENCE):
                while not condition():
                    news.clear()
                    await news.wait()

        try:
            await watch.start()
            start = time.perf_counter()
            try:
                await asyncio.gather(*(api.create(path, pod) for pod in made))
                await until(lambda: sum(map(reasons.is_running, watch.pods.values())) == count)
                elapsed = time.perf_counter() - start
            finally:
                await asyncio.gather(
                    *(api.delete(f"{path}/{pod['metadata']['name']}", _GRACE) for pod in made)
                )
            # So that their end is no part of what is measured next.
            await until(lambda: not watch.pods)
            return elapsed
        finally:
            await watch.close()
            await api.close()


class OpenPod:
    """An executor's pod in a namespace without policies, so that it may be entered with any command."""

    name = "inside a pod"

    def __init__(self, namespace: str, pod: str) -> None:
        self.namespace = namespace
        self.pod = pod

    def direct(self) -> dict[str, Any]:
        """Figures of the same kernel, by a client beside it (`inside.py`)."""
        into = (
            "kubectl",
            "exec",
            "--stdin",
            f"--namespace={self.namespace}",
            self.pod,
            f"--container={names.CONTAINER}",
            "--",
        )
        done = subprocess.run(
            [*into, "python", "-c", _RUN], input=_sources(), stdout=subprocess.PIPE, check=True
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def stream(self) -> float:
        """Bytes per second of what a program in the pod writes, by the gateway's own exec stream."""
        return asyncio.run(self._stream())

    async def _stream(self) -> float:
        api = await Api.connect(os.environ["KUBECONFIG"], "")
        try:
            path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}"
            command = ("python", "-c", _WRITE.format(STREAM))
            transport = await KubeExecTransport.open(
                await api.exec_address(path, names.CONTAINER, command), within=PATIENCE_S
            )
            try:
                size = len(await transport.receive())
                start = time.perf_counter()
                come = 0
                while data := await transport.receive():
                    come += len(data)
                elapsed = time.perf_counter() - start
            finally:
                await transport.close()
        finally:
            await api.close()
        if size + come != STREAM:
            raise TransportBrokenError(f"{size + come} of {STREAM} bytes came by the bare exec stream")
        return come / elapsed


@contextmanager
def open_pod() -> Iterator[OpenPod]:
    """One that runs; gone afterwards."""
    namespace = f"bench-{secrets.token_hex(3)}"
    kubectl("create", "namespace", namespace)
    try:
        # No gateway comes to it.
        pod = pods.executor(namespace, instance="open", orphan_timeout=86400)
        kubectl("create", "--filename=-", stdin=pod)
        name = pod["metadata"]["name"]
        words = ("--for=condition=Ready", f"--timeout={PATIENCE_S:.0f}s")
        kubectl("wait", *words, f"--namespace={namespace}", f"pod/{name}")
        yield OpenPod(namespace, name)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


def _sources() -> bytes:
    """The bench and what it uses of the gateway, as a zip file."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for folder in ("gateway", "tests/bench"):
            for source in sorted((_ROOT / folder).rglob("*.py")):
                file.write(source, source.relative_to(_ROOT))
    return held.getvalue()
