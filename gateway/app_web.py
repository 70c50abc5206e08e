"""What the web layer may be told: who is let in, what pages may do, and its bounds."""

from __future__ import annotations

import re
from typing import Any

from traitlets import Bool, Float, Int, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from .auth import AccessPolicy, Authenticator, HostPolicy, OriginPolicy
from .kernels.registry import Kernels
from .observability import Metrics
from .web.cors import CorsPolicy
from .web.forwarded import TrustedProxies
from .web.settings import DEFAULT_ALLOWED_ENV, WebSettings

#: The defaults of what is configurable here are the web layer's own.
_CORS = CorsPolicy(OriginPolicy())


class WebOptions(LoggingConfigurable):
    """The options of the REST surface and the websockets."""

    allow_origin = Unicode("", config=True, help="The web origin whose pages may use the gateway; * for all.")
    allow_origin_pat = Unicode("", config=True, help="A regular expression for whole origins that may.")
    allow_credentials = Bool(False, config=True, help="Send Access-Control-Allow-Credentials.")
    allow_headers = Unicode(
        _CORS.allow_headers, config=True, help="The value of Access-Control-Allow-Headers."
    )
    allow_methods = Unicode(
        _CORS.allow_methods, config=True, help="The value of Access-Control-Allow-Methods."
    )
    expose_headers = Unicode("", config=True, help="The value of Access-Control-Expose-Headers.")
    max_age = Int(
        None, allow_none=True, config=True, help="Seconds that browsers may keep the answer to a preflight."
    )
    allowed_hosts = List(
        Unicode(),
        config=True,
        help="Names, without port, by which clients reach the gateway beside its address and localhost.",
    )
    allow_path_token = Bool(
        False,
        config=True,
        help="Let websockets carry the token in their path, /t/<token>/...: for nbclient and papermill, "
        "whose gateway client sends it nowhere else. URLs end up in the logs of proxies.",
    )
    allowed_env = List(
        Unicode(),
        sorted(DEFAULT_ALLOWED_ENV),
        config=True,
        help="Names of environment variables that a request may pass to its kernel.",
    )
    trusted_proxies = List(
        Unicode(),
        config=True,
        help="Addresses and networks of proxies whose X-Forwarded-For and -Proto are believed; none by "
        "default. May be given several times.",
    )
    ws_ping_interval = Float(
        30, config=True, help="Seconds between two pings on a websocket; 0: none, and half-open ones stay."
    )
    metrics_ip = Unicode("127.0.0.1", config=True, help="The address of an open /metrics of its own.")
    metrics_port = Int(
        0, min=0, max=65535, config=True, help="The port of it; 0: /metrics is served with the token only."
    )
    max_body_size = Int(1024 * 1024, config=True, help="Bytes of the largest request body.")
    start_wait = Float(
        10, config=True, help="Seconds after which a start is answered although the kernel is not ready yet."
    )

    @validate("allow_origin_pat")
    def _is_pattern(self, proposal: Any) -> str:
        try:
            re.compile(proposal["value"])
        except re.error as error:
            raise TraitError(f"allow_origin_pat is no regular expression: {error}") from error
        return str(proposal["value"])

    @validate("trusted_proxies")
    def _are_networks(self, proposal: Any) -> list[str]:
        try:
            TrustedProxies(proposal["value"])
        except ValueError as error:
            raise TraitError(f"trusted_proxies takes addresses and networks: {error}") from error
        return list(proposal["value"])

    @validate("ws_ping_interval", "start_wait", "max_body_size")
    def _not_negative(self, proposal: Any) -> Any:
        if proposal["value"] < 0:
            raise TraitError(f"{proposal['trait'].name} must be at least 0, not {proposal['value']}")
        return proposal["value"]

    def settings(
        self, kernels: Kernels, metrics: Metrics, token: str, bound: str, base_url: str
    ) -> WebSettings:
        """What `make_application` takes; `bound` is the address that the gateway listens on."""
        origins = OriginPolicy(self.allow_origin, self.allow_origin_pat)
        authenticator = Authenticator(token or None, allow_path_token=self.allow_path_token)
        return WebSettings(
            kernels=kernels,
            access=AccessPolicy(authenticator, HostPolicy(bound, self.allowed_hosts), origins),
            cors=CorsPolicy(
                origins,
                allow_credentials=self.allow_credentials,
                allow_headers=self.allow_headers,
                allow_methods=self.allow_methods,
                expose_headers=self.expose_headers,
                max_age=self.max_age,
            ),
            metrics=metrics,
            base_url=base_url,
            allowed_env=frozenset(self.allowed_env),
            proxies=TrustedProxies(self.trusted_proxies),
            max_body=self.max_body_size,
            start_wait=self.start_wait,
        )
