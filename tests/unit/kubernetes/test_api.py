"""Requests to an API server: whose they are, what is tried again, and what errors say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.backends.kubernetes import api as apis
from gateway.backends.kubernetes.api import Api, ApiError, NotFoundError
from tests.support.certificates import make_certificate
from tests.unit.kubernetes.api_server import ApiServer, api_server, configure, pod, refusal

pytestmark = pytest.mark.gen_test(timeout=30)


@contextlib.asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[ApiServer, Api, str]]:
    async with api_server(folder) as (server, kubeconfig):
        api = await Api.connect(kubeconfig, "")
        try:
            yield server, api, kubeconfig
        finally:
            await api.close()


def answering(server: ApiServer, *answers: Any) -> None:
    left = list(answers)
    server.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]


async def test_a_request_carries_the_token_and_the_query(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        answering(server, (200, {"a": 1}, {}))
        assert await api.get("/x", {"labelSelector": "a=b,c"}) == {"a": 1}
        (request,) = server.requests
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.arguments == {"labelSelector": [b"a=b,c"]}


async def test_a_patch_is_a_merge_patch(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        await api.patch("/x", {"metadata": {"annotations": {"a": "b"}}})
        (request,) = server.requests
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        assert json.loads(request.body) == {"metadata": {"annotations": {"a": "b"}}}


async def test_a_deletion_says_whether_there_was_anything(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        assert await api.delete("/x", 1)
        assert json.loads(server.requests[0].body) == {"gracePeriodSeconds": 1}
        answering(server, refusal(404, "NotFound", "there is none"))
        assert not await api.delete("/x", 1)


async def test_a_refusal_has_the_servers_words(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        answering(server, refusal(409, "AlreadyExists", 'pods "x" already exists'))
        with pytest.raises(ApiError, match='answered 409: pods "x" already exists') as refused:
            await api.create("/x", {})
        assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")
        answering(server, refusal(404, "NotFound", "there is none"))
        with pytest.raises(NotFoundError):
            await api.get("/x")


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_what_passes_is_tried_again(tmp_path: Path, code: int) -> None:
    async with connected(tmp_path) as (server, api, _):
        answering(server, refusal(code, "Busy", "later"), (200, {"well": True}, {}))
        assert await api.get("/x") == {"well": True}


async def test_the_time_that_the_server_names_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    async with connected(tmp_path) as (server, api, _):
        slept = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr(apis.asyncio, "sleep", sleep)
        code, body, _ = refusal(429, "TooManyRequests", "later")
        answering(server, (code, body, {"Retry-After": "7"}), (200, {}, {}))
        await api.get("/x")
        assert [seconds for seconds in slept if seconds] == [7]


async def test_a_creation_that_may_have_happened_is_not_repeated(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        answering(server, refusal(500, "InternalError", "who knows"), (200, {}, {}))
        with pytest.raises(ApiError, match="who knows"):
            await api.create("/x", {})
        assert len(server.requests) == 1


async def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(tmp_path) as (_, api, _):
        pass
    monkeypatch.setattr(apis, "_REQUEST_TIMEOUT", 0.5)
    with pytest.raises(ApiError, match=r"at http://127\.0\.0\.1:\d+ does not answer"):
        await api.get("/x")
    await api.close()


async def test_a_token_that_rotates_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(tmp_path) as (server, api, kubeconfig):
        token = tmp_path / "token"
        configure(kubeconfig, user={"tokenFile": str(token)})
        monkeypatch.setattr(apis, "_RENEW", 0)
        for value in ("first", "second"):
            token.write_text(value)
            await api.get("/x")
            assert server.requests[-1].headers["Authorization"] == f"Bearer {value}"
        address = await api.exec_address("/pods/a", "kernel", ["x"])
        assert address.headers["authorization"] == "Bearer second"


async def test_a_certificate_that_is_replaced_while_it_is_read_is_an_error_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_certificate(tmp_path / "authority")
    load = Api._configuration

    async def and_it_is_gone(self: Api) -> Any:
        configuration = await load(self)
        authority.unlink()
        return configuration

    async with api_server(tmp_path) as (_, kubeconfig):
        configure(
            kubeconfig, cluster={"server": "https://127.0.0.1:1", "certificate-authority": str(authority)}
        )
        monkeypatch.setattr(Api, "_configuration", and_it_is_gone)
        with pytest.raises(ApiError, match="certificates"):
            await Api.connect(kubeconfig, "")


async def test_an_exec_plugin_is_run(tmp_path: Path) -> None:
    async with api_server(tmp_path) as (server, kubeconfig):
        plugin = tmp_path / "plugin"
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": "from a plugin"},
        }
        plugin.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(credential)}\nEOF\n")
        plugin.chmod(stat.S_IRWXU)
        command = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
        configure(kubeconfig, user={"exec": command})
        api = await Api.connect(kubeconfig, "")
        try:
            await api.get("/x")
            assert server.requests[0].headers["Authorization"] == "Bearer from a plugin"
        finally:
            await api.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "a: b", '{"current-context": "x", "contexts": []}', '{"clusters": 1}']
)
async def test_a_kubeconfig_that_is_none_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ApiError, match=f"(?s)cannot be loaded from {path}.*KUBECONFIG"):
        await Api.connect(str(path), "")


async def test_a_kubeconfig_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"cannot be loaded from .*nowhere"):
        await Api.connect(str(tmp_path / "nowhere"), "")


@pytest.mark.parametrize("member", ["proxy-url", "tls-server-name"])
async def test_what_exec_streams_cannot_follow_is_refused(tmp_path: Path, member: str) -> None:
    async with api_server(tmp_path) as (_, kubeconfig):
        configure(kubeconfig, cluster={member: "http://127.0.0.1:1"})
        with pytest.raises(ApiError, match=member):
            await Api.connect(kubeconfig, "")


async def test_an_answer_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api, _):
        server.answer = lambda _: (200, ["x"], {})  # type: ignore[assignment,return-value]
        with pytest.raises(ApiError, match="no JSON object"):
            await api.get("/x")


# -- connections ------------------------------------------------------------------------------------------


class SilentServer:
    """Takes one connection by TLS, as far as `until`: "connect", "request" or "event". Says no goodbye."""

    def __init__(self, folder: Path, until: str) -> None:
        self._until = until
        self._certificate = make_certificate(folder / "certificate.pem")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._over = threading.Event()
        self.there = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate)
        connection, _ = self._socket.accept()
        with connection:
            if self._until == "connect":
                self._wait()
                return
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1 << 16)
                if self._until == "event":
                    event = json.dumps({"type": "BOOKMARK", "object": pod("a")}).encode() + b"\n"
                    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    secured.sendall(head + b"%x\r\n%b\r\n" % (len(event), event))
                self._wait()

    def _wait(self) -> None:
        self.there.set()
        self._over.wait(20)

    @property
    def clients(self) -> list[str]:
        """The states of this process's connections to it."""
        found = psutil.Process().net_connections("tcp")
        return [each.status for each in found if each.raddr and each.raddr.port == self.port]

    def kubeconfig(self, folder: Path) -> str:
        """A file that leads here."""
        path = ApiServer().kubeconfig(folder, self.port)
        server = f"https://127.0.0.1:{self.port}"
        configure(path, cluster={"server": server, "certificate-authority": str(self._certificate)})
        return path

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


@pytest.mark.parametrize("until", ["connect", "request", "event"])
async def test_a_connection_that_is_given_up_is_gone_when_the_connections_are_given_back(
    tmp_path: Path, until: str
) -> None:
    server = SilentServer(tmp_path, until)
    try:
        api = await Api.connect(server.kubeconfig(tmp_path), "")
        watch = api.watch("/x", {}, 60)
        first = asyncio.create_task(anext(watch))
        assert await asyncio.to_thread(server.there.wait, 20)
        if until == "event":
            assert (await first)["type"] == "BOOKMARK"
        else:
            first.cancel()
            await asyncio.wait([first])
        assert server.clients == ["ESTABLISHED"]
        await watch.aclose()
        await api.close()
        assert server.clients == []
    finally:
        server.close()
