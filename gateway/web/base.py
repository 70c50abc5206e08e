"""What every handler does alike: who may call, the headers of every answer, errors, and the log.

`BaseHandler` holds for REST and websockets. `ApiHandler` adds what REST needs: bodies with a bound, a
405 that knows what is allowed, HEAD, and preflights. A handler below it has methods `on_get`,
`on_post`, ... and nothing else of HTTP.

A refusal is answered only when the request's body has been taken (and dropped). To answer and close while
the client still sends makes its system discard the answer, and the user reads "connection reset" instead of
what was wrong. Bodies beyond `DRAIN_LIMIT` are worth no such courtesy.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, cast

from tornado.web import RequestHandler, stream_request_body

from ..auth import Identity
from ..errors import HttpError, answer_to, is_foreseen, quoted
from ..observability import bind, redact_uri
from .body import parse_object
from .sessions import Sessions
from .settings import WebSettings
from .starts import KernelStarts

LOG = logging.getLogger("gateway.web")
ACCESS_LOG = logging.getLogger("gateway.access")

#: Bytes of a refused body that are read and dropped before the answer.
DRAIN_LIMIT = 16 * 1024 * 1024

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Nothing that is served here is a page. A kernelspec's SVG logo, opened by itself, runs no script.
_CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


class BaseHandler(RequestHandler):
    """One request. `route` is the path's template, for the metrics; `identity` is set by `prepare`.

    Paths with `open_to_all` need no token.
    """

    open_to_all = False
    identity: Identity
    request_id = ""
    route = ""

    def initialize(self, route: str) -> None:
        self.route = route

    @property
    def web(self) -> WebSettings:
        """What the web layer was given."""
        return cast(WebSettings, self.settings["web"])

    def set_default_headers(self) -> None:
        # Called again when an error is answered: the id stays.
        self.request_id = self.request_id or secrets.token_hex(8)
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        self.clear_header("Server")
        for name, value in self.web.cors.headers(self.request.headers.get("Origin")).items():
            self.set_header(name, value)

    def prepare(self) -> Awaitable[None] | None:
        kernel_id = self.path_kwargs.get("kernel_id", "")
        # What is no id is the client's invention and has no place in every line of the log.
        bind(request_id=self.request_id, kernel_id=kernel_id if is_uuid(kernel_id) else "")
        self.web.proxies.apply(self.request)
        self.identity = self.admit()
        return None

    def admit(self) -> Identity:
        """Who calls, if that is asked. Raises `HttpError` 403 for a caller who may not."""
        # A preflight carries no credentials (the Fetch standard, 3.2.2), and tells nothing.
        if self.open_to_all or self.request.method == "OPTIONS":
            self.web.access.check_host(self.request)
            return Identity("")
        return self.identify()

    def identify(self) -> Identity:
        """Who calls. Raises as `admit`."""
        return self.web.access.admit(self.request)

    def answer_options(self) -> None:
        """Tell the methods of this path. Which pages may use them, the headers of every answer tell."""
        self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        answer = answer_to(error, self.request_id)
        if answer.status == 405:
            answer.headers["Allow"] = ", ".join(self.allowed_methods())
        self.set_status(answer.status)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"reason": answer.reason, "message": answer.message}))

    def allowed_methods(self) -> list[str]:
        """The methods that this path answers, for `Allow`."""
        return ["GET", "OPTIONS"]

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # Tornado's own version logs the whole URI, and with it a token.
        answer = answer_to(value, self.request_id)
        level = logging.ERROR if answer.status >= 500 else logging.INFO
        exc_info = None if typ is None or value is None or is_foreseen(value) else (typ, value, tb)
        LOG.log(
            level,
            "%s %s refused with %d: %s",
            self.request.method,
            quoted(redact_uri(self.request.path)),
            answer.status,
            answer.message,
            exc_info=exc_info,
        )


@stream_request_body
class ApiHandler(BaseHandler):
    """A path of the REST surface: `on_<method>` coroutines take the path's parameters by name.

    `on_get` answers HEAD, too.
    """

    _refusal: HttpError | None = None
    _body: bytearray
    _received = 0

    def prepare(self) -> None:
        self._body = bytearray()
        # The limit that counts is ours, with an answer that says so; tornado's would be a bare 400.
        self.request.connection.set_max_body_size(2**62)  # type: ignore[union-attr]
        try:
            super().prepare()
        except HttpError as refusal:
            self._refusal = refusal
        if _declared_length(self.request.headers.get("Content-Length", "")) > DRAIN_LIMIT:
            raise self._refusal or self._too_large()

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._refusal is None and self._received <= self.web.max_body:
            self._body += chunk
        elif self._received > DRAIN_LIMIT and not self._finished:
            error = self._refusal or self._too_large()
            self.log_exception(type(error), error, None)
            self.send_error(error.status, exc_info=(type(error), error, None))

    async def _dispatch(self, **path: str) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._received > self.web.max_body:
            raise self._too_large()
        if self.request.method == "OPTIONS":
            self.answer_options()
            return
        method = "get" if self.request.method == "HEAD" else str(self.request.method).lower()
        action = getattr(self, f"on_{method}", None)
        if action is None:
            allowed = ", ".join(self.allowed_methods())
            raise HttpError(405, f"{self.request.method} is not possible here. These are: {allowed}.")
        await action(**path)

    get = head = post = put = patch = delete = options = _dispatch

    def allowed_methods(self) -> list[str]:
        possible = {method for method in _METHODS if hasattr(self, f"on_{method.lower()}")} | {"OPTIONS"}
        if "GET" in possible:
            possible.add("HEAD")
        return [method for method in _METHODS if method in possible]

    @property
    def starts(self) -> KernelStarts:
        """Through which kernels are started."""
        return cast(KernelStarts, self.settings["starts"])

    @property
    def sessions(self) -> Sessions:
        """Which kernels belong to which notebooks."""
        return cast(Sessions, self.settings["sessions"])

    def json_body(self) -> dict[str, Any]:
        """The members of the JSON object in the body; raises `HttpError` 400."""
        return parse_object(bytes(self._body))

    def answer(self, value: object, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-cache")
        self.write(json.dumps(value))

    def url(self, *parts: str) -> str:
        """An absolute path below the base URL."""
        return self.web.base_url + "/".join(parts)

    def _too_large(self) -> HttpError:
        return HttpError(413, f"The body is larger than {self.web.max_body} bytes. Send a smaller one.")


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID as this gateway writes it, which is what its ids are."""
    return _UUID.fullmatch(text) is not None


