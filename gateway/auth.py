"""Who is calling, from where, and what they own.

Three questions are put to a request before anything else happens, in this order:

1. *Host*: is it addressed to a name that is ours? A page of another site whose name was made to
   resolve to this machine (DNS rebinding) is the same origin to the browser; only the Host header
   gives it away. Asked of every request.
2. *Origin*: was it sent by a page of a site that may? Asked of every websocket and unsafe method,
   also where authentication is off: whoever can make a user's browser send a request could
   start kernels otherwise. Programs send no Origin, and pass.
3. *Identity*: does it carry a token that is known? Refusals are 403, as jupyter_server's are.

`AccessPolicy` asks all three; a handler calls nothing else. Credentials are `Authorization: token X`,
`Authorization: Bearer X`, `?token=X`, and, for websockets only and where switched on, the path prefix `/t/X/`
(a client that can set no header may still be given a URL). Any of them suffices: proxies
put a credential of their own into Authorization, and clients then use the query.

Comparisons take the same time wherever two tokens differ, and no token is ever part of a message.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from .errors import HttpError, quoted

#: Methods that change nothing (RFC 9110, 9.2.1); a foreign page may send them, and can read no answer.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: The scheme is matched without case, as RFC 9110 has it. The literal `token ` that jupyter_server sends
#: when it has no token carries nothing and does not match.
_AUTHORIZATION = re.compile(r"(?:token|bearer)[ \t]+(\S+)[ \t]*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A caller who was recognised. `name` is what kernels carry as their owner."""

    name: str

    def owns(self, owner: str) -> bool:
        """Whether what belongs to `owner` is this caller's.

        To anyone else it is as if it did not exist: handlers answer 404, never 403.
        """
        return self.name == owner


class Authenticator:
    """Recognises callers by the gateway's one token; everyone who has it is the same `Identity`.

    `token` None switches authentication off: every caller is that identity (the application allows
    that on loopback only). `allow_path_token` lets websockets carry the token as a path prefix.
    """

    def __init__(self, token: str | None, user: str = "jupyter", *, allow_path_token: bool = False) -> None:
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ValueError("a token consists of one or more printable ASCII characters without spaces")
        self._digest = None if token is None else _digest(token.encode("ascii"))
        self._identity = Identity(user)
        self.allow_path_token = allow_path_token

    @property
    def enabled(self) -> bool:
        """Whether callers have to show a token."""
        return self._digest is not None

    def identify(self, request: HTTPServerRequest, path_token: str | None = None) -> Identity | None:
        """The caller, or None where no valid token was shown."""
        if self._digest is None:
            return self._identity
        offered = list(_credentials(request))
        if path_token is not None and self.allow_path_token:
            offered.append(path_token.encode("utf-8", "replace"))
        # Every offer is compared, so that the time taken does not tell which one was right.
        matches = [hmac.compare_digest(_digest(offer), self._digest) for offer in offered]
        return self._identity if any(matches) else None


def has_credentials(request: HTTPServerRequest) -> bool:
    """Whether the request carries any token at all, be it right or wrong."""
    return next(_credentials(request), None) is not None


def _credentials(request: HTTPServerRequest) -> Iterator[bytes]:
    header = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    if header:
        yield header[1].encode("utf-8", "replace")
    # One is what clients send; a thousand would be a thousand guesses for the price of one request.
    yield from request.query_arguments.get("token", [])[:1]


def _digest(token: bytes) -> bytes:
    # Digests have one length, so that not even the length of the token can be measured.
    return hashlib.sha256(token).digest()


