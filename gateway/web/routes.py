"""Every path of the gateway, in one table, and the Tornado application made of it.

Templates are those of the OpenAPI document; a parameter matches one segment of a path.
"""

from __future__ import annotations

import dataclasses
import re
import ssl

from tornado.httpserver import HTTPServer
from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler

from ..auth import HostPolicy
from ..errors import HttpError
from .api import IdentityHandler, SpecHandler, StatusHandler, VersionHandler
from .base import ApiHandler, log_request
from .channels import ChannelsHandler
from .environment import EnvironmentFilter
from .health import HealthHandler, MetricsHandler, OpenMetricsHandler, ReadyHandler
from .kernels import InterruptHandler, KernelHandler, KernelsHandler, RestartHandler
from .kernelspecs import KernelSpecHandler, KernelSpecsHandler, ResourceHandler
from .session_handlers import SessionHandler, SessionsHandler
from .sessions import Sessions
from .settings import WebSettings
from .starts import KernelStarts

#: Path template below the base URL -> handler.
ROUTES: dict[str, type[RequestHandler]] = {
    "/api": VersionHandler,
    "/api/status": StatusHandler,
    "/api/me": IdentityHandler,
    "/api/spec.yaml": SpecHandler,
    "/api/kernelspecs": KernelSpecsHandler,
    "/api/kernelspecs/{name}": KernelSpecHandler,
    "/kernelspecs/{name}/{resource}": ResourceHandler,
    "/api/kernels": KernelsHandler,
    "/api/kernels/{kernel_id}": KernelHandler,
    "/api/kernels/{kernel_id}/interrupt": InterruptHandler,
    "/api/kernels/{kernel_id}/restart": RestartHandler,
    "/api/kernels/{kernel_id}/channels": ChannelsHandler,
    "/api/sessions": SessionsHandler,
    "/api/sessions/{session_id}": SessionHandler,
    "/healthz": HealthHandler,
    "/readyz": ReadyHandler,
    "/metrics": MetricsHandler,
}

#: For clients whose websocket can carry a credential in its path only; see `gateway.auth`.
PATH_TOKEN_ROUTE = "/t/{path_token}/api/kernels/{kernel_id}/channels"  # noqa: S105  # a template

#: Seconds that a client may take to send a body.
BODY_TIMEOUT = 60
#: Seconds without a request after which a connection is closed.
IDLE_TIMEOUT = 3600
#: Bytes of a request's first line and headers.
MAX_HEADER = 64 * 1024
#: Bytes of a body that tornado keeps for a handler which does not take it in pieces, the websocket's, before
#: that is asked who may call. `ApiHandler` is asked first, and sets a bound of its own.
MAX_UNASKED_BODY = 64 * 1024


class NotFoundHandler(ApiHandler):
    """Any path that is not in the table, whatever the method; needs no token, as it tells nothing."""

    open_to_all = True

    async def on_get(self) -> None:
        raise HttpError(404, f"There is nothing at this path. GET {self.url('api', 'spec.yaml')} lists all.")

    on_post = on_put = on_patch = on_delete = on_get


def make_application(settings: WebSettings) -> Application:
    """The gateway's web application. Give it back with `close_application`."""
    routes = dict(ROUTES)
    if settings.access.authenticator.allow_path_token:
        routes[PATH_TOKEN_ROUTE] = ChannelsHandler
    settings.metrics.watch_kernels(
        lambda: (kernel.execution_state for kernel in settings.kernels.list()),
    )
    return _application(settings, routes)


def make_metrics_application(settings: WebSettings) -> Application:
    """An application with nothing but an open `/metrics`, for an address of its own.

    Scrapers reach it by whatever address that is; names are those allowed for the gateway.
    """
    hosts = HostPolicy("", settings.access.hosts.allowed_hosts)
    access = dataclasses.replace(settings.access, hosts=hosts)
    return _application(dataclasses.replace(settings, access=access), {"/metrics": OpenMetricsHandler})


async def close_application(application: Application) -> None:
    """End what the application has under way. The kernels are the registry's to end."""
    await application.settings["starts"].close()


def make_server(application: Application, ssl_options: ssl.SSLContext | None = None) -> HTTPServer:
    """A server for the application, with the bounds that it relies on. The caller binds it."""
    return HTTPServer(
        application,
        ssl_options=ssl_options,
        max_header_size=MAX_HEADER,
        max_body_size=MAX_UNASKED_BODY,
        body_timeout=BODY_TIMEOUT,
        idle_connection_timeout=IDLE_TIMEOUT,
    )


def _application(settings: WebSettings, routes: dict[str, type[RequestHandler]]) -> Application:
    environment = EnvironmentFilter(settings.allowed_env, settings.metrics.dropped_env_names)
    return Application(
        [
            URLSpec(_pattern(settings.base_url, template), handler, {"route": template})
            for template, handler in routes.items()
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args={"route": "other"},
        log_function=log_request,
        web=settings,
        sessions=Sessions(settings.kernels),
        starts=KernelStarts(
            settings.kernels, environment, settings.metrics, settings.start_wait, settings.monotonic
        ),
        started=settings.now(),
    )


def _pattern(base_url: str, template: str) -> str:
    """The regular expression of a template; a slash at its end changes nothing."""
    escaped = re.escape(base_url + template.removeprefix("/"))
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", escaped) + "/?"
