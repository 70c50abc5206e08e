"""An exec stream of a real Kubernetes keeps what the contract of `gateway/transport/base.py` says.

The whole suite (tests/conformance/transport) runs over a stand-in for the API server. Here is what a real
server, kubelet and runtime could break of it, and what only they can say. Each test runs a few lines in a
pod, whose stdin and stdout are the stream.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from gateway.transport import kube_exec
from gateway.transport.base import TransportBrokenError, TransportError
from gateway.transport.kube_exec import ExecAddress, KubeExecTransport, TransportRefusedError
from tests.cluster.kubectl import Namespace, Pod, kubectl, until
from tests.conformance.transport.opened import descriptors, receive_exactly, running

pytestmark = [pytest.mark.requires("cluster"), pytest.mark.gen_test(timeout=90)]

MIB = 1024 * 1024

#: 5 MiB, no four bytes of which are like any others.
LARGE = b"".join(number.to_bytes(4, "big") for number in range(5 * MIB // 4))

#: Bytes that server, kubelet and runtime together may hold in one direction; each has buffers of its own.
BOUND = 80 * MIB

#: Seconds without any progress that show that something waits.
WHILE = 1.5


@dataclass(frozen=True)
class Api:
    """The API server, and one who may run commands in the pods of the tests' namespace."""

    server: str
    context: ssl.SSLContext
    token: str

    def address(self, pod: Pod, *command: str, container: str = "listener") -> ExecAddress:
        return ExecAddress(
            f"{self.server}/api/v1/namespaces/{pod.namespace}/pods/{pod.name}",
            container,
            command,
            {"Authorization": f"Bearer {self.token}"},
            self.context,
        )


def _token(namespace: Namespace, name: str) -> str:
    kubectl("create", "serviceaccount", name, "--namespace", namespace.name)
    return kubectl("create", "token", name, "--namespace", namespace.name).strip()


