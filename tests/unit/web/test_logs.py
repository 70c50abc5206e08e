"""The access log: what it says, that no token is ever in it, and that only listed proxies are believed."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from gateway.observability import PlainFormatter, configure_logging
from gateway.web.forwarded import TrustedProxies
from tests.unit.web.serving import TOKEN, gateway


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The whole process's log in JSON, at its most talkative, and without the help of known secrets."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(stream, logging.DEBUG, as_json=True)
    yield stream
    root.handlers[:], root.level = handlers, level


def access(log: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "gateway.access"]


@pytest.mark.gen_test
async def test_an_access_line_names_request_kernel_user_and_outcome(tmp_path: Path, log: io.StringIO):
    async with gateway(tmp_path) as server:
        model = await server.json("POST", "/api/kernels")
        assert access(log)[-1]["kernel"] == model["id"]
        response = await server.fetch("GET", f"/api/kernels/{model['id']}?1700000000")
        line = access(log)[-1]
        assert line["request"] == response.headers["X-Request-Id"]
        assert line["kernel"] == model["id"]
        assert (line["method"], line["status"], line["user"]) == ("GET", 200, "jupyter")
        assert line["path"] == f"/api/kernels/{model['id']}?1700000000"
        assert line["remote"] == "127.0.0.1"
        assert float(str(line["milliseconds"])) > 0


@pytest.mark.gen_test
async def test_no_token_is_ever_logged(tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    async with gateway(tmp_path, allow_path_token=True) as server:
        await server.fetch("GET", f"/api?token={TOKEN}")
        await server.fetch("GET", f"/nothing?a=b&token={TOKEN}&c=d")
        await server.fetch("GET", f"/t/{TOKEN}/nothing?token={TOKEN}")
        await server.fetch("POST", f"/api/kernels?token={TOKEN}", b"{")
        await server.fetch("EXPLODE", f"/api?token={TOKEN}")
        await server.fetch("GET", f"/api/kernels/%ff?token={TOKEN}")
        await server.raw(f"GET /api?token={TOKEN} HTTP/1.1\r\n\r\n".encode())
        await server.raw(f"GET /api?token={TOKEN} HTTP/9\r\nAuthorization: token {TOKEN}\r\n\r\n".encode())
        for prefix, query in ((f"/t/{TOKEN}", ""), ("", f"?token={TOKEN}")):
            url = server.url(f"{prefix}/api/kernels/x/channels{query}").replace("http", "ws", 1)
            with pytest.raises(HTTPClientError):
                await websocket_connect(HTTPRequest(url))
        monkeypatch.setattr(server.kernels, "list", lambda: 1 / 0)
        assert (await server.fetch("GET", f"/api/kernels?token={TOKEN}")).code == 500
        monkeypatch.undo()
    assert TOKEN not in log.getvalue()
    assert "ZeroDivisionError" in log.getvalue()
    assert "/nothing?a=b&token=[redacted]&c=d" in log.getvalue()


@pytest.mark.gen_test
async def test_no_token_gets_as_far_as_the_log_s_own_redaction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    async with gateway(tmp_path) as server:
        await server.fetch("GET", f"/t/{TOKEN}/nothing?token={TOKEN}")
        await server.fetch("POST", f"/api/kernels?token={TOKEN}", b"{")
    assert caplog.records
    assert TOKEN not in caplog.text


@pytest.mark.gen_test
async def test_a_token_with_a_quote_is_not_logged_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    token = "abc'the-tail"  # noqa: S105  # a test's
    async with gateway(tmp_path, token=token, allow_path_token=True) as server:
        assert (await server.fetch("GET", f"/api?token={token}", token=None)).code == 200
        assert (await server.fetch("GET", f"/nothing?token={token}", token=None)).code == 404
        assert (await server.fetch("GET", f"/t/{token}/api/kernels/x/channels", token=None)).code == 404
    assert "/api?token=[redacted]" in caplog.text
    assert "the-tail" not in caplog.text


@pytest.mark.gen_test
async def test_a_client_cannot_forge_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    caplog.handler.setFormatter(PlainFormatter())
    async with gateway(tmp_path) as server:
        await server.fetch("GET", "/api/kernels/a%0d%0a2026 INFO forged".replace(" ", "%20"))
        await server.fetch("POST", "/api/kernels", {"name": "a\n2026 INFO forged", "env": {"b\nc": "d"}})
        session = {"path": "a\nb", "type": "c\nd", "kernel": {"id": "a\n2026 INFO forged"}}
        await server.fetch("POST", "/api/sessions", session)
        await server.fetch("GET", "/api/kernels", headers={"Origin": "a\tb", "Host": "a\tb"})
    assert caplog.records
    assert len(caplog.text.splitlines()) == len(caplog.records)
    assert "forged" in caplog.text


@pytest.mark.gen_test
async def test_probes_and_scrapes_are_logged_only_for_those_who_debug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    async with gateway(tmp_path) as server:
        for path in ("/healthz", "/readyz", "/metrics"):
            await server.fetch("GET", path)
        assert [record for record in caplog.records if record.name == "gateway.access"] == []
        await server.fetch("GET", "/api")
        assert [record for record in caplog.records if record.name == "gateway.access"] != []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("listed", "headers", "remote"),
    [
        ((), {"X-Forwarded-For": "192.0.2.1"}, "127.0.0.1"),
        (("10.0.0.0/8",), {"X-Forwarded-For": "192.0.2.1"}, "127.0.0.1"),
        (("127.0.0.1",), {"X-Forwarded-For": "192.0.2.1"}, "192.0.2.1"),
        (("127.0.0.1",), {}, "127.0.0.1"),
        (("127.0.0.1",), {"X-Real-Ip": "192.0.2.1"}, "127.0.0.1"),
        (("127.0.0.1",), {"X-Forwarded-For": "192.0.2.66, 192.0.2.1"}, "192.0.2.1"),  # the first is a claim
        (("127.0.0.1", "10.0.0.0/8"), {"X-Forwarded-For": "192.0.2.1, 10.1.2.3"}, "192.0.2.1"),
        (("127.0.0.1",), {"X-Forwarded-For": "nonsense"}, "127.0.0.1"),
        (("127.0.0.1",), {"X-Forwarded-For": "192.0.2.1, nonsense"}, "127.0.0.1"),
        (("127.0.0.1",), {"X-Forwarded-For": "2001:db8::1"}, "2001:db8::1"),
    ],
)
async def test_only_listed_proxies_are_believed(
    tmp_path: Path, log: io.StringIO, listed: tuple[str, ...], headers: dict[str, str], remote: str
):
    async with gateway(tmp_path, proxies=TrustedProxies(listed)) as server:
        await server.fetch("GET", "/api", headers=headers)
    assert access(log)[-1]["remote"] == remote