def _declared_length(header: str) -> int:
    """Content-Length in bytes; 0 for one that is none, which tornado refuses by itself."""
    # Eighteen digits say enough, and int() refuses thousands of them.
    return int(header[:18]) if header.isascii() and header.isdigit() else 0


def log_request(handler: RequestHandler) -> None:
    """Tornado's `log_function`: the access log and the request metric, for every finished request."""
    if not isinstance(handler, BaseHandler):
        return
    request, status = handler.request, handler.get_status()
    seconds = request.request_time()
    method = request.method if request.method in _METHODS else "other"
    handler.web.metrics.request_seconds.labels(handler.route, method, str(status)).observe(seconds)
    path = redact_uri(request.uri or "")
    fields = {
        "method": method,
        "path": path,
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "remote": request.remote_ip,
        "user": getattr(handler, "identity", Identity("")).name,
    }
    # Probes and scrapes come every few seconds and would bury the rest.
    level = logging.DEBUG if handler.route in ("/healthz", "/readyz", "/metrics") else logging.INFO
    ACCESS_LOG.log(
        level,
        "%d %s %s %s %.1f ms %s",
        status,
        method,
        quoted(path, 2000),
        request.remote_ip,
        seconds * 1000,
        fields["user"] or "-",
        extra={"fields": fields},
    )