@pytest.fixture(scope="module")
def api(namespace: Namespace) -> Api:
    """With the rights that a gateway has."""
    config = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
    cluster = config["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    where = ("--namespace", namespace.name)
    token = _token(namespace, "may")
    # From Kubernetes 1.35 on a websocket needs both.
    kubectl("create", "role", "may", *where, "--verb=get,create", "--resource=pods/exec")
    kubectl("create", "rolebinding", "may", *where, "--role=may", f"--serviceaccount={namespace.name}:may")
    return Api(cluster["server"].rstrip("/"), ssl.create_default_context(cadata=authority), token)


@pytest.fixture(scope="module")
def pod(namespace: Namespace) -> Pod:
    return namespace.pods(runs={})[0]


@asynccontextmanager
async def streaming(address: ExecAddress) -> AsyncIterator[KubeExecTransport]:
    """An open stream, of which nothing is left."""
    fds, tasks = descriptors(), asyncio.all_tasks()
    transport = await KubeExecTransport.open(address, within=20)
    try:
        yield transport
    finally:
        await transport.close()
    if left := asyncio.all_tasks() - tasks:
        await asyncio.wait(left, timeout=5)
    assert asyncio.all_tasks() == tasks
    assert descriptors() == fds


async def receive_all(transport: KubeExecTransport) -> bytes:
    parts = []
    while part := await transport.receive():
        parts.append(part)
    return b"".join(parts)


def new_file() -> str:
    """A name for a file that a test's program and the test both know."""
    return f"/run/{secrets.token_hex(4)}"


def exists(pod: Pod, file: str) -> bool:
    return pod.run("test", "-e", file).returncode == 0


# -- bytes --------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways_in_order_and_the_end_behind_them(api: Api, pod: Pod) -> None:
    async def send() -> None:
        await transport.send(LARGE)
        await transport.send_eof()

    async with streaming(api.address(pod, "cat")) as transport, running(send()) as sending:
        assert await receive_all(transport) == LARGE
        await sending
        assert await transport.receive() == b""
        assert transport.ended is not None
        assert transport.ended.code == 0


async def test_each_byte_passes_as_it_is(api: Api, pod: Pod) -> None:
    every = bytes(range(256))
    async with streaming(api.address(pod, "cat")) as transport:
        for byte in every:
            await transport.send(bytes([byte]))
        assert await receive_exactly(transport, 256) == every


async def test_the_command_may_go_on_sending_after_the_half_close(api: Api, pod: Pod) -> None:
    script = "import sys; n = len(sys.stdin.buffer.read()); print(n, flush=True); print('more')"
    async with streaming(api.address(pod, "python3", "-c", script)) as transport:
        await transport.send(b"x" * 70_000)
        await transport.send_eof()
        assert await receive_all(transport) == b"70000\nmore\n"


async def test_a_command_that_does_not_read_stops_the_one_that_sends(api: Api, pod: Pod) -> None:
    file = new_file()
    script = (
        "import os, sys, time\n"
        f"while not os.path.exists('{file}'): time.sleep(.05)\n"
        "print(len(sys.stdin.buffer.read()))"
    )
    async with streaming(api.address(pod, "python3", "-c", script)) as transport:
        sent = 0
        while True:
            sending = asyncio.create_task(transport.send(bytes(256 * 1024)))
            done, _ = await asyncio.wait({sending}, timeout=WHILE)
            sent += 256 * 1024
            if not done:
                break
            assert sent < BOUND, "all is taken that nobody has read"
        pod.run("touch", file)
        await sending
        await transport.send_eof()
        assert await receive_all(transport) == f"{sent}\n".encode()


async def test_a_transport_that_does_not_receive_stops_the_command(api: Api, pod: Pod) -> None:
    file = new_file()
    script = (
        "import os, sys\n"
        "for n in range(100):\n"
        "    sys.stdout.buffer.write(bytes([n]) * (1 << 20)); sys.stdout.buffer.flush()\n"
        f"    open('{file}', 'w').write(str(n + 1))"
    )
    async with streaming(api.address(pod, "python3", "-c", script)) as transport:
        digest = hashlib.sha256(await transport.receive())
        written = -1
        while (now := int(pod.run("cat", file).stdout or 0)) != written:
            written = now
            await asyncio.sleep(WHILE)
        assert written * MIB < BOUND
        while part := await transport.receive():
            digest.update(part)
        expected = hashlib.sha256()
        for number in range(100):
            expected.update(bytes([number]) * MIB)
        assert digest.digest() == expected.digest()


async def test_twenty_streams_at_once_carry_each_their_own(api: Api, pod: Pod) -> None:
    async def echo(number: int) -> None:
        said = f"stream {number}\n".encode() * 1000
        transport = await KubeExecTransport.open(api.address(pod, "cat"), within=30)
        try:
            await transport.send(said)
            assert await receive_exactly(transport, len(said)) == said
            await transport.send_eof()
            assert await transport.receive() == b""
        finally:
            await transport.close()

    await asyncio.gather(*(echo(number) for number in range(20)))


async def test_a_server_that_knows_v4_alone_carries_all_but_the_half_close(
    api: Api, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is offered then is nothing that the server knows, and v4, which leads to the runtime's own server.
    monkeypatch.setattr(kube_exec, "V5", "unknown.channel.k8s.io")
    command = ("sh", "-c", f"head -c {len(LARGE)}; echo err >&2; exit 3")
    async with streaming(api.address(pod, *command)) as transport, running(transport.send(LARGE)):
        assert await receive_exactly(transport, len(LARGE)) == LARGE
        with pytest.raises(TransportBrokenError, match=r"exit code 3; it last wrote: err$"):
            await transport.receive()
    async with streaming(api.address(pod, "cat")) as transport:
        with pytest.raises(NotImplementedError):
            await transport.send_eof()
        await transport.send(b"x")
        assert await transport.receive() == b"x"


# -- how it ends --------------------------------------------------------------------------------------


async def test_an_exit_code_is_told_with_the_last_words(api: Api, pod: Pod) -> None:
    async with streaming(
        api.address(pod, "sh", "-c", "echo out; echo first >&2; echo err >&2; exit 3")
    ) as transport:
        assert await receive_exactly(transport, 4) == b"out\n"
        with pytest.raises(TransportBrokenError, match=r"exit code 3; it last wrote: first err$"):
            await transport.receive()
        assert transport.ended is not None
        assert (transport.ended.code, transport.ended.reason) == (3, "NonZeroExitCode")
        with pytest.raises(TransportBrokenError):
            await transport.send(b"x")


async def test_a_command_that_is_killed_is_a_broken_stream_behind_all_that_it_wrote(
    api: Api, pod: Pod
) -> None:
    async with streaming(api.address(pod, "sh", "-c", "printf last; kill -9 $$")) as transport:
        assert await receive_exactly(transport, 4) == b"last"
        with pytest.raises(TransportBrokenError, match="exit code 137"):
            await transport.receive()


async def test_a_pod_that_is_deleted_is_a_broken_stream(api: Api, namespace: Namespace) -> None:
    doomed = namespace.pods(doomed={})[0]
    async with streaming(api.address(doomed, "cat")) as transport, running(transport.receive()) as receiving:
        kubectl("delete", "pod", doomed.name, "--namespace", doomed.namespace, "--now", "--wait=false")
        with pytest.raises(TransportBrokenError):
            await asyncio.wait_for(receiving, 60)


async def test_the_command_reads_the_end_once_the_transport_is_closed(api: Api, pod: Pod) -> None:
    file = new_file()
    async with streaming(
        api.address(pod, "sh", "-c", f"cat > {file}.part; mv {file}.part {file}")
    ) as transport:
        await transport.send(b"last")
    until(lambda: exists(pod, file), "the command has not read the end of its stdin")
    assert pod.run("cat", file).stdout == "last"


# -- refusals -----------------------------------------------------------------------------------------


async def refusal(address: ExecAddress) -> TransportRefusedError:
    with pytest.raises(TransportRefusedError) as refused:
        await KubeExecTransport.open(address, within=20)
    return refused.value


async def test_a_pod_that_is_not_there_is_a_404(api: Api, pod: Pod) -> None:
    refused = await refusal(api.address(replace(pod, name="nobody"), "cat"))
    assert refused.status == 404
    assert 'pods "nobody" not found' in str(refused)


async def test_a_token_without_the_right_is_a_403(api: Api, pod: Pod, namespace: Namespace) -> None:
    refused = await refusal(replace(api, token=_token(namespace, "may-not")).address(pod, "cat"))
    assert refused.status == 403
    assert "may-not" in str(refused)
    assert "pods/exec" in str(refused)


async def test_a_token_of_nobody_is_a_401(api: Api, pod: Pod) -> None:
    assert (await refusal(replace(api, token=secrets.token_hex()).address(pod, "cat"))).status == 401


async def test_a_container_that_the_pod_does_not_have_is_a_400(api: Api, pod: Pod) -> None:
    refused = await refusal(api.address(pod, "cat", container="other"))
    assert refused.status == 400
    assert "container other is not valid for pod runs" in str(refused)


async def test_a_certificate_of_nobody_known_is_a_named_error(api: Api, pod: Pod) -> None:
    unknowing = replace(api, context=ssl.create_default_context())
    with pytest.raises(TransportBrokenError, match="is not trusted"):
        await KubeExecTransport.open(unknowing.address(pod, "cat"), within=20)


async def test_a_command_that_the_container_does_not_have_is_told_by_the_stream(api: Api, pod: Pod) -> None:
    async with streaming(api.address(pod, "no-such-program")) as transport:
        with pytest.raises(TransportBrokenError, match="no-such-program"):
            await transport.receive()
        assert transport.ended is not None
        assert not transport.ended.is_orderly


async def test_a_container_that_does_not_run_is_told_by_the_answer_or_by_the_stream(
    api: Api, namespace: Namespace
) -> None:
    container = {"name": "listener", "image": "localhost/missing:1", "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waits"}, "spec": spec}
    where = ("--namespace", namespace.name)
    kubectl("create", *where, "--filename=-", stdin=manifest)
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    until(
        lambda: kubectl("get", "pod", "waits", *where, "--output", reason) == "ErrImageNeverPull",
        "the kubelet has not looked for the image",
    )
    with pytest.raises(TransportError, match=r'container not found \("listener"\)'):
        async with streaming(api.address(Pod(namespace.name, "waits"), "cat")) as transport:
            await transport.receive()
