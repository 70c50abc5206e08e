"""What the gateway says of itself: version, status, identity, health and metrics."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import pytest
from tornado.testing import bind_unused_port

import gateway as package
from gateway.web.routes import make_metrics_application, make_server
from tests.unit.web.serving import TOKEN, gateway


@pytest.mark.gen_test
async def test_api_tells_the_version(tmp_path: Path):
    async with gateway(tmp_path) as server:
        assert await server.json("GET", "/api") == {"version": package.__version__}
        assert await server.json("GET", "/api/") == {"version": package.__version__}


@pytest.mark.gen_test
async def test_status_counts_kernels_and_connections(tmp_path: Path):
    async with gateway(tmp_path) as server:
        status = await server.json("GET", "/api/status")
        assert (status["kernels"], status["connections"]) == (0, 0)
        assert status["last_activity"] == status["started"]
        kernel = await server.json("POST", "/api/kernels")
        attachment = server.kernels.get(kernel["id"]).attach("one")
        status = await server.json("GET", "/api/status")
        assert (status["kernels"], status["connections"]) == (1, 1)
        assert status["last_activity"] == kernel["last_activity"] >= status["started"]
        attachment.detach()


@pytest.mark.gen_test
async def test_me_tells_the_identity_and_the_permissions_asked_about(tmp_path: Path):
    async with gateway(tmp_path) as server:
        asked = {"kernels": ["read", "explode"], "contents": ["read"]}
        query = urllib.parse.quote(json.dumps(asked))
        me = await server.json("GET", f"/api/me?permissions={query}")
        assert me["identity"]["username"] == "jupyter"
        assert me["permissions"] == {"kernels": ["read"], "contents": []}
        assert (await server.json("GET", "/api/me"))["permissions"] == {}


@pytest.mark.gen_test
async def test_probes_are_open_and_say_nothing_else(tmp_path: Path):
    async with gateway(tmp_path) as server:
        for path in ("/healthz", "/readyz"):
            response = await server.fetch("GET", path, token=None)
            assert (response.code, json.loads(response.body)) == (200, {"status": "ok"})
            assert (await server.fetch("HEAD", path, token=None)).code == 200


@pytest.mark.gen_test
async def test_metrics_need_the_token_and_count_requests_by_route(tmp_path: Path):
    async with gateway(tmp_path) as server:
        assert (await server.fetch("GET", "/metrics", token=None)).code == 403
        for path in ("/api/kernels/x", "/api/kernels/y", "/made/up", "/made/up/too"):
            await server.fetch("GET", path)
        bearer = {"Authorization": f"Bearer {TOKEN}"}  # what Prometheus sends
        response = await server.fetch("GET", "/metrics", headers=bearer, token=None)
        assert response.headers["Content-Type"].startswith("text/plain")
        name = "jupyter_gateway_http_request_duration_seconds_count"
        text = response.body.decode()
        assert f'{name}{{method="GET",route="/api/kernels/{{kernel_id}}",status="404"}} 2.0' in text
        assert f'{name}{{method="GET",route="other",status="404"}} 2.0' in text
        assert "made" not in text


@pytest.mark.gen_test
async def test_metrics_on_an_address_of_their_own_are_open_and_alone_there(tmp_path: Path):
    async with gateway(tmp_path) as server:
        own = make_server(make_metrics_application(server.settings))
        socket, port = bind_unused_port("127.0.0.1")
        own.add_sockets([socket])
        main, server.port = server.port, port
        for host, status in (("127.0.0.1", 200), ("192.0.2.7:9000", 200), ("evil.example", 403)):
            response = await server.fetch("GET", "/metrics", headers={"Host": host}, token=None)
            assert response.code == status
            assert (b"jupyter_gateway_kernels" in response.body) == (status == 200)
        assert (await server.fetch("GET", "/api/kernels")).code == 404
        server.port = main
        own.stop()
        await own.close_all_connections()
