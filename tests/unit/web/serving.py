"""The REST surface on a real server and the real registry, over relays that do as told (`ObedientBackend`).

No sandbox and no kernel process runs here: what is shown is HTTP. tests/integration/web has real ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.testing import bind_unused_port
from tornado.web import Application

from gateway.auth import AccessPolicy, Authenticator, HostPolicy, OriginPolicy
from gateway.backends.base import Sandbox, SandboxRequest
from gateway.kernels.registry import Kernels
from gateway.kernels.specs import KernelSpecs
from gateway.observability import Metrics
from gateway.web.cors import CorsPolicy
from gateway.web.routes import close_application, make_application, make_server
from gateway.web.settings import WebSettings
from gateway.wire.framing import Kind
from tests.support.backend_double import BackendDouble, SandboxDouble

TOKEN = "a-token-that-no-log-may-show"  # noqa: S105  # a test's
LOGO = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


class ObedientBackend(BackendDouble):
    """Its relays do what they are told. `hold` keeps starts from being answered until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = asyncio.Event()
        self.hold.set()
        self.starts: list[dict[str, Any]] = []
        self.refuse_start: str | None = None
        self.refuse_interrupt: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def create(self, request: SandboxRequest) -> Sandbox:
        sandbox = await super().create(request)
        assert isinstance(sandbox, SandboxDouble)
        task = asyncio.create_task(self._obey(sandbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return sandbox

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _obey(self, sandbox: SandboxDouble) -> None:
        relay = sandbox.relay
        while True:
            try:
                control = json.loads((await relay.hear(Kind.CONTROL, within=3600)).payload)
            except EOFError:
                return
            if control["op"] == "start":
                self.starts.append(control)
                await self.hold.wait()
            refusal = {"start": self.refuse_start, "interrupt": self.refuse_interrupt}.get(control["op"])
            relay.answer(control, refusal)
            if control["op"] == "shutdown":
                sandbox.ended.set_result("it was told to")
                return


@dataclasses.dataclass
class Gateway:
    """A served gateway and what a test looks at."""

    port: int
    base_url: str
    backend: ObedientBackend
    kernels: Kernels
    settings: WebSettings
    application: Application
    client: AsyncHTTPClient

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.base_url.rstrip('/')}{path}"

    async def fetch(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = TOKEN,
    ) -> HTTPResponse:
        """One request; `body` is sent as it is if it is bytes, else as JSON; None sends none."""
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"token {token}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = HTTPRequest(
            self.url(path),
            method=method,
            headers=sent,
            body=data,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=20,
        )
        return await self.client.fetch(request, raise_error=False)

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of an answer that has to be a success."""
        response = await self.fetch(method, path, body)
        assert response.code < 300, (response.code, response.body)
        return json.loads(response.body)

    async def raw(self, request: bytes) -> bytes:
        """What the server sends on one connection to these bytes, until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


def install_kernelspecs(folder: Path) -> KernelSpecs:
    """python3 with logos, one of another language, and one that cannot be run."""
    for name, language, argv in (
        ("python3", "python", ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]),
        ("ir", "R", ["R", "--args", "{connection_file}"]),
        ("broken", "none", []),
    ):
        spec = folder / name
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": name, "language": language})
        )
    (folder / "python3" / "logo-svg.svg").write_bytes(LOGO)
    (folder / "python3" / "logo-64x64.png").write_bytes(b"\x89PNG")
    (folder / "python3" / "kernel.js").write_text("define(() => {});")
    (folder / "python3" / "secret.txt").write_text("not a resource")
    manager = KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)
    return KernelSpecs(manager=manager)


@asynccontextmanager
async def gateway(
    folder: Path,
    *,
    token: str | None = TOKEN,
    origins: OriginPolicy | None = None,
    cors: CorsPolicy | None = None,
    bound: str = "127.0.0.1",
    allowed_hosts: tuple[str, ...] = (),
    allow_path_token: bool = False,
    max_kernels: int = 0,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """A gateway; at its end no kernel, sandbox or task of it may be left."""
    backend = ObedientBackend()
    kernels = Kernels(
        backend=backend,
        kernelspecs=install_kernelspecs(folder),
        max_kernels=max_kernels,
        shutdown_grace=0.1,
        start_timeout=5,
    )
    origins = origins or (cors.origins if cors else OriginPolicy())
    web = WebSettings(
        kernels=kernels,
        access=AccessPolicy(
            Authenticator(token, allow_path_token=allow_path_token), HostPolicy(bound, allowed_hosts), origins
        ),
        cors=cors or CorsPolicy(origins),
        metrics=Metrics(),
        **settings,
    )
    application = make_application(web)
    server = make_server(application)
    socket, port = bind_unused_port("127.0.0.1")
    server.add_sockets([socket])
    client = AsyncHTTPClient(force_instance=True, max_body_size=1 << 30)
    try:
        yield Gateway(port, web.base_url, backend, kernels, web, application, client)
    finally:
        client.close()
        backend.hold.set()
        server.stop()
        await server.close_all_connections()
        await kernels.close()
        await close_application(application)
        assert all(sandbox.destroyed for sandbox in backend.made)
        await backend.close()
