"""`jupyter gateway`: the traitlets application and the composition root.

Everything is made here and handed down; nothing below reads the environment or the command line. The
order of a start matters:

1. Make every part that can be configured: its settings are read then, and a wrong one ends the start.
2. Bind the ports, so that they are known to be free, and so that the backend's self-check has a listener of
   the gateway's own to reach.
3. Start the backend: it shows that its sandboxes are isolated, or the gateway does not start.
4. Serve, and only then say so.

The end is the same in reverse. SIGTERM and SIGINT drain: no new kernels, running cells get
`drain_grace` seconds, then everything is closed and the program exits 0. A second signal ends it at once;
sandboxes that cannot outlive their gateway end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import jupyter_data_dir
from tornado.web import Application
from traitlets import Bool, Float, Int, TraitError, Unicode, default, validate
from traitlets.config.application import catch_config_error

from . import __version__
from .app_announce import PLACE_OF_TOKEN, curl_line, has_display, jupyter_program, lab_lines
from .app_backends import Backends
from .app_limits import limit_lines
from .app_listen import StartError, bind, is_loopback, tls_context, url
from .app_options import StrictApp
from .app_token import VARIABLE, Token, find, hide_token, without_token
from .app_web import WebOptions
from .backends.base import Backend, BackendError
from .kernels.registry import Kernels
from .kernels.specs import KernelSpecs
from .observability import Metrics, configure_logging
from .web.routes import close_application, make_application, make_metrics_application, make_server

_ALIASES = {
    "ip": "JupyterGateway.ip",
    "port": "JupyterGateway.port",
    "port-retries": "JupyterGateway.port_retries",
    "base-url": "JupyterGateway.base_url",
    "token": "JupyterGateway.token",
    "token-file": "JupyterGateway.token_file",
    "backend": "JupyterGateway.backend",
    "certfile": "JupyterGateway.certfile",
    "keyfile": "JupyterGateway.keyfile",
    "client-ca": "JupyterGateway.client_ca",
    "trust-xheaders": "WebOptions.trusted_proxies",
    "ws-ping-interval": "WebOptions.ws_ping_interval",
}


class JupyterGateway(StrictApp):
    """The gateway. `jupyter gateway doctor` is the same program, looking instead of serving."""

    name = "jupyter-gateway"
    version = __version__
    description = "Serve Jupyter kernels that run in sandboxes without a network."
    examples = """
        jupyter gateway                              # on 127.0.0.1:8888, with a random token
        jupyter gateway --port=9000 --token-file=/etc/jupyter-gateway/token
        jupyter gateway doctor                       # can sandboxes be made here, and are they isolated?
    """
    config_file_name = Unicode("jupyter_gateway_config", config=True, help="Specify a config file to load.")

    aliases = {**StrictApp.aliases, **_ALIASES}
    flags = {
        **StrictApp.flags,
        "json-logs": ({"JupyterGateway": {"json_logs": True}}, "Log JSON objects, one a line."),
    }
    subcommands = {
        "doctor": ("gateway.app_doctor.Doctor", "Show whether sandboxes can be made here and are isolated."),
        "pod": ("gateway.app_pod.Pod", "Print the pod that a kernel gets on Kubernetes."),
    }

    ip = Unicode("127.0.0.1", config=True, help="The address to listen on; empty: every address.")
    port = Int(8888, min=0, max=65535, config=True, help="The port to listen on; 0: any free one.")
    port_retries = Int(50, config=True, help="How many ports after `port` are tried where it is in use.")
    base_url = Unicode("/", config=True, help="The path below which everything is served.")
    token = Unicode(
        None,
        allow_none=True,
        config=True,
        help=f"The token that clients send. Other users of this machine can read it in the process list: "
        f"better use a file or the environment variable {VARIABLE}. Without any of them it is "
        f"random, and printed; two of them are an error. Empty: no authentication, which is possible on "
        f"loopback only.",
    )
    token_file = Unicode("", config=True, help="The file that holds the token; empty: none.")
    certfile = Unicode("", config=True, help="The TLS certificate (PEM, with its chain); empty: no TLS.")
    keyfile = Unicode("", config=True, help="The certificate's private key; empty: it is in `certfile`.")
    client_ca = Unicode("", config=True, help="Clients must show a certificate that this CA has signed.")
    backend = Unicode("bubblewrap", config=True, help="What makes the sandboxes: the name of an entry point.")
    drain_grace = Float(
        30, config=True, help="Seconds that running cells get to end after SIGTERM or SIGINT."
    )
    json_logs = Bool(False, config=True, help="Log JSON objects, one a line, instead of plain lines.")
    lab_folder = Unicode(
        config=True, help="The scratch folder that the printed JupyterLab line opens; made where missing."
    )

    @default("lab_folder")
    def _default_lab_folder(self) -> str:
        # Not `self.data_dir`: to ask for it makes it, or raises where a service account may not.
        return str(Path(jupyter_data_dir(), "gateway", "scratch"))

    @validate("port_retries", "drain_grace")
    def _not_negative(self, proposal: Any) -> Any:
        if proposal["value"] < 0:
            raise TraitError(f"{proposal['trait'].name} must be at least 0, not {proposal['value']}")
        return proposal["value"]

    @validate("base_url")
    def _with_slashes(self, proposal: Any) -> str:
        inner = proposal["value"].strip("/")
        return f"/{inner}/" if inner else "/"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backends = Backends()
        parts = [WebOptions, Kernels, KernelSpecs, KernelSpecManager]
        self.classes = [type(self), *parts, *self.backends.classes()]
        self.log.addFilter(hide_token)

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the options. Raises SystemExit for one that is wrong."""
        super().initialize(sys.argv[1:] if argv is None else argv)

    def start(self) -> None:
        """Do what the command line asks; exits 1 with a sentence where that cannot be."""
        super().start()
        with self._exit_where_it_cannot_be():
            self.serve()

    def serve(self) -> None:
        """Serve until a signal. Raises `StartError`, `BackendError` or `TraitError` where that cannot be."""
        token = find(self.token, self.token_file, os.environ)
        self._refuse_to_be_open(token)
        context = tls_context(self.certfile, self.keyfile, self.client_ca)
        configure_logging(
            sys.stderr,
            cast(int, self.log_level),
            as_json=self.json_logs,
            secrets=[token.value] if token.value else [],
        )
        # traitlets gives its own logger a handler, a level and a format; everything is to go one way.
        self.log.handlers.clear()
        self.log.setLevel(logging.NOTSET)
        self.log.propagate = True
        kernels = Kernels(parent=self, backend=self.make_backend())
        kernels.kernelspecs.manager  # noqa: B018  # made now, so that its settings are read
        asyncio.run(self._serve(kernels, WebOptions(parent=self), token, context))

    def start_show_config(self) -> None:
        """Print what is configured, and how each limit of a sandbox is kept on this machine."""
        with self._exit_where_it_cannot_be():
            limits = limit_lines(self.make_backend().describe_limits())
            self.config = without_token(self.config)
            super().start_show_config()
            if not self.show_config_json:
                print("\n".join(limits))

    def make_backend(self) -> Backend:
        """The configured backend, not started. Raises `StartError`; `TraitError` for a wrong setting."""
        backend = self.backends.make(self.backend, self)
        backend.environment = os.environ
        # Without a file for its key, that is in the certificate's. Certificates by themselves are no secret.
        own = [*self.loaded_config_files, self.token_file, self.keyfile or self.certfile]
        own_paths = [str(Path(path).absolute()) for path in own if path]
        backend.hidden_paths = [*backend.hidden_paths, *own_paths]
        return backend

    @contextlib.contextmanager
    def _exit_where_it_cannot_be(self) -> Iterator[None]:
        try:
            yield
        except (StartError, BackendError, TraitError) as error:
            self.log.critical("%s", error)
            self.exit(1)

    async def _serve(
        self, kernels: Kernels, options: WebOptions, token: Token, context: ssl.SSLContext | None
    ) -> None:
        stop = _stop_on_signals(self.log)
        async with contextlib.AsyncExitStack() as stack:
            sockets = bind(self.ip, self.port, self.port_retries)
            stack.callback(_close, sockets)
            metrics_sockets = []
            if options.metrics_port:
                metrics_sockets = bind(options.metrics_ip, options.metrics_port, 0)
                stack.callback(_close, metrics_sockets)
            backend = kernels.backend
            backend.listeners = [bound.getsockname()[:2] for bound in sockets]
            stack.push_async_callback(backend.close)
            if not await _unless(stop, backend.start()):
                return
            for line in limit_lines(backend.describe_limits()):
                self.log.info(line)
            stack.push_async_callback(kernels.close)
            await kernels.start()
            settings = options.settings(kernels, Metrics(), token.value, self.ip, self.base_url)
            application = make_application(settings)
            application.settings["websocket_ping_interval"] = options.ws_ping_interval or None
            _serve_on(stack, application, sockets, context)
            if metrics_sockets:
                _serve_on(stack, make_metrics_application(settings), metrics_sockets, None)
            self._announce(url(sockets, context is not None, self.base_url), token)
            await stop.wait()
            self.log.warning(
                "stopping: no new kernels, and running cells get %g s; a second signal ends them now",
                self.drain_grace,
            )
            await kernels.drain(self.drain_grace)

    def _announce(self, where: str, token: Token) -> None:
        port = where.removesuffix(self.base_url).rpartition(":")[2]
        if self.port and port != str(self.port):
            print(f"Port {self.port} is in use; this is port {port}.")
        print(f"URL: {where}")
        if not token.value:
            print("There is no authentication: every program on this machine can use the gateway.")
        elif not token.chosen:
            print(f"Token: {token.value}")
        shown = PLACE_OF_TOKEN if token.chosen and token.value else token.value
        jupyter = jupyter_program()
        if jupyter is not None:
            folder, as_root = Path(self.lab_folder).absolute(), os.geteuid() == 0
            display = has_display(os.environ)
            print("\n".join(lab_lines(jupyter, where, shown, folder, as_root=as_root, display=display)))
        print("A kernel on it, by hand:")
        print(f"  {curl_line(where, shown)}", flush=True)

    def _refuse_to_be_open(self, token: Token) -> None:
        if not token.value and not self.client_ca and not is_loopback(self.ip):
            raise StartError(
                f"Without a token, anyone who can reach {self.ip or 'this machine'} could run code here. "
                f"Set a token (--token-file, or {VARIABLE}), or listen on --ip=127.0.0.1."
            )


def _stop_on_signals(log: logging.Logger) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("a second signal: ending now")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _serve_on(
    stack: contextlib.AsyncExitStack,
    application: Application,
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext | None,
) -> None:
    """Serve until the stack unwinds."""
    server = make_server(application, context)
    server.add_sockets(sockets)
    stack.push_async_callback(close_application, application)
    stack.push_async_callback(server.close_all_connections)
    stack.callback(server.stop)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`, or cancel it when `stop` is set; whether it has ended by itself."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.wait({working, stopping})
    if working.cancelled():
        return False
    working.result()
    return True


def _close(sockets: Sequence[socket.socket]) -> None:
    for bound in sockets:
        bound.close()


main = JupyterGateway.launch_instance
