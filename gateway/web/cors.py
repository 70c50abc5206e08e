"""The headers by which a browser lets pages of other origins read answers (the Fetch standard, 3.2).

The settings are those of Kernel and Enterprise Gateway, and go out with every answer, errors included: a
page could not read an error otherwise. Which origins may send at all, `gateway.auth.OriginPolicy` says.
"""

from __future__ import annotations

import dataclasses

from ..auth import OriginPolicy

#: What clients need where nothing is configured: @jupyterlab/services sends the first three.
_DEFAULT_HEADERS = "Authorization, Content-Type, X-XSRFToken"
_DEFAULT_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"


@dataclasses.dataclass(frozen=True, slots=True)
class CorsPolicy:
    """The six settings; `allow_headers`, `allow_methods` and `expose_headers` are header values.

    `max_age` is in seconds, None leaves it to the browser. With `allow_credentials`, browsers do not
    accept `*` as `allow_origin`.
    """

    origins: OriginPolicy
    allow_credentials: bool = False
    allow_headers: str = _DEFAULT_HEADERS
    allow_methods: str = _DEFAULT_METHODS
    expose_headers: str = ""
    max_age: int | None = None

    def headers(self, origin: str | None) -> dict[str, str]:
        """The headers of an answer to a request with this Origin; none where nothing is configured."""
        if self.origins.allow_origin:
            allowed: str | None = self.origins.allow_origin
            headers = {}
        elif self.origins.has_pattern:
            allowed = origin if origin is not None and self.origins.configured(origin) else None
            # A cache must not hand one origin's answer to another.
            headers = {"Vary": "Origin"}
        else:
            return {}
        if allowed is None:
            return headers
        headers["Access-Control-Allow-Origin"] = allowed
        headers["Access-Control-Allow-Headers"] = self.allow_headers
        headers["Access-Control-Allow-Methods"] = self.allow_methods
        if self.allow_credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        if self.expose_headers:
            headers["Access-Control-Expose-Headers"] = self.expose_headers
        if self.max_age is not None:
            headers["Access-Control-Max-Age"] = str(self.max_age)
        return headers
