"""Everything a client can get wrong: its status, an error that says what to do, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.errors import TABLE, HttpError, answer_to
from gateway.kernels.errors import (
    BadKernelSpecError,
    DrainingError,
    KernelGoneError,
    KernelStateError,
    NoSuchKernelError,
    NoSuchKernelSpecError,
    TooManyKernelsError,
)
from gateway.web.base import DRAIN_LIMIT
from gateway.web.routes import PATH_TOKEN_ROUTE, ROUTES
from tests.unit.web.serving import TOKEN, Gateway, gateway

NOBODY = str(uuid.UUID(int=0))
MAX_BODY = 20_000


class Bad(NamedTuple):
    """One request, the status it gets, and what its message has to name."""

    name: str
    method: str
    path: str
    body: object
    status: int
    says: str
    headers: Mapping[str, str] = {}


NEW = "/api/kernels"
SESSIONS = "/api/sessions"
DEEP = b"[" * 100_000

BAD = [
    Bad("JSON that ends early", "POST", NEW, b'{"name": ', 400, "not JSON"),
    Bad("no JSON at all", "POST", NEW, b"name=python3", 400, "not JSON"),
    Bad("JSON in UTF-16", "POST", NEW, "{}".encode("utf-16"), 400, "not JSON"),
    Bad("bytes that are no text", "POST", NEW, b"\xff\xfe\x00", 400, "not JSON"),
    Bad("NaN, which is no JSON", "POST", NEW, b'{"env": NaN}', 400, "not JSON"),
    Bad("a number of 5,000 digits", "POST", NEW, b'{"name": ' + b"1" * 5000 + b"}", 400, "not JSON"),
    Bad("an array", "POST", NEW, [], 400, "an array"),
    Bad("null", "POST", NEW, b"null", 400, "null"),
    Bad("a string", "POST", NEW, "python3", 400, "a string"),
    Bad("a number", "POST", NEW, 7, 400, "a number"),
    Bad("a name that is a number", "POST", NEW, {"name": 3}, 400, "'name' is a number"),
    Bad("a name that is a boolean", "POST", NEW, {"name": False}, 400, "'name' is a boolean"),
    Bad("a name that is too long", "POST", NEW, {"name": "n" * 4097}, 400, "'name' has 4097"),
    Bad("a name with a NUL", "POST", NEW, {"name": "a\0b"}, 400, "'name' holds"),
    Bad("a name with half a surrogate", "POST", NEW, b'{"name": "\\ud800"}', 400, "'name' holds"),
    Bad("a name nobody has", "POST", NEW, {"name": "../python3"}, 404, "python3"),
    Bad("an env that is an array", "POST", NEW, {"env": ["A=1"]}, 400, "'env' is an array"),
    Bad("an env with a number", "POST", NEW, {"env": {"KERNEL_USERNAME": 1}}, 400, "NAME' is a number"),
    Bad("an env that is too long", "POST", NEW, {"env": {"KERNEL_USERNAME": "x" * 16385}}, 400, "has 16385"),
    Bad("an env with half a surrogate", "POST", NEW, {"env": {"KERNEL_USERNAME": "\ud800"}}, 400, "holds"),
    Bad("an env with null", "POST", NEW, {"env": {"KERNEL_USERNAME": None}}, 400, "is null"),
    Bad("an env with a NUL", "POST", NEW, {"env": {"KERNEL_USERNAME": "\0"}}, 400, "'KERNEL_USERNAME'"),
    Bad("a kernelspec that cannot be run", "POST", NEW, {"name": "broken"}, 500, "argv"),
    Bad("a body that is too large", "POST", NEW, b" " * (MAX_BODY + 1), 413, str(MAX_BODY)),
    Bad("an array that is too deep and too large", "POST", NEW, DEEP, 413, str(MAX_BODY)),
    Bad("an array that is too deep", "POST", NEW, DEEP[:9000], 400, "not JSON"),
    Bad("a session without a body", "POST", SESSIONS, None, 400, "'path' is missing"),
    Bad("a session without a path", "POST", SESSIONS, {"type": "notebook"}, 400, "'path' is missing"),
    Bad("a session without a type", "POST", SESSIONS, {"path": "a"}, 400, "'type' is missing"),
    Bad("a path that is a number", "POST", SESSIONS, {"path": 1, "type": "t"}, 400, "'path' is a number"),
    Bad(
        "a kernel that is a string",
        "POST",
        SESSIONS,
        {"path": "a", "type": "t", "kernel": "python3"},
        400,
        "'kernel' is a string",
    ),
    Bad(
        "a kernel that is not there",
        "POST",
        SESSIONS,
        {"path": "a", "type": "t", "kernel": {"id": NOBODY}},
        404,
        NOBODY,
    ),
    Bad(
        "a session of no kernelspec",
        "POST",
        SESSIONS,
        {"path": "a", "type": "t", "kernel": {"name": "julia"}},
        404,
        "python3",
    ),
    Bad("a session id nobody has", "GET", f"{SESSIONS}/{NOBODY}", None, 404, "GET /api/sessions"),
    Bad("a session id that is none", "PATCH", f"{SESSIONS}/x", {}, 404, "GET /api/sessions"),
    Bad("a session id to delete", "DELETE", f"{SESSIONS}/{NOBODY}", None, 404, "GET /api/sessions"),
    Bad("a kernel id nobody has", "GET", f"{NEW}/{NOBODY}", None, 404, "GET /api/kernels"),
    Bad("a kernel id that is none", "GET", f"{NEW}/7", None, 404, "not the id"),
    Bad("a kernel id with a line break", "DELETE", f"{NEW}/a%0ab", None, 404, "'a\\nb'"),
    Bad("a kernel id that is no UTF-8", "GET", f"{NEW}/%ff", None, 400, "UTF-8"),
    Bad("an interrupt of no kernel", "POST", f"{NEW}/{NOBODY}/interrupt", None, 404, "GET /api/kernels"),
    Bad("a restart of no kernel", "POST", f"{NEW}/{NOBODY}/restart", None, 404, "GET /api/kernels"),
    Bad("a websocket of no kernel", "GET", f"{NEW}/{NOBODY}/channels", None, 404, "GET /api/kernels"),
    Bad("a kernelspec nobody has", "GET", "/api/kernelspecs/julia", None, 404, "python3"),
    Bad("a kernelspec outside", "GET", "/api/kernelspecs/..%2f..%2fetc", None, 404, "python3"),
    Bad("permissions that are no JSON", "GET", "/api/me?permissions=x", None, 400, "permissions"),
    Bad("permissions that are a list", "GET", "/api/me?permissions=[]", None, 400, "permissions"),
    Bad("permissions that are strings", "GET", '/api/me?permissions={"a":"b"}', None, 400, "permissions"),
    Bad("a path that is not there", "GET", "/nothing", None, 404, "/api/spec.yaml"),
    Bad("the root", "GET", "/", None, 404, "/api/spec.yaml"),
    Bad("a path below one", "POST", f"{NEW}/{NOBODY}/explode", {}, 404, "/api/spec.yaml"),
    Bad("JupyterHub's API, which VS Code looks for", "GET", "/hub/api", None, 404, "/api/spec.yaml"),
    Bad("contents, which are elsewhere", "GET", "/api/contents", None, 404, "/api/spec.yaml"),
    Bad("a token in the path, which is off", "GET", f"/t/{TOKEN}/api/kernels", None, 404, "/api/spec.yaml"),
    Bad("PUT where there is none", "PUT", NEW, {}, 405, "GET, HEAD, POST, OPTIONS"),
    Bad("DELETE of all kernels", "DELETE", NEW, None, 405, "GET, HEAD, POST, OPTIONS"),
    Bad("GET of an interrupt", "GET", f"{NEW}/{NOBODY}/interrupt", None, 405, "POST, OPTIONS"),
    Bad("a method nobody knows", "TRACE", NEW, None, 405, "Allow"),
    Bad("a method somebody invented", "EXPLODE", NEW, None, 405, "Allow"),
]


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
async def test_a_bad_request_is_answered_with_its_status_and_what_to_do(tmp_path: Path, bad: Bad):
    async with gateway(tmp_path, max_body=MAX_BODY) as server:
        response = await server.fetch(bad.method, bad.path, bad.body, bad.headers)
        assert response.code == bad.status, response.body
        error = json.loads(response.body)
        assert set(error) == {"reason", "message"}
        assert error["reason"] == response.reason
        assert bad.says in error["message"]
        assert error["message"][-1] == "."
        assert response.headers["Content-Type"] == "application/json"
        assert "Traceback" not in error["message"]
        assert TOKEN not in error["message"]
        if bad.status == 405:
            assert "GET" in response.headers["Allow"] or "POST" in response.headers["Allow"]
        assert server.kernels.list() == []
        assert server.backend.made == []
        assert await server.json("GET", SESSIONS) == []
        assert await server.json("GET", "/api/kernels") == []  # and the gateway goes on


def test_the_two_tables_have_the_statuses_that_the_surface_has():
    assert {bad.status for bad in BAD} == {400, 404, 405, 413, 500}
    assert {row.status for row in TABLE.values()} == {404, 409, 429, 500, 503}


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (NoSuchKernelError(NOBODY), 404, False),
        (NoSuchKernelSpecError("julia", ["python3"]), 404, False),
        (KernelGoneError(NOBODY), 404, False),
        (KernelStateError("It is busy. Wait."), 409, False),
        (TooManyKernelsError(3), 429, True),
        (BadKernelSpecError("It has no argv."), 500, False),
        (DrainingError(), 503, True),
        (HttpError(418, "It is a teapot."), 418, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_type_has_its_status_and_keeps_its_sentence(error: Exception, status: int, retry: bool):
    answer = answer_to(error, "id")
    assert (answer.status, answer.message) == (status, str(error))
    assert ("Retry-After" in answer.headers) == retry


def test_every_error_type_of_the_kernel_layer_is_in_the_table():
    from gateway.kernels import errors

    types = {t for t in vars(errors).values() if isinstance(t, type) and issubclass(t, errors.KernelError)}
    assert types - {errors.KernelError} <= set(TABLE)


@pytest.mark.gen_test
async def test_max_kernels_is_429_also_for_requests_at_the_same_time(tmp_path: Path):
    async with gateway(tmp_path, max_kernels=2) as server:
        responses = await asyncio.gather(*(server.fetch("POST", NEW) for _ in range(8)))
        assert sorted(response.code for response in responses) == [201] * 2 + [429] * 6
        refused = next(response for response in responses if response.code == 429)
        assert refused.headers["Retry-After"].isdigit()
        assert "All 2 kernels" in json.loads(refused.body)["message"]
        assert len(server.backend.made) == 2


@pytest.mark.gen_test
async def test_a_gateway_that_drains_answers_503_with_retry_after_and_still_shows_its_kernels(tmp_path: Path):
    async with gateway(tmp_path) as server:
        model = await server.json("POST", NEW)
        await server.kernels.drain(0)
        for path, body in ((NEW, {}), (SESSIONS, {"path": "a", "type": "b"})):
            response = await server.fetch("POST", path, body)
            assert (response.code, json.loads(response.body)["reason"]) == (503, "Service Unavailable")
            assert response.headers["Retry-After"].isdigit()
        assert (await server.fetch("GET", "/readyz")).code == 503
        assert (await server.fetch("GET", "/healthz")).code == 200
        assert await server.json("GET", NEW) == [model]


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_interrupted_is_409(tmp_path: Path):
    async with gateway(tmp_path) as server:
        model = await server.json("POST", NEW)
        server.backend.refuse_interrupt = "it does not listen"
        response = await server.fetch("POST", f"{NEW}/{model['id']}/interrupt")
        assert response.code == 409
        assert "Restart it." in json.loads(response.body)["message"]


@pytest.mark.gen_test
async def test_what_nobody_foresaw_is_an_opaque_500_and_a_traceback_in_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async with gateway(tmp_path) as server:
        monkeypatch.setattr(server.kernels, "list", lambda: 1 / 0)
        response = await server.fetch("GET", NEW)
        monkeypatch.undo()
        error = json.loads(response.body)
        assert (response.code, error["reason"]) == (500, "Internal Server Error")
        assert "division" not in error["message"]
        assert response.headers["X-Request-Id"] in error["message"]
        assert "ZeroDivisionError" in caplog.text


POST = b"POST /api/kernels HTTP/1.1\r\nHost: localhost\r\n"
ASKED = POST + b"Authorization: token " + TOKEN.encode() + b"\r\n"
CHUNKED = ASKED + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(size: int) -> bytes:
    return b"%x\r\n" % size + b" " * size + b"\r\n"


RAW = {
    "a chunked body that is too large": (CHUNKED + chunk(MAX_BODY + 1) + b"0\r\n\r\n", 413),
    "a Content-Length beyond all numbers": (ASKED + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 413),
    "no Host, as HTTP/1.1 demands": (b"GET /api HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /api HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a Content-Length that is none": (POST + b"Content-Length: x\r\n\r\n", 400),
    "two lengths, to smuggle": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
}


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("name", RAW)
async def test_what_breaks_http_itself_is_refused_and_the_connection_closed(tmp_path: Path, name: str):
    request, status = RAW[name]
    async with gateway(tmp_path, max_body=MAX_BODY) as server:
        answer = await server.raw(request)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert TOKEN.encode() not in answer
        await nothing_left(server)


@pytest.mark.gen_test
async def test_an_expected_100_continue_is_not_given_for_a_body_that_is_far_too_large(tmp_path: Path):
    async with gateway(tmp_path, max_body=MAX_BODY) as server:
        answer = await server.raw(ASKED + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 "), answer
        assert f"The body is larger than {MAX_BODY} bytes. Send a smaller one.".encode() in answer
        await nothing_left(server)


@pytest.mark.gen_test
async def test_a_body_that_never_ends_leaves_nothing(tmp_path: Path):
    async with gateway(tmp_path) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(ASKED + b"Content-Length: 5\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await nothing_left(server)


@pytest.mark.gen_test(timeout=20)
async def test_a_chunked_body_without_end_has_its_connection_closed(tmp_path: Path):
    async with gateway(tmp_path, max_body=MAX_BODY) as server:
        assert await taken(server, CHUNKED) >= DRAIN_LIMIT - 1_000_000
        await nothing_left(server)


#: Bytes that are on their way between two sockets of one machine (tcp_wmem and tcp_rmem, 4 and 6 MiB).
ON_THEIR_WAY = 12 << 20


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("length", [b"Content-Length: 99000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [*ROUTES, PATH_TOKEN_ROUTE, "/nothing"])
async def test_no_path_keeps_the_body_of_someone_who_may_not_call(tmp_path: Path, path: str, length: bytes):
    named = path.replace("{", "").replace("}", "").encode()
    async with gateway(tmp_path, allow_path_token=True) as server:
        head = b"POST %s HTTP/1.1\r\nHost: evil.example\r\n%s\r\n\r\n" % (named, length)
        refused_at_once = b"Length" in length or path.endswith("/channels")
        assert await taken(server, head) <= ON_THEIR_WAY + (0 if refused_at_once else DRAIN_LIMIT)
        await nothing_left(server)


async def taken(server: Gateway, head: bytes) -> int:
    """How many bytes of a body the server takes before it closes the connection."""
    sent = 0
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    with contextlib.suppress(ConnectionError):
        while sent < 4 * DRAIN_LIMIT:
            writer.write(chunk(1_000_000))
            await writer.drain()
            sent += 1_000_000
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return sent


async def nothing_left(server: Gateway) -> None:
    assert await server.json("GET", NEW) == []
    assert server.backend.made == []
