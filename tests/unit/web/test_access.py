"""Who may call: tokens, Host and Origin, on every path; and what browsers on other sites are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from gateway.auth import OriginPolicy
from gateway.web.cors import CorsPolicy
from gateway.web.routes import ROUTES
from tests.unit.web.serving import TOKEN, Gateway, gateway

OPEN = {"/healthz", "/readyz"}
FOREIGN = "https://evil.example"
PAGES = OriginPolicy("https://pages.example")


def paths() -> list[str]:
    """Every path of the router, with something in the place of its parameters."""
    return [template.replace("{", "").replace("}", "") for template in ROUTES]


@pytest.mark.gen_test
async def test_every_path_but_the_probes_needs_a_token(tmp_path: Path):
    async with gateway(tmp_path) as server:
        for path in paths():
            for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"):
                response = await server.fetch(method, path, token=None)
                if path in OPEN:
                    assert response.code in (200, 405)
                else:
                    assert response.code == 403, (method, path)
        assert server.kernels.list() == []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api", {"Authorization": f"token {TOKEN}"}, 200),
        ("/api", {"Authorization": f"Token {TOKEN}"}, 200),
        ("/api", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("/api", {"Authorization": f"bearer  {TOKEN} "}, 200),
        (f"/api?token={TOKEN}", {}, 200),
        (f"/api?1700000000&token={TOKEN}", {}, 200),
        (f"/api?token={TOKEN}", {"Authorization": "Bearer of-a-proxy"}, 200),
        (f"/api?token={TOKEN}", {"Authorization": "Basic abc"}, 200),
        ("/api?token=wrong", {"Authorization": f"token {TOKEN}"}, 200),
        ("/api", {}, 403),
        ("/api", {"Authorization": "token "}, 403),  # jupyter_server without a token
        ("/api", {"Authorization": "token"}, 403),
        ("/api", {"Authorization": TOKEN}, 403),
        ("/api", {"Authorization": f"Basic {TOKEN}"}, 403),
        ("/api", {"Authorization": f"token {TOKEN}x"}, 403),
        ("/api", {"Authorization": f"token {TOKEN[:-1]}"}, 403),
        ("/api", {"Authorization": f"token {TOKEN} {TOKEN}"}, 403),
        ("/api", {"Authorization": f"token {TOKEN.upper()}"}, 403),
        ("/api", {"Cookie": f"token={TOKEN}"}, 403),
        ("/api?token=", {}, 403),
        ("/api?token=%ff%00", {}, 403),
        (f"/api?token=wrong&token={TOKEN}", {}, 403),
        (f"/api?Token={TOKEN}", {}, 403),
    ],
)
async def test_tokens(tmp_path: Path, path: str, headers: dict[str, str], status: int):
    async with gateway(tmp_path) as server:
        response = await server.fetch("GET", path, headers=headers, token=None)
        assert response.code == status
        if status == 403:
            error = json.loads(response.body)
            assert error["reason"] == "Forbidden"
            assert "'Authorization: token <token>'" in error["message"]
            assert TOKEN not in error["message"]


@pytest.mark.gen_test
async def test_without_authentication_any_token_or_none_is_accepted(tmp_path: Path):
    async with gateway(tmp_path, token=None) as server:
        for headers in ({}, {"Authorization": "token "}, {"Authorization": "token anything"}):
            assert (await server.fetch("GET", "/api", headers=headers, token=None)).code == 200


HOSTS = [
    ("127.0.0.1", 200),
    ("127.0.0.1:8888", 200),
    ("127.8.9.10", 200),
    ("localhost:8888", 200),
    ("LocalHost", 200),
    ("localhost.", 200),
    ("[::1]:8888", 200),
    ("jupyter.example", 200),  # allowed_hosts
    ("evil.example", 403),
    ("localhost.evil.example", 403),
    ("127.0.0.1.evil.example", 403),
    ("192.0.2.7", 403),
    ("[2001:db8::1]", 403),
]


@pytest.mark.gen_test
@pytest.mark.parametrize(("host", "status"), HOSTS)
@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without authentication"])
async def test_hosts_are_checked_on_every_path(tmp_path: Path, host: str, status: int, token: str | None):
    async with gateway(tmp_path, token=token, allowed_hosts=("jupyter.example",)) as server:
        for path in ("/api", "/healthz", "/nothing"):
            response = await server.fetch("GET", path, headers={"Host": host})
            expected = 404 if path == "/nothing" and status == 200 else status
            assert response.code == expected, path
        if status == 403:
            preflight = await server.fetch("OPTIONS", "/api", headers={"Host": host})
            assert preflight.code == 403
            assert "allowed_hosts" in json.loads(preflight.body)["message"]


@pytest.mark.gen_test
@pytest.mark.parametrize("bound", ["0.0.0.0", "::", ""])  # noqa: S104  # nothing is bound
async def test_where_every_address_is_bound_any_address_may_be_used_and_no_other_name(
    tmp_path: Path, bound: str
):
    async with gateway(tmp_path, bound=bound) as server:
        for host, status in (("192.0.2.7:8888", 200), ("[2001:db8::1]", 200), ("evil.example", 403)):
            assert (await server.fetch("GET", "/api", headers={"Host": host})).code == status


@pytest.mark.gen_test
async def test_the_bound_address_may_be_used(tmp_path: Path):
    async with gateway(tmp_path, bound="192.0.2.7") as server:
        for host, status in (("192.0.2.7:8888", 200), ("192.0.2.8:8888", 403)):
            assert (await server.fetch("GET", "/api", headers={"Host": host})).code == status


UNSAFE = [
    ("POST", "/api/kernels"),
    ("POST", "/api/sessions"),
    ("DELETE", "/api/kernels/x"),
    ("PATCH", "/api/sessions/x"),
    ("POST", "/api/kernels/x/restart"),
    ("PUT", "/api/kernels"),
]


@pytest.mark.gen_test
@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without authentication"])
@pytest.mark.parametrize(
    "origin", [FOREIGN, "null", "http://127.0.0.1:1", "file://", "http://[", "https://pages.example.evil"]
)
async def test_a_foreign_page_can_change_nothing(tmp_path: Path, token: str | None, origin: str):
    async with gateway(tmp_path, token=token, origins=PAGES) as server:
        for method, path in UNSAFE:
            response = await server.fetch(method, path, b"{}", {"Origin": origin})
            assert response.code == 403, (method, path)
            assert "allow_origin" in json.loads(response.body)["message"]
        assert server.kernels.list() == []
        assert await opening(server, origin) == 403


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "allowed",
    ["its own", "https://pages.example", None],
)
async def test_its_own_pages_configured_ones_and_programs_may(tmp_path: Path, allowed: str | None):
    async with gateway(tmp_path, origins=PAGES) as server:
        origin = f"http://127.0.0.1:{server.port}" if allowed == "its own" else allowed
        response = await server.fetch("POST", "/api/kernels", headers={"Origin": origin} if origin else {})
        assert response.code == 201
        assert await opening(server, origin) == 404  # past the Origin: there is no such kernel


@pytest.mark.gen_test
async def test_a_websocket_without_a_token_is_refused_and_told_which_setting_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    async with gateway(tmp_path) as server:
        assert await opening(server, None, {}) == 403
        assert "allow_path_token=True" in caplog.text
        assert "ws_url=ws://<host>/t/<token>" in caplog.text


@pytest.mark.gen_test
async def test_the_token_in_the_path_opens_websockets_only_and_only_where_it_is_switched_on(tmp_path: Path):
    async with gateway(tmp_path, allow_path_token=True) as server:
        assert await opening(server, None, {}, f"/t/{TOKEN}") == 404  # there is no such kernel
        assert await opening(server, None, {}, "/t/wrong") == 403
        assert (await server.fetch("GET", f"/t/{TOKEN}/api/kernels", token=None)).code == 404
    async with gateway(tmp_path / "off") as server:
        assert await opening(server, None, {}, f"/t/{TOKEN}") == 404
        response = await server.fetch("GET", f"/t/{TOKEN}/api/kernels/x/channels", token=None)
        assert "/api/spec.yaml" in json.loads(response.body)["message"]  # there is no such path


async def opening(
    server: Gateway, origin: str | None, headers: dict[str, str] | None = None, prefix: str = ""
) -> int:
    """The status that the handshake of a kernel's websocket is answered with."""
    sent = {"Authorization": f"token {TOKEN}"} if headers is None else dict(headers)
    if origin is not None:
        sent["Origin"] = origin
    url = server.url(f"{prefix}/api/kernels/x/channels").replace("http", "ws", 1)
    with pytest.raises(HTTPClientError) as refusal:
        await websocket_connect(HTTPRequest(url, headers=sent))
    return refusal.value.code