class HostPolicy:
    """Which Host headers are ours.

    Loopback names always are, and the address that is bound. Where that is every address (`0.0.0.0`,
    `::`), any literal address is: rebinding needs a name. Other names are in `allowed_hosts`, without port.
    """

    def __init__(self, bound: str, allowed_hosts: Iterable[str] = ()) -> None:
        self.allowed_hosts = tuple(allowed_hosts)
        names = (bound, *self.allowed_hosts)
        self._names = {"localhost", *(name.strip("[]").lower() for name in names if name)}
        self._address = _address(bound)
        self._any_address = bound == "" or (self._address is not None and self._address.is_unspecified)

    def allows(self, host: str) -> bool:
        """Whether `host`, a Host header's value with or without port, is ours."""
        name = _host_name(host)
        if name is None:
            return False
        address = _address(name)
        if address is not None and (address.is_loopback or self._any_address or address == self._address):
            return True
        return name in self._names


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _host_name(host: str) -> str | None:
    """The name or address in a Host header (RFC 9110, 7.2), in lower case; None if it is malformed."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d*)?", host)
    if match is None:
        return None
    return (match[1] or match[2]).rstrip(".").lower() or None


class OriginPolicy:
    """Which web pages may use the gateway: those of its own origin, and those configured.

    `allow_origin` is one origin or `*`; `allow_origin_pat` is a regular expression that must match a
    whole origin. Both as in jupyter_server's configuration.
    """

    def __init__(self, allow_origin: str = "", allow_origin_pat: str = "") -> None:
        self.allow_origin = allow_origin
        self._pattern = re.compile(allow_origin_pat) if allow_origin_pat else None

    @property
    def has_pattern(self) -> bool:
        """Whether the answer to one origin differs from that to another."""
        return self._pattern is not None and not self.allow_origin

    def configured(self, origin: str) -> bool:
        """Whether the configuration lets pages of `origin` in."""
        if self.allow_origin:
            return self.allow_origin in ("*", origin)
        return self._pattern is not None and self._pattern.fullmatch(origin) is not None

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a request with these Origin and Host headers may come in.

        Scheme and Host cannot both differ behind one port, so the host decides, as in tornado. The
        `null` of a sandboxed page is foreign.
        """
        if origin is None:
            return True
        try:
            own = urlsplit(origin).netloc.lower() == host.lower() != ""
        except ValueError:
            own = False
        return own or self.configured(origin)


@dataclasses.dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The three questions of this module's docstring, in order."""

    authenticator: Authenticator
    hosts: HostPolicy
    origins: OriginPolicy

    def admit(self, request: HTTPServerRequest) -> Identity:
        """Who sends this request to the REST surface. Raises `HttpError` 403 if it may not."""
        self.check_host(request)
        if request.method not in SAFE_METHODS:
            self._check_origin(request)
        identity = self.authenticator.identify(request)
        if identity is None:
            raise HttpError(
                403, f"{_token_trouble(request)} Send the gateway's token as 'Authorization: token <token>'."
            )
        return identity

    def admit_websocket(self, request: HTTPServerRequest, path_token: str | None = None) -> Identity:
        """Who opens this websocket. Raises `HttpError` 403 if they may not.

        Call it before the handshake is answered (in `prepare`). `path_token` is what the route
        `/t/<path_token>/...` matched; that route exists only where `Authenticator.allow_path_token` is
        set. Browsers let a page open a websocket to any site, so Origin is checked here whatever the
        authentication.
        """
        self.check_host(request)
        self._check_origin(request)
        identity = self.authenticator.identify(request, path_token)
        if identity is None:
            hint = "Send it in the Authorization header or as '?token=<token>'."
            if path_token is None and not has_credentials(request):
                # jupyter_server's GatewayKernelClient (nbclient, papermill) builds its URL from ws_url
                # alone and sends no header with it.
                hint += (
                    " A client that can send neither (nbclient and papermill through a gateway) needs"
                    " allow_path_token=True here and ws_url=ws://<host>/t/<token> there."
                )
            raise HttpError(403, f"{_token_trouble(request, path_token)} {hint}")
        return identity

    def check_host(self, request: HTTPServerRequest) -> None:
        """Raises `HttpError` 403 for a request that is addressed to a name which is not ours."""
        if not self.hosts.allows(request.host):
            raise HttpError(
                403,
                f"This gateway does not answer to the Host {quoted(request.host)}. "
                "Use its own address, or have the name added to allowed_hosts.",
            )

    def _check_origin(self, request: HTTPServerRequest) -> None:
        origin = request.headers.get("Origin")
        if not self.origins.allows(origin, request.host):
            raise HttpError(
                403,
                f"Pages of {quoted(origin)} may not use this gateway. "
                "Have that origin set as allow_origin, or matched by allow_origin_pat.",
            )


def _token_trouble(request: HTTPServerRequest, path_token: str | None = None) -> str:
    if path_token is not None or has_credentials(request):
        return "The token is not valid."
    return "A token is needed and none was sent."
