"""A stand-in for the API server: it answers what a test says, and shows nothing of a real one's judgement.

For what a real one cannot be made to do at will: forget a version, answer 429, break a watch, hang up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

Object = dict[str, Any]
#: Status, body and headers.
Answer = tuple[int, Object, dict[str, str]]


class ApiServer:
    """`answer(request)` is the answer to a request that is no watch."""

    def __init__(self) -> None:
        self.requests: list[HTTPServerRequest] = []
        self.answer: Callable[[HTTPServerRequest], Answer] = lambda _: (200, {}, {})
        #: What watches are told; None ends one of them.
        self.events: asyncio.Queue[Object | None] = asyncio.Queue()
        self.watches = 0

    def kubeconfig(self, folder: Path, port: int, token: str = "secret") -> str:  # noqa: S107
        """A file that leads here."""
        path = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{port}"}
        path.write_text(
            json.dumps(
                {
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return str(path)


class _Handler(RequestHandler):
    def initialize(self, server: ApiServer) -> None:
        self.server = server

    async def prepare(self) -> None:
        self.server.requests.append(self.request)
        if self.get_query_argument("watch", ""):
            self.server.watches += 1
            self.set_header("Content-Type", "application/json")
            with contextlib.suppress(Exception):  # the client may have gone
                await self.flush()
                while (event := await self.server.events.get()) is not None:
                    self.write(json.dumps(event) + "\n")
                    await self.flush()
            self.finish()
            return
        status, body, headers = self.server.answer(self.request)
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish(json.dumps(body))


@contextlib.asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[tuple[ApiServer, str]]:
    """One that listens, and its kubeconfig."""
    made = ApiServer()
    sock, port = bind_unused_port()
    server = HTTPServer(Application([(".*", _Handler, {"server": made})]))
    server.add_socket(sock)
    try:
        yield made, made.kubeconfig(folder, port)
    finally:
        for _ in range(made.watches + 1):
            made.events.put_nowait(None)
        server.stop()
        await server.close_all_connections()


def refusal(code: int, reason: str, message: str) -> Answer:
    """What a real server answers then (the API's Status)."""
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}, {}


def configure(kubeconfig: str, **members: Any) -> None:
    """Change what a kubeconfig says: another `user`, and more members of the `cluster`."""
    path = Path(kubeconfig)
    config = json.loads(path.read_text())
    config["users"][0]["user"] = members.get("user", config["users"][0]["user"])
    config["clusters"][0]["cluster"] |= members.get("cluster", {})
    path.write_text(json.dumps(config))


def pod(name: str, version: int = 1, **labels: str) -> Object:
    """As much of one as is looked at."""
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels}, "status": {}}


def pods(*items: Object, version: int = 1, more: str = "") -> Object:
    """A list of them."""
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return {"metadata": metadata, "items": list(items)}