SIX = CorsPolicy(
    OriginPolicy("https://pages.example"),
    allow_credentials=True,
    allow_headers="Authorization, X-Mine",
    allow_methods="GET, POST",
    expose_headers="X-Request-Id",
    max_age=600,
)


@pytest.mark.gen_test
async def test_the_six_headers_go_out_as_configured_with_answers_errors_and_preflights(tmp_path: Path):
    async with gateway(tmp_path, cors=SIX, max_body=10) as server:
        origin = {"Origin": "https://pages.example"}
        for method, path, token, status in (
            ("GET", "/api", TOKEN, 200),
            ("GET", "/api", None, 403),
            ("GET", "/nothing", TOKEN, 404),
            ("PUT", "/api", TOKEN, 405),
            ("TRACE", "/api", TOKEN, 405),
            ("POST", "/api/kernels", TOKEN, 413),
            ("OPTIONS", "/api/kernels", None, 204),
            ("OPTIONS", "/api/kernels/x/restart", None, 204),
            ("OPTIONS", "/nothing", None, 204),
        ):
            body = b" " * 11 if status == 413 else None
            response = await server.fetch(method, path, body, origin, token=token)
            assert response.code == status, (method, path)
            sent = {
                name: value
                for name, value in response.headers.get_all()
                if name.startswith("Access-Control-")
            }
            assert sent == {
                "Access-Control-Allow-Origin": "https://pages.example",
                "Access-Control-Allow-Credentials": "true",
                "Access-Control-Allow-Headers": "Authorization, X-Mine",
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Expose-Headers": "X-Request-Id",
                "Access-Control-Max-Age": "600",
            }


@pytest.mark.gen_test
async def test_every_path_answers_options_without_a_token_and_tells_its_methods(tmp_path: Path):
    async with gateway(tmp_path, allow_path_token=True) as server:
        for path in (*paths(), f"/t/{TOKEN}/api/kernels/x/channels", "/nothing"):
            response = await server.fetch("OPTIONS", path, token=None)
            assert (response.code, response.body) == (204, b""), path
            assert "OPTIONS" in response.headers["Allow"]
            assert response.headers["Allow"] == (await server.fetch("TRACE", path)).headers["Allow"]
            foreign = await server.fetch("OPTIONS", path, headers={"Host": "evil.example"}, token=None)
            assert foreign.code == 403, path


@pytest.mark.gen_test
async def test_a_preflight_of_thebe_succeeds_without_a_token_by_the_defaults(tmp_path: Path):
    async with gateway(tmp_path, origins=PAGES) as server:
        asked = {
            "Origin": "https://pages.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        response = await server.fetch("OPTIONS", "/api/sessions", headers=asked, token=None)
        assert (response.code, response.body) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == "https://pages.example"
        allowed = response.headers["Access-Control-Allow-Headers"].lower()
        assert "authorization" in allowed
        assert "content-type" in allowed
        assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
        assert response.headers["Allow"] == "GET, HEAD, POST, OPTIONS"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("origins", "origin", "answered", "vary"),
    [
        (OriginPolicy(), FOREIGN, None, None),
        (OriginPolicy("*"), FOREIGN, "*", None),
        (PAGES, FOREIGN, "https://pages.example", None),
        (OriginPolicy("", r"https://.*\.example"), "https://a.example", "https://a.example", "Origin"),
        (OriginPolicy("", r"https://.*\.example"), "https://a.example.evil", None, "Origin"),
        (OriginPolicy("", r"https://.*\.example"), None, None, "Origin"),
    ],
)
async def test_origins_are_answered_by_the_configuration(
    tmp_path: Path, origins: OriginPolicy, origin: str | None, answered: str | None, vary: str | None
):
    async with gateway(tmp_path, origins=origins) as server:
        response = await server.fetch("GET", "/api", headers={"Origin": origin} if origin else {})
        assert response.code == 200
        assert response.headers.get("Access-Control-Allow-Origin") == answered
        assert response.headers.get("Vary") == vary
